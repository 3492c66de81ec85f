"""One training step, and an epoch of them as one program: pure functions of explicit state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree

from .augment import BatchAugmentation
from .losses import Labels, Loss, label_classes
from .mesh import jit
from .metrics import Sums, metric_sums, scan_rows
from .state import Dtype, TrainState, full_precision, in_dtype, in_mode, in_pixels

Step: TypeAlias = Callable[[TrainState, PyTree], tuple[TrainState, Sums]]
Epoch: TypeAlias = Callable[
    [TrainState, PyTree, Array, Array], tuple[TrainState, Sums, Bool[Array, " steps"]]
]


@dataclass(frozen=True)
class Task:
    """What a step needs besides the state."""

    graphdef: nnx.GraphDef
    """Structure of the model; together with the state's `params` and `other` it is the model."""
    optimizer: optax.GradientTransformation
    loss: Loss
    augment: BatchAugmentation
    class_weights: Sequence[float] | None
    ema: float | None
    threshold: float
    dtype: Dtype
    on_features: bool = False
    """Train `classify` on features instead of the whole model on images."""


def make_step(task: Task) -> Step:
    """A step of gradient descent, `(state, batch) -> (next state, metric sums)`, not yet jitted.

    `batch` has `image` `[batch, height, width, channels]` of pixels 0…255 (or features), `label`
    `[batch]` (or soft labels `[batch, classes]`) and `mask` `[batch]`, False for padding. The sums
    are those of the forward pass in training, with dropout and augmentation.
    """

    def loss_sum(
        params: PyTree, other: PyTree, images: Array, labels: Labels, mask: Array, weights: Array
    ) -> tuple[Float[Array, ""], tuple[Sums, PyTree]]:
        # Cast in here, so that gradients of the stored float32 weights are float32.
        model: Any = nnx.merge(task.graphdef, *in_dtype((params, other), task.dtype), copy=True)
        model = in_mode(model, training=True)
        forward = model.classify if task.on_features else model
        logits = full_precision(forward(in_pixels(images, task.dtype)))
        losses = task.loss(logits, labels) * weights
        sums = metric_sums(losses, logits, labels, mask, task.threshold)
        # Updated: batch statistics and dropout counts. Unchanged: frozen weights.
        return jnp.asarray(sums["loss"]), (
            sums,
            nnx.merge_state(other, nnx.state(model, nnx.Not(nnx.Param))),
        )

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(state.key, state.step)
        images, mask = batch["image"].astype(float), batch["mask"]
        images, labels = task.augment(key, images, batch["label"])
        weights = jnp.ones(len(mask))
        if task.class_weights is not None:
            of_class = jnp.asarray(task.class_weights)
            weights = labels @ of_class if labels.ndim == 2 else of_class[label_classes(labels)]
        gradients, (sums, other) = jax.grad(loss_sum, has_aux=True)(
            state.params, state.other, images, labels, mask, weights
        )
        gradients = jax.tree.map(lambda gradient: gradient / sums["count"], gradients)
        updates, opt_state = task.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema if task.ema is None else _updated_ema(task.ema, state, params)
        return TrainState(state.step + 1, state.key, params, other, opt_state, ema), sums

    return step


def jit_step(task: Task, mesh: Mesh) -> Step:
    """`make_step(task)`, compiled for the mesh; the given state is donated."""
    return jit(donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))(
        make_step(task)
    )


def jit_epoch(task: Task, mesh: Mesh) -> Epoch:
    """An epoch as one program over photos that are on the devices.

    `(state, photos, rows, mask) -> (state, sums, whether the sum of losses was finite after each
    step)`; see `Batches.rows`. The host sends the order of the photos, a few kilobytes, so that an
    epoch is the same however photos are fed.
    """
    step = make_step(task)

    def epoch(
        state: TrainState, photos: PyTree, rows: Array, mask: Array
    ) -> tuple[TrainState, Sums, Bool[Array, " steps"]]:
        return scan_rows(step, state, photos, rows, mask)

    return jit(donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))(epoch)


def _updated_ema(decay: float, state: TrainState, params: PyTree) -> PyTree:
    # Warm-up: the average of the first steps would be mostly of untrained weights.
    rate = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(params, state.ema, 1 - rate)
