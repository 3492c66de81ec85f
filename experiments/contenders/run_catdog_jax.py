"""The benchmark's workloads in catdog_jax, written as a user of the package would."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import worker
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import PyTree
from worker import Result, Spec

from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.runs.build import device, load_splits, training_of
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.initial import initial_model
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.runner import run
from catdog_jax.training.augment import combined, random_flip, random_rotation
from catdog_jax.training.loop import fit
from catdog_jax.training.memory import settle_memory
from catdog_jax.training.mesh import data_mesh, jit, replicate, set_up_jax, shard
from catdog_jax.training.state import create_state
from catdog_jax.training.step import Task, jit_step


def epoch(spec: Spec) -> Result:
    """Train from a folder of photos, which are decoded first."""
    stamps = [time.perf_counter()]

    def log(line: str) -> None:
        if line.startswith("epoch"):
            stamps.append(time.perf_counter())

    set_up_jax()
    experiment = _experiment(spec)
    splits = load_splits(experiment)
    decoding = worker.peak_with_child_mib()  # a child process reads TFDS
    finished = run(experiment, Path(spec.scratch) / "run", splits=splits, log=log)
    peak = worker.peak_mib()
    return {
        **worker.time_epochs(stamps),
        "loss": finished.history[-1]["loss"],
        "device": _device(spec),
        "peak_mib": None if peak is None or decoding is None else max(peak, decoding),
    }


def memory(spec: Spec) -> Result:
    """Train with `fit` on arrays in host memory."""
    set_up_jax()
    experiment = _experiment(spec)
    train, validation = worker.load_arrays(spec.arrays)
    model = initial_model(experiment, 2)
    options = training_of(experiment, model, 2, -(-len(train[1]) // spec.batch_size))
    stamps, loss = [time.perf_counter()], 0.0
    for record in fit(model, train, validation, **options):
        stamps.append(time.perf_counter())
        loss = record.loss
        print(record)
    return {**worker.time_epochs(stamps), "loss": loss, "device": _device(spec)}


def step(spec: Spec) -> Result:
    """One step of `fit`, on a batch in host memory."""
    set_up_jax()
    experiment = _experiment(spec)
    model = initial_model(experiment, 2)
    options = training_of(experiment, model, 2, 1)
    optimizer, mesh = options["optimizer"](1), data_mesh(spec.batch_size)
    graphdef, state = create_state(
        model, optimizer, trainable=options["trainable"], seed=experiment.seed
    )
    task = Task(
        graphdef,
        optimizer,
        options["loss"],
        combined(options["augment"]),
        class_weights=None,
        ema=None,
        threshold=experiment.threshold,
        dtype=experiment.dtype,
    )
    state, program = replicate(state, mesh), jit_step(task, mesh)
    batch = dict(np.load(spec.batch))
    batch["mask"] = np.ones(len(batch["label"]), np.bool_)

    def take_step() -> None:
        nonlocal state
        state, sums = program(state, shard(batch, mesh))
        jax.block_until_ready((state, sums))

    with jax.set_mesh(mesh):
        result = worker.time_calls(take_step, spec.repeats, after_first=settle_memory)
    return {**result, "device": _device(spec)}


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode."""
    set_up_jax()
    graphdef, state = nnx.split(MobileNetV2(rngs=nnx.Rngs(0)))
    worker.check_parameters("mobilenet", sum(leaf.size for leaf in jax.tree.leaves(state)))

    def apply(state: PyTree, images: PyTree) -> Any:
        model: Any = nnx.merge(graphdef, state)
        return model(images)

    mesh = data_mesh(spec.batch_size)
    images, state = shard(_float_images(spec) / 127.5 - 1, mesh), replicate(state, mesh)
    call = partial(_call_and_wait, mesh, jit()(apply), state, images)
    return {**worker.time_calls(call, spec.repeats), "device": _device(spec)}


def augment(spec: Spec) -> Result:
    """Flips and rotations of a batch, with one key per image, as in a training step."""
    set_up_jax()
    flip_and_rotate = combined([random_flip, random_rotation()])

    @jit()
    def augmented(key: PyTree, images: PyTree) -> Any:
        return flip_and_rotate(key, images, jnp.zeros(len(images), int))[0]

    mesh = data_mesh(spec.batch_size)
    images, key = shard(_float_images(spec), mesh), replicate(jax.random.key(0), mesh)
    result = worker.time_calls(partial(_call_and_wait, mesh, augmented, key, images), spec.repeats)
    with jax.set_mesh(mesh):
        worker.check_changed(bool(jnp.any(augmented(key, images) != images)))
    return {**result, "device": _device(spec)}


def _experiment(spec: Spec) -> Experiment:
    if spec.model in worker.FINE_TUNED:
        stages = worker.FINE_TUNED[spec.model]
        recipe = Experiment("model5", trainable=f"last={stages}", learning_rate=1e-4)
    elif spec.model == "model6":
        # Without its augmentation, which Keras and PyTorch lack.
        recipe = Experiment("model6", (f"stride={worker.MODEL6_STRIDE}",))
    else:
        recipe = RECIPES[spec.model]
    return replace(
        recipe,
        data=spec.photos,
        weights="none" if spec.model in ("model1", "model2", "model3", "model6") else spec.weights,
        image_size=spec.image_size,
        sizes=(*spec.counts, 0),  # all validation photos, like Keras; none for testing
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        stop_when_dead=False,
        dtype="bfloat16" if spec.precision == "bfloat16" else "float32",
        seed=spec.seed,
    )


def _float_images(spec: Spec) -> np.ndarray:
    return np.load(spec.batch)["image"].astype(np.float32)


def _call_and_wait(mesh: Mesh, function: Any, *arguments: Any) -> None:
    with jax.set_mesh(mesh):
        jax.block_until_ready(function(*arguments))


def _device(spec: Spec) -> str:
    return device(data_mesh(spec.batch_size).size)


if __name__ == "__main__":
    worker.main(
        {
            "epoch": epoch,
            "memory": memory,
            "step": step,
            "finetune": step,
            "forward": forward,
            "augment": augment,
        }
    )
