"""Compile the training programs for GPUs and TPUs that this machine does not have.

    pip install -e ".[targets]"
    python experiments/compile_targets.py --models model3 --targets h100 v5e

Compiles what `fit` runs on a device (`jit_epoch`, photos kept on it, and `jit_step`, photos
streamed) with XLA's own compilers for these devices, and writes what they say to `--out`:
`compile_targets.json`, and as a table `compile_targets.md`; results of other programs that are
there already are kept. It shows that programs compile, what memory they need and what they are made
of, not how fast they are. All of it takes an hour on two CPU cores, most of it for TPUs.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from compilers.devices import TARGETS, mesh_of
from compilers.hlo import COLLECTIVES, bytes_of, instructions, is_work, opcode, slices_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from catdog_jax.cli import script
from catdog_jax.runs import build
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.phases import phases_of
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.training.augment import combined
from catdog_jax.training.state import Dtype, TrainState, create_state
from catdog_jax.training.step import Task, jit_epoch, jit_step

Program = Literal["epoch", "step"]


@dataclass(frozen=True)
class Compiled:
    """What a compiler says about one program. Memory is in bytes, on each device."""

    model: str
    dtype: str
    target: str
    devices: int
    program: str
    batch_size: int
    compile_seconds: float
    argument_bytes: int
    """Weights, the optimizer's state, and photos: all of them for an epoch, or one batch."""
    temporary_bytes: int
    peak_bytes: int
    operations: int
    """What a step launches: fusions, library calls and copies; on a GPU these are kernels."""
    collectives: int
    """All-reduces and the like in a step."""
    collective_bytes: int
    gathered: int
    """Slices that a step gathers one by one: pixels of rotated photos, photos of a batch."""
    own_convolutions: int
    """Convolutions of a step that are not handed to cuDNN; on a TPU all are XLA's own."""
    flops: float | None
    """Of a step; only the TPU's compiler tells it, and the next two. Inner loops count as one turn,
    here and in the next."""
    bytes_accessed: float | None
    estimated_cycles: int | None
    """The sum over a step's operations. There is no estimate for gathers."""


def main(
    models: tuple[str, ...] = tuple(f"model{n}" for n in range(1, 7)),
    targets: tuple[str, ...] = tuple(TARGETS),
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16"),
    programs: tuple[Program, ...] = ("epoch", "step"),
    batch_size: int | None = None,
    photos: int = 2000,
    out: Path = Path("runs/targets"),
) -> None:
    """Compile and write the tables.

    Args:
        models: by their recipes; of model 5 the epochs in which all of it is trained.
        targets: h100, h100x8, v5e (one chip), v5ex4.
        dtypes: to compute in.
        programs: epoch (one program, photos on the device), step (photos streamed).
        batch_size: photos in a step, on all devices together; by default the recipe's.
        photos: to train on, for the program of an epoch.
        out: folder of the results.
    """
    rows = []
    for target in targets:
        mesh = mesh_of(target)
        for model in models:
            for dtype in dtypes:
                experiment = replace(phases_of(RECIPES[model])[-1].experiment, dtype=dtype)
                if batch_size is not None:
                    experiment = replace(experiment, batch_size=batch_size)
                for program in programs:
                    rows.append(compiled(experiment, mesh, target, program, photos))
                    print(line(rows[-1]), flush=True)
                    write(rows, out)


def lowered(experiment: Experiment, mesh: Mesh, program: Program, photos: int) -> Any:
    """The program that `fit` would run on these devices, ready to be compiled."""
    size, batch = experiment.image_size, experiment.batch_size
    steps = -(-photos // batch)
    task, state = task_of(experiment, steps)
    everywhere, cut = PartitionSpec(), PartitionSpec("data")

    def array(shape: Sequence[int], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def split(count: int, spec: PartitionSpec) -> PyTree:
        images = array((count, size, size, 3), jnp.uint8, spec)
        return {"image": images, "label": array((count,), jnp.int32, spec)}

    state = jax.tree.map(lambda leaf: array(leaf.shape, leaf.dtype, everywhere), state)
    with jax.set_mesh(mesh):
        if program == "step":
            step: Any = jit_step(task, mesh)
            return step.lower(state, {**split(batch, cut), "mask": array((batch,), bool, cut)})
        order = [array((steps, batch), dtype, everywhere) for dtype in (jnp.int32, bool)]
        epoch: Any = jit_epoch(task, mesh)
        return epoch.lower(state, split(photos, everywhere), *order)


def task_of(experiment: Experiment, steps: int) -> tuple[Task, TrainState]:
    """The task of training, and the shapes of its state."""
    options: dict[str, Any] = {}

    def begin() -> Any:
        model = build.build_model(experiment, 2)
        options.update(build.training_of(experiment, model, 2, steps))
        options["optimizer"] = options["optimizer"](steps * experiment.epochs)
        averaged = experiment.ema is not None
        trainable = options["trainable"]
        return create_state(model, options["optimizer"], trainable=trainable, ema=averaged)

    graphdef, state = jax.eval_shape(begin)
    task = Task(
        graphdef,
        options["optimizer"],
        options["loss"],
        combined(options["augment"]),
        None,
        experiment.ema,
        experiment.threshold,
        experiment.dtype,
    )
    return task, state


def compiled(
    experiment: Experiment, mesh: Mesh, target: str, program: Program, photos: int
) -> Compiled:
    """Compile one program."""
    ready = lowered(experiment, mesh, program, photos)
    begun = time.perf_counter()
    done = ready.compile()
    seconds = time.perf_counter() - begun
    memory, cost, text = done.memory_analysis(), done.cost_analysis() or {}, done.as_text()
    step = list(instructions(text, scan=program == "epoch"))
    cycles = [int(n) for it in step for n in re.findall(r'"estimated_cycles":"(\d+)"', it)]
    sent = [it for it in step if opcode(it).removesuffix("-start") in COLLECTIVES]
    inner = list(instructions(text, scan=program == "epoch", fused=True))
    return Compiled(
        model=experiment.model,
        dtype=experiment.dtype,
        target=target,
        devices=mesh.size,
        program=program,
        batch_size=experiment.batch_size,
        compile_seconds=round(seconds, 1),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        operations=len([it for it in step if is_work(it)]),
        collectives=len(sent),
        collective_bytes=sum(map(bytes_of, sent)),
        gathered=sum(map(slices_of, inner)),
        own_convolutions=len([it for it in inner if opcode(it) == "convolution"]),
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        estimated_cycles=sum(cycles) if cycles else None,
    )


# The table.

_COLUMNS = {
    "model": lambda row: row.model,
    "program": lambda row: f"{row.program}, {row.dtype}",
    "on": lambda row: row.target,
    "compile, s": lambda row: f"{row.compile_seconds:.0f}",
    "arguments, MB": lambda row: f"{row.argument_bytes / 1e6:.0f}",
    "temporary, MB": lambda row: f"{row.temporary_bytes / 1e6:.0f}",
    "peak, MB": lambda row: f"{row.peak_bytes / 1e6:.0f}",
    "operations": lambda row: f"{row.operations}",
    "collectives": lambda row: (
        f"{row.collectives} ({row.collective_bytes / 1e6:.1f} MB)" if row.collectives else ""
    ),
    "GFLOP": lambda row: "" if row.flops is None else f"{row.flops / 1e9:.1f}",
    "GB accessed": lambda row: (
        "" if row.bytes_accessed is None else f"{row.bytes_accessed / 1e9:.2f}"
    ),
    "Mcycles": lambda row: (
        "" if row.estimated_cycles is None else f"{row.estimated_cycles / 1e6:.2f}"
    ),
    "slices gathered": lambda row: f"{row.gathered:,}",
    "convolutions without cuDNN": lambda row: (
        f"{row.own_convolutions}" if row.target.startswith("h100") else ""
    ),
}


def line(row: Compiled) -> str:
    """One line of the table."""
    return f"| {' | '.join(str(show(row)) for show in _COLUMNS.values())} |"


def write(rows: Sequence[Compiled], out: Path) -> None:
    """Write new results beside those that are there, as JSON and as a table."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "compile_targets.json"
    before = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    of_all = {_key(row): row for row in [*(Compiled(**row) for row in before), *rows]}
    rows = [of_all[key] for key in sorted(of_all)]
    found = {"jax": jax.__version__, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    head = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    (out / "compile_targets.md").write_text("\n".join([*head, *map(line, rows)]) + "\n", "utf-8")


def _key(row: Compiled) -> tuple[str, ...]:
    return row.target, row.model, row.program, row.dtype, str(row.batch_size)


if __name__ == "__main__":
    script(main)
