"""Loss and accuracy: sums over batches without padding, and the resulting metrics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..errors import InputError
from .losses import Labels, Logits, Loss, cross_entropy, label_classes


class Sums(TypedDict):
    """Sums over images whose mask is True."""

    loss: Float[Array | np.ndarray | np.number, ""]
    correct: Int[Array | np.ndarray | np.number, ""]
    count: Int[Array | np.ndarray | np.number, ""]


@dataclass(frozen=True)
class Metrics:
    """Mean loss and accuracy over `count` images, `correct` of them classified correctly."""

    loss: float
    accuracy: float
    correct: int
    count: int

    @classmethod
    def from_sums(cls, sums: Sums) -> "Metrics":
        """Divide the sums by the number of images.

        Raises:
            InputError: there are none.
        """
        sums = jax.device_get(sums)
        count, correct = int(sums["count"]), int(sums["correct"])
        if count == 0:
            raise InputError("there are no images to train or evaluate on")
        return cls(float(sums["loss"]) / count, correct / count, correct, count)


def predicted(logits: Any, threshold: float = 0.0) -> Any:
    """The predicted class: a single logit compared with `threshold`, or the largest of several.

    An array of JAX for logits in one, of NumPy for those in one: that compiles nothing.
    """
    if logits.shape[-1] == 1:
        return (logits[:, 0] > threshold).astype(np.int32)
    return logits.argmax(axis=-1).astype(np.int32)


def metric_sums(
    losses: Float[Array, " batch"],
    logits: Logits,
    labels: Labels,
    mask: Bool[Array, " batch"],
    threshold: float,
) -> Sums:
    """Sums of losses, hits and images where `mask` is True: padding does not count."""
    return {
        "loss": jnp.sum(losses * mask),
        "correct": jnp.sum((predicted(logits, threshold) == label_classes(labels)) & mask),
        "count": jnp.sum(mask),
    }


def no_sums() -> Sums:
    """Sums over no images."""
    return {"loss": np.float32(0), "correct": np.int32(0), "count": np.int32(0)}


def scan_rows(
    step: Callable[[PyTree, PyTree], tuple[PyTree, Sums]],
    carry: PyTree,
    photos: PyTree,
    rows: Int[Array, "steps batch"],
    mask: Bool[Array, "steps batch"],
) -> tuple[PyTree, Sums, Bool[Array, " steps"]]:
    """Scan `step(carry, batch)` over batches of rows.

    Returns the last carry, the total of the sums, and for each step whether the sum of losses was
    still finite.

    Args:
        step: returns the next carry and the sums of the batch.
        carry: of the first step.
        photos: arrays of all photos and labels, replicated on the devices.
        rows: the photos of each step's batch.
        mask: False for padding.
    """

    def batch_of(rows: Array, mask: Array) -> PyTree:
        # Each device gathers its own part of the batch only.
        rows, mask = lax.with_sharding_constraint((rows, mask), PartitionSpec("data"))
        return {**jax.tree.map(lambda array: array[rows], photos), "mask": mask}

    def add_step(carry: tuple[PyTree, Sums], row: tuple[Array, Array]) -> tuple[PyTree, Array]:
        before, totals = carry
        after, sums = step(before, batch_of(*row))
        totals = jax.tree.map(jnp.add, totals, sums)
        return (after, totals), jnp.isfinite(totals["loss"])

    _, shapes = jax.eval_shape(lambda: step(carry, batch_of(rows[0], mask[0])))
    # Not `no_sums()`: a scan needs the exact dtypes of the step, which differ in 64 bits.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (carry, totals), finite = lax.scan(add_step, (carry, zeros), (rows, mask))
    return carry, totals, finite


def probabilities(
    logits: Float[np.ndarray, "batch outputs"], num_classes: int
) -> Float[np.ndarray, "batch classes"]:
    """Probabilities of the classes; further outputs (of the post's 64) are ignored."""
    if logits.shape[-1] == 1:
        second = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return np.concatenate([1 - second, second], axis=-1)
    shifted = logits[:, :num_classes].astype(np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def metrics_of(logits: Any, labels: Any, threshold: float, loss: Loss = cross_entropy) -> Metrics:
    """Loss and accuracy from logits `[images, outputs]`."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    right = predicted(logits, threshold) == label_classes(labels)
    return Metrics.from_sums(
        {
            "loss": _loss_sum(loss, logits, labels),
            "correct": np.sum(right),
            "count": np.int32(len(labels)),
        }
    )


@partial(jax.jit, static_argnums=0)
def _loss_sum(loss: Loss, logits: Array, labels: Array) -> Array:
    return jnp.sum(loss(logits, labels))


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
