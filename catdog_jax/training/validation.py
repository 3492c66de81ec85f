"""Validation after each epoch: from cached features, on the devices, or streamed."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from ..data.splits import Split
from .evaluation import predict_logits
from .feed import limit_dispatch, on_every_device, stream
from .losses import Logits, Loss
from .mesh import jit, replicate
from .metrics import Metrics, Sums, metric_sums, metrics_of, scan_rows
from .state import (
    Dtype,
    TrainState,
    apply,
    full_precision,
    in_dtype,
    in_mode,
    in_pixels,
    trained_parts,
)
from .step import Task

Validation: TypeAlias = Callable[[nnx.Module], Metrics]


@runtime_checkable
class FeatureModel(Protocol):
    """A model whose logits are `classify(features(images))`.

    If none of `feature_parts` is trained, the features of each image are computed only once.
    """

    feature_parts: Sequence[str]
    """Names of the attributes that `features` uses."""

    def features(self, images: Any) -> Any:
        """Features of `images`, `[batch, features]`."""
        ...

    def classify(self, features: Any) -> Any:
        """Logits of features, `[batch, outputs]`."""
        ...


def make_validation(
    task: Task,
    model: nnx.Module,
    state: TrainState,
    split: Split,
    batch_size: int,
    mesh: Mesh,
    *,
    resident: bool,
) -> Validation:
    """A function that evaluates a model like `model` on `split`.

    Args:
        task: of the training.
        model: the one that is trained.
        state: of the training.
        split: the photos.
        batch_size: photos at once.
        mesh: the devices.
        resident: whether photos are kept on the devices, and evaluated by one program.
    """
    if isinstance(model, FeatureModel) and not (
        set(model.feature_parts) & set(trained_parts(state.params))
    ):
        return _by_features(task, split, batch_size, mesh)
    if resident:
        return _on_devices(task, split, batch_size, mesh)

    def validate(model: nnx.Module) -> Metrics:
        logits = predict_logits(model, split, batch_size=batch_size, dtype=task.dtype, mesh=mesh)
        return metrics_of(logits, split.labels, task.threshold, task.loss)

    return validate


def _by_features(task: Task, split: Split, batch_size: int, mesh: Mesh) -> Validation:
    """Validation photos are not augmented, so a frozen backbone needs to see them only once.

    Features are small and the head is fast, so all of them are one batch.
    """
    known: list[Array] = []

    def validate(model: nnx.Module) -> Metrics:
        graphdef, state = nnx.split(in_mode(model, training=False))
        state = replicate(state, mesh)
        with jax.set_mesh(mesh):
            if not known:
                parts = (
                    _features(graphdef, task.dtype, state, batch["image"])
                    for batch in stream(split.batches(batch_size), mesh)
                )
                features = np.concatenate([np.asarray(part) for part in limit_dispatch(parts)])
                known.append(replicate(features[: len(split)], mesh))
            logits = _classify(graphdef, task.dtype, state, known[0])
        return metrics_of(logits, split.labels, task.threshold, task.loss)

    return validate


def _on_devices(task: Task, split: Split, batch_size: int, mesh: Mesh) -> Validation:
    rows = split.batches(batch_size).rows()
    photos = on_every_device(split, mesh), *replicate(rows, mesh)

    def validate(model: nnx.Module) -> Metrics:
        graphdef, state = nnx.split(in_mode(model, training=False))
        with jax.set_mesh(mesh):
            sums = _scan_sums(
                graphdef, task.dtype, task.loss, task.threshold, replicate(state, mesh), *photos
            )
        return Metrics.from_sums(sums)

    return validate


@jit(static_argnums=(0, 1))
def _features(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, images: Array) -> Array:
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return model.features(in_pixels(images, dtype))


@jit(static_argnums=(0, 1))
def _classify(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, features: Array) -> Logits:
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return full_precision(model.classify(features))


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
