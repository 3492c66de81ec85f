"""Accuracy and loss: sums over batches, padding left out, and what they come to."""

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    """Sums over the images that the mask lets through."""

    loss: Float[Array | np.ndarray | np.number, ""]
    correct: Int[Array | np.ndarray | np.number, ""]
    count: Int[Array | np.ndarray | np.number, ""]


@dataclass(frozen=True)
class Metrics:
    """Mean loss and accuracy over `count` images, of which `correct` were classified rightly."""

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


def predicted(logits: Logits, threshold: float = 0.0) -> Int[Array, " batch"]:
    """The class of each image: one logit against `threshold`, or the largest of several."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > threshold).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1)


def metric_sums(
    losses: Float[Array, " batch"],
    logits: Logits,
    labels: Labels,
    mask: Bool[Array, " batch"],
    threshold: float,
) -> Sums:
    """Sums of loss, hits and images where `mask` is True, so that padding counts for nothing."""
    return {
        "loss": jnp.sum(losses * mask),
        "correct": jnp.sum((predicted(logits, threshold) == label_classes(labels)) & mask),
        "count": jnp.sum(mask),
    }


def no_sums() -> Sums:
    """What a sum over no images is."""
    return {"loss": np.float32(0), "correct": np.int32(0), "count": np.int32(0)}


def scan_rows(
    step: Callable[[PyTree, PyTree], tuple[PyTree, Sums]],
    carry: PyTree,
    photos: PyTree,
    rows: Int[Array, "steps batch"],
    mask: Bool[Array, "steps batch"],
) -> tuple[PyTree, Sums, Bool[Array, " steps"]]:
    """`step(carry, batch)` for one batch of rows after the other, and the sum of its sums.

    Also tells, for each step, whether the sum of losses was finite after it.

    Args:
        step: gives the next `carry` and the sums of `batch`.
        carry: what the first step begins with.
        photos: arrays along photos, on every device.
        rows: which photos are a step's batch.
        mask: False for padding.
    """

    def batch_of(rows: Array, mask: Array) -> PyTree:
        # Each device fetches its own part of the batch, and no other.
        rows, mask = lax.with_sharding_constraint((rows, mask), PartitionSpec("data"))
        return {**jax.tree.map(lambda array: array[rows], photos), "mask": mask}

    def add_step(carry: tuple[PyTree, Sums], row: tuple[Array, Array]) -> tuple[PyTree, Array]:
        before, totals = carry
        after, sums = step(before, batch_of(*row))
        totals = jax.tree.map(jnp.add, totals, sums)
        return (after, totals), jnp.isfinite(totals["loss"])

    _, shapes = jax.eval_shape(lambda: step(carry, batch_of(rows[0], mask[0])))
    # Not `no_sums()`: a scan wants the very dtypes of the step, which in 64 bits are others.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (carry, totals), finite = lax.scan(add_step, (carry, zeros), (rows, mask))
    return carry, totals, finite


def probabilities(
    logits: Float[np.ndarray, "batch outputs"], num_classes: int
) -> Float[np.ndarray, "batch classes"]:
    """Probability of each class; outputs beyond the classes (the post's 64) are left out."""
    if logits.shape[-1] == 1:
        second = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return np.concatenate([1 - second, second], axis=-1)
    shifted = logits[:, :num_classes].astype(np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def metrics_of(logits: Any, labels: Any, threshold: float, loss: Loss = cross_entropy) -> Metrics:
    """Loss and accuracy of logits `[images, outputs]` that are already there."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    mask = jnp.ones(len(labels), bool)
    return Metrics.from_sums(metric_sums(loss(logits, labels), logits, labels, mask, threshold))


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
