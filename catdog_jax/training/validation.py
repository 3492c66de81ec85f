"""Validation after each epoch: from cached features, on the devices, or streamed."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from ..data.splits import Split
from .evaluation import predict_logits
from .features import features_of, has_fixed_features, logits_by_features
from .feed import on_every_device
from .losses import Loss
from .mesh import jit, replicate
from .metrics import Metrics, Sums, metric_sums, metrics_of, scan_rows
from .state import Dtype, apply, in_mode
from .step import Task

Validation: TypeAlias = Callable[[nnx.Module], tuple[Metrics, np.ndarray | None]]


def make_validation(
    task: Task,
    model: nnx.Module,
    params: PyTree,
    split: Split,
    batch_size: int,
    mesh: Mesh,
    *,
    resident: bool,
) -> Validation:
    """A function that evaluates a model like `model` on `split`: metrics, and logits if known.

    Args:
        task: of the training.
        model: the one that is trained.
        params: those of its parameters that are trained.
        split: the photos.
        batch_size: photos at once.
        mesh: the devices.
        resident: whether photos are kept on the devices, and evaluated by one program.
    """
    if has_fixed_features(model, params):
        return _by_features(task, split, batch_size, mesh)
    if resident:
        return _on_devices(task, split, batch_size, mesh)

    def validate(model: nnx.Module) -> tuple[Metrics, np.ndarray]:
        logits = predict_logits(model, split, batch_size=batch_size, dtype=task.dtype, mesh=mesh)
        return metrics_of(logits, split.labels, task.threshold, task.loss), logits

    return validate


def _by_features(task: Task, split: Split, batch_size: int, mesh: Mesh) -> Validation:
    """Validation photos are not augmented, so a frozen backbone needs to see them only once."""
    known: list[Array] = []

    def validate(model: nnx.Module) -> tuple[Metrics, np.ndarray]:
        if not known:
            known.append(replicate(features_of(model, split, batch_size, task.dtype, mesh), mesh))
        logits = logits_by_features(model, known[0], task.dtype, mesh)
        return metrics_of(logits, split.labels, task.threshold, task.loss), logits

    return validate


def _on_devices(task: Task, split: Split, batch_size: int, mesh: Mesh) -> Validation:
    rows = split.batches(batch_size).rows()
    photos = on_every_device(split, mesh), *replicate(rows, mesh)

    def validate(model: nnx.Module) -> tuple[Metrics, None]:
        graphdef, state = nnx.split(in_mode(model, training=False))
        with jax.set_mesh(mesh):
            sums = _scan_sums(
                graphdef, task.dtype, task.loss, task.threshold, replicate(state, mesh), *photos
            )
        return Metrics.from_sums(sums), None

    return validate


@jit(static_argnums=(0, 1, 2, 3))
def _scan_sums(
    graphdef: nnx.GraphDef,
    dtype: Dtype,
    loss: Loss,
    threshold: float,
    state: PyTree,
    photos: PyTree,
    rows: Array,
    mask: Array,
) -> Sums:
    def step(state: PyTree, batch: PyTree) -> tuple[PyTree, Sums]:
        logits = apply(graphdef, dtype, state, batch["image"])
        losses = loss(logits, batch["label"])
        return state, metric_sums(losses, logits, batch["label"], batch["mask"], threshold)

    return scan_rows(step, state, photos, rows, mask)[1]
