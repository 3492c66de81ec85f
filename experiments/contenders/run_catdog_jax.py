"""The benchmark's works in catdog_jax, as a user of the package would do them."""

import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import worker
from flax import nnx
from jaxtyping import PyTree
from worker import Result, Spec

from catdog_jax.models.create import MobileNetV2
from catdog_jax.models.ops import in_microbatches
from catdog_jax.runs.build import augmentations, device, initial_model, load_splits
from catdog_jax.runs.recipes import RECIPES, Experiment
from catdog_jax.runs.runner import run
from catdog_jax.training.augment import random_flip, random_rotation
from catdog_jax.training.loop import Task, create_state, fit, keras_adam, train_step
from catdog_jax.training.mesh import jit, map_batch, replicate, set_up_jax, shard
from catdog_jax.training.metrics import Sums


def epoch(spec: Spec) -> Result:
    """Training from a folder of photos, which are decoded first."""
    stamps = [time.perf_counter()]

    def log(line: str) -> None:
        if line.startswith("epoch"):
            stamps.append(time.perf_counter())

    experiment = _experiment(spec)
    splits = load_splits(experiment)
    decoding = worker.peak_with_helper_mib()  # photos are decoded in a process of their own
    finished = run(experiment, Path(spec.scratch) / "run", splits=splits, log=log)
    peak = worker.peak_mib()
    return {
        **worker.time_epochs(stamps),
        "loss": finished.history[-1]["loss"],
        "device": device(),
        "peak_mib": None if peak is None or decoding is None else max(peak, decoding),
    }


def start(spec: Spec) -> Result:
    """As `run` begins, up to the first step; the photos were decoded by an earlier run."""
    set_up_jax()
    experiment = _experiment(spec)
    splits = load_splits(experiment)
    batches = splits.train.shuffled(experiment.batch_size, seed=experiment.seed)
    finished: list[float] = []

    def on_step(_: int, sums: Sums) -> None:
        jax.block_until_ready(sums)
        finished.append(time.time())

    next(
        fit(
            initial_model(experiment, len(splits.class_names)),
            lambda epoch: islice(batches(epoch), 1),
            splits.validation.batches(experiment.batch_size),
            epochs=1,
            optimizer=keras_adam(experiment.learning_rate),
            augmentations=augmentations(flip=experiment.flip, rotation=experiment.rotation),
            threshold=experiment.threshold,
            seed=experiment.seed,
            dtype=experiment.dtype,
            on_step=on_step,
        )
    )
    return {**worker.time_start(spec, finished[0]), "device": device()}


def step(spec: Spec) -> Result:
    """A step as `fit` takes it, the batch coming from the host's memory."""
    set_up_jax()
    experiment = _experiment(spec)
    optimizer = keras_adam(experiment.learning_rate)
    graphdef, state = create_state(initial_model(experiment, 2), optimizer, seed=experiment.seed)
    augmentation = augmentations(flip=experiment.flip, rotation=experiment.rotation)
    task = Task(graphdef, optimizer, augmentation, experiment.threshold, experiment.dtype)
    batch = dict(np.load(spec.batch))
    batch["mask"] = np.ones(len(batch["label"]), np.bool_)

    def take_step() -> None:
        nonlocal state
        state, sums = train_step(task, replicate(state, batch), shard(batch))
        jax.block_until_ready((state, sums))

    return {**worker.time_calls(take_step, spec.repeats), "device": device()}


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode."""
    set_up_jax()
    graphdef, state = nnx.split(MobileNetV2(rngs=nnx.Rngs(0)))
    worker.check_mobilenet(sum(leaf.size for leaf in jax.tree.leaves(state)))

    def apply(state: PyTree, images: PyTree) -> Any:
        model: Any = nnx.merge(graphdef, state)
        return model(images)

    features = jit()(partial(map_batch, apply))
    images = shard(_float_images(spec) / 127.5 - 1)
    state = replicate(state, images)
    call = partial(_finished, features, state, images)
    return {**worker.time_calls(call, spec.repeats), "device": device()}


def augment(spec: Spec) -> Result:
    """Flips and rotations of a batch, as in a training step, with a key an image."""
    set_up_jax()

    def flip_and_rotate(images: Any, flip_keys: Any, rotation_keys: Any) -> Any:
        return random_rotation(rotation_keys, random_flip(flip_keys, images))

    def transform(_: PyTree, examples: PyTree) -> Any:
        keys = jnp.unstack(jax.vmap(jax.random.split)(examples["key"]), axis=1)
        return in_microbatches(flip_and_rotate, examples["image"], *keys)

    @jit()
    def augmented(key: PyTree, images: PyTree) -> Any:
        keys = jax.random.split(key, len(images))
        return map_batch(transform, (), {"image": images, "key": keys})

    images = shard(_float_images(spec))
    key = replicate(jax.random.key(0), images)
    result = worker.time_calls(partial(_finished, augmented, key, images), spec.repeats)
    worker.check_changed(bool(jnp.any(augmented(key, images) != images)))
    return {**result, "device": device()}


def _experiment(spec: Spec) -> Experiment:
    recipe = RECIPES[spec.model]
    return replace(
        recipe,
        data=spec.photos,
        weights=spec.weights if spec.model == "model4" else "none",
        image_size=spec.image_size,
        # All validation photos, as Keras has them; none kept for a test.
        sizes=(*spec.counts, 0),
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        stop_when_dead=False,
        dtype="bfloat16" if spec.bfloat16 else "float32",
        seed=spec.seed,
    )


def _float_images(spec: Spec) -> np.ndarray:
    return np.load(spec.batch)["image"].astype(np.float32)


def _finished(function: Any, *arguments: Any) -> None:
    jax.block_until_ready(function(*arguments))


if __name__ == "__main__":
    works = {"epoch": epoch, "start": start, "step": step, "forward": forward, "augment": augment}
    worker.main(works)
