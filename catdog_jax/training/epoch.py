"""An epoch of training: one program over photos on the devices, or a loop over streamed batches."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import PyTree

from ..data.splits import Batches, Split
from .features import features_of
from .feed import limit_dispatch, on_every_device, stream
from .mesh import replicate
from .metrics import Sums, no_sums
from .state import TrainState
from .step import Epoch, Step, Task, jit_epoch, jit_step

TrainEpoch: TypeAlias = Callable[
    [TrainState, int, Callable[[Sums], None]], tuple[TrainState, Sums, int]
]


def make_train_epoch(
    task: Task,
    model: nnx.Module,
    split: Split,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    *,
    resident: bool,
) -> TrainEpoch:
    """A function `(state, epoch from 0, report) -> (state, sums, bad step)`.

    It calls `report` with the sums so far: after each step, or at the end if the epoch is one
    program. The bad step is the first, from 1, whose loss was not finite, or 0.
    """

    @cache  # at the first epoch: features take a while
    def inputs() -> Split:
        if not task.on_features:
            return split
        return replace(split, images=features_of(model, split, batch_size, task.dtype, mesh))

    def batches_of(epoch: int) -> Batches:
        return inputs().shuffled(batch_size, seed=seed)(epoch)

    if resident:
        photos, program = cache(lambda: on_every_device(inputs(), mesh)), jit_epoch(task, mesh)
        return lambda state, epoch, report: _scan(
            program, state, photos(), batches_of(epoch), report, mesh
        )
    step = jit_step(task, mesh)
    return lambda state, epoch, report: _loop(step, state, batches_of(epoch), report, mesh)


def _scan(
    program: Epoch,
    state: TrainState,
    photos: PyTree,
    batches: Batches,
    report: Callable[[Sums], None],
    mesh: Mesh,
) -> tuple[TrainState, Sums, int]:
    with jax.set_mesh(mesh):
        state, totals, finite = program(state, photos, *replicate(batches.rows(), mesh))
    bad_steps = np.flatnonzero(~np.asarray(finite))
    report(totals)
    return state, totals, 1 + int(bad_steps[0]) if len(bad_steps) else 0


def _loop(
    step: Step,
    state: TrainState,
    batches: Batches,
    report: Callable[[Sums], None],
    mesh: Mesh,
) -> tuple[TrainState, Sums, int]:
    def totals_by_step() -> Iterator[Sums]:
        nonlocal state
        totals = no_sums()
        for batch in stream(batches, mesh):
            state, sums = step(state, batch)
            totals = jax.tree.map(jnp.add, totals, sums)
            yield totals

    totals = no_sums()
    with jax.set_mesh(mesh):
        for number, totals in enumerate(limit_dispatch(totals_by_step()), 1):
            if not np.isfinite(totals["loss"]):
                return state, totals, number
            report(totals)
    return state, totals, 0
