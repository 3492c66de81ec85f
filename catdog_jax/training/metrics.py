"""Logits, losses and masked metrics."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..errors import InputError
from .feed import Batch, Resident, stream
from .mesh import jit, map_batch, replicate, shard, take

Dtype = Literal["float32", "bfloat16"]
Logits = Float[Array, "batch outputs"]
Labels = Int[Array, " batch"]

# Keras compares a single logit with 0.5, not the probability: a cat up to a probability of 0.62.
BLOG_THRESHOLD = 0.5
"""The logit above which the post counts a dog. 0 is the right one: a probability of one half."""


@runtime_checkable
class FrozenBackbone(Protocol):
    """A model whose `backbone` is not trained, so that its features can be computed once.

    Without keys it must be `classify(features(images))`: that is how it is validated.
    """

    backbone: nnx.Module

    def features(self, images: Any) -> Any:
        """Features of `images`, `[batch, features]`."""
        ...

    def classify(self, features: Any, keys: Any = None) -> Any:
        """Logits of features, `[batch, outputs]`."""
        ...


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
        sums = jax.device_get(sums)  # one wait for the devices, not three
        count = int(sums["count"])
        if count == 0:
            raise InputError("there are no images to train or evaluate on")
        correct = int(sums["correct"])
        return cls(float(sums["loss"]) / count, correct / count, correct, count)


def losses(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
    """Cross-entropy of each image: sigmoid for one logit, softmax for several. In nats."""
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def in_dtype(tree: PyTree, dtype: Dtype) -> PyTree:
    """A model's weights and inputs in what it is to compute in.

    "float32", which weights are stored in, leaves them as they are. "bfloat16" is made of all
    floating-point numbers and uint8 pixels; of the latter it holds each exactly.

    Raises:
        InputError: `dtype` is neither.
    """
    if dtype == "float32":
        return tree
    if dtype != "bfloat16":
        raise InputError(f"unknown dtype '{dtype}'; choose float32 or bfloat16")

    def convert(array: Any) -> Any:
        numbers = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype == jnp.uint8
        return array.astype(jnp.bfloat16) if numbers else array

    return jax.tree.map(convert, tree)


def full_precision(logits: Logits) -> Logits:
    """`logits` in float32 at least, for losses to be computed from."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def predicted(logits: Logits, threshold: float = 0.0) -> Labels:
    """The class of each image: one logit against `threshold`, or the largest of several."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > threshold).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1)


def metric_sums(
    logits: Logits, labels: Labels, mask: Bool[Array, " batch"], threshold: float
) -> Sums:
    """Sums of loss, hits and images where `mask` is True, so that padding counts for nothing."""
    return {
        "loss": jnp.sum(losses(logits, labels) * mask),
        "correct": jnp.sum((predicted(logits, threshold) == labels) & mask),
        "count": jnp.sum(mask),
    }


def no_sums() -> Sums:
    """What a sum over no images is."""
    return {"loss": np.float32(0), "correct": np.int32(0), "count": np.int32(0)}


def add(totals: Sums, sums: Sums) -> Sums:
    """`totals` and the sums of one batch more, which may still be being computed.

    Waits for `totals`: the loop is one step ahead of the devices, no more. XLA lets each CPU
    device take on 32 programs and not always in order: further ahead, two devices come to wait
    for each other's part of a sum for good, and XLA ends the process. On any device the batches
    of a loop far ahead would fill the memory.
    """
    after = jax.tree.map(jnp.add, totals, sums)
    jax.block_until_ready(totals)
    return after


def scan_sums(
    step: Callable[[PyTree, PyTree], tuple[PyTree, Sums]],
    carry: PyTree,
    photos: PyTree,
    rows: Int[Array, "steps batch"],
) -> tuple[PyTree, Sums, Bool[Array, " steps"]]:
    """`step(carry, batch)` for one batch of rows after the other, and the sum of its sums.

    Also says, for each step, whether the sum of losses was finite after it.

    Args:
        step: gives the next `carry` and the sums of `batch`.
        carry: what the first step begins with.
        photos: arrays along photos, on every device.
        rows: which photos are a step's batch; -1 is padding, whatever photo then fills its place.
    """

    def batch_of(rows: Int[Array, " batch"]) -> PyTree:
        return {**take(photos, rows), "mask": rows >= 0}

    def add_step(carry: tuple[PyTree, Sums], rows: Int[Array, " batch"]) -> tuple[PyTree, Array]:
        before, totals = carry
        after, sums = step(before, batch_of(rows))
        totals = jax.tree.map(jnp.add, totals, sums)
        return (after, totals), jnp.isfinite(totals["loss"])

    _, shapes = jax.eval_shape(lambda: step(carry, batch_of(rows[0])))
    # Not `no_sums()`: a scan wants the very dtypes of the step, which in 64 bits are others.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (carry, totals), finite = jax.lax.scan(add_step, (carry, zeros), rows)
    return carry, totals, finite


def probabilities(
    logits: Float[np.ndarray, "batch outputs"], num_classes: int
) -> Float[np.ndarray, "batch classes"]:
    """Probability of each class; outputs beyond the classes (models 1 to 3) are left out."""
    if logits.shape[-1] == 1:
        dog = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return np.concatenate([1 - dog, dog], axis=-1)
    shifted = logits[:, :num_classes].astype(np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def metrics_of(logits: Any, labels: Any, threshold: float) -> Metrics:
    """Loss and accuracy of logits `[images, outputs]` that are already there."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    return Metrics.from_sums(metric_sums(logits, labels, jnp.ones(len(labels), bool), threshold))


def predict_logits(
    model: nnx.Module, batches: Iterable[Batch], *, dtype: Dtype = "float32"
) -> Float[np.ndarray, "images outputs"]:
    """Logits of all images that the batches' masks let through, in order; no dropout.

    Args:
        model: takes images and gives logits.
        batches: as in `evaluate`, which says what `dtype` is, too.
        dtype: see `evaluate`.

    Raises:
        InputError: there are no images, or no such dtype.
    """
    # A frozen backbone's program has been compiled for its features, if the model was trained.
    batches = with_features(model, batches, dtype=dtype)
    graphdef, state = nnx.split(model)
    logits = []
    for batch in stream(batches):
        state = replicate(state, dict(batch))  # moves only if the devices change
        outputs = _logits(graphdef, dtype, state, shard(_inputs(batch)))
        logits.append(np.asarray(outputs)[np.asarray(batch["mask"])])
    if not logits:
        raise InputError("there are no images to evaluate")
    return np.concatenate(logits)


def evaluate(
    model: nnx.Module,
    batches: Resident | Iterable[Batch],
    *,
    threshold: float = BLOG_THRESHOLD,
    dtype: Dtype = "float32",
) -> Metrics:
    """Loss and accuracy over all images of `batches`.

    Args:
        model: takes images and gives logits.
        batches: dicts of `image` (or `feature`, see `with_features`), `label` and `mask`; or
            photos on the devices, which one program goes through.
        threshold: for models with one logit, see `BLOG_THRESHOLD`.
        dtype: what the model computes in; losses and sums are float32.

    Raises:
        InputError: there are no images, or no such dtype.
    """
    graphdef, state = nnx.split(model)
    if isinstance(batches, Resident):
        placed = replicate((state, batches.photos, batches.rows), batches.rows[0])
        return Metrics.from_sums(_eval_epoch(graphdef, threshold, dtype, *placed))
    totals = no_sums()
    for batch in stream(batches):
        state = replicate(state, dict(batch))  # moves only if the devices change
        placed = shard(_inputs(batch) | {"label": batch["label"], "mask": batch["mask"]})
        logits = _logits(graphdef, dtype, state, _inputs(placed))
        sums = _metric_sums(logits, placed["label"], placed["mask"], threshold=threshold)
        totals = add(totals, sums)
    return Metrics.from_sums(totals)


def with_features(
    model: nnx.Module, batches: Iterable[Batch], *, dtype: Dtype = "float32"
) -> Iterable[Batch]:
    """Replace images by their features where a frozen backbone makes them the same every time.

    Features are small and the head that reads them fast, so they come as a single batch: to go
    through 26 took model 4's validation 0.4 s an epoch. Features that are given are left as is.
    """
    if not isinstance(model, FrozenBackbone):
        return batches
    graphdef, state = nnx.split(model)
    replaced: list[Batch] = []
    for batch in stream(batches):
        feature = batch.get("feature")
        if feature is None:
            image = batch["image"]
            state = replicate(state, image)  # moves only if the devices change
            feature = _features(graphdef, dtype, state, shard(image))
        if replaced:  # as in `add`: not further ahead than one batch
            jax.block_until_ready(replaced[-1]["feature"])
        replaced.append({"feature": feature, "label": batch["label"], "mask": batch["mask"]})
    if len(replaced) < 2:
        return replaced
    names = ("feature", "label", "mask")
    return [{name: np.concatenate([batch[name] for batch in replaced]) for name in names}]


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _inputs(batch: Batch) -> PyTree:
    return {name: batch[name] for name in ("feature", "image") if name in batch}


def _apply(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, inputs: PyTree) -> Logits:
    state, inputs = in_dtype((state, inputs), dtype)
    model: Any = nnx.merge(graphdef, state)
    return full_precision(
        model.classify(inputs["feature"]) if "feature" in inputs else model(inputs["image"])
    )


_metric_sums = jax.jit(metric_sums, static_argnames="threshold")


@jit(static_argnums=(0, 1, 2))
def _eval_epoch(
    graphdef: nnx.GraphDef,
    threshold: float,
    dtype: Dtype,
    state: PyTree,
    photos: PyTree,
    rows: Int[Array, "steps batch"],
) -> Sums:
    def step(state: PyTree, batch: PyTree) -> tuple[PyTree, Sums]:
        logits = map_batch(partial(_apply, graphdef, dtype), state, _inputs(batch))
        return state, metric_sums(logits, batch["label"], batch["mask"], threshold)

    return scan_sums(step, state, photos, rows)[1]


@jit(static_argnums=(0, 1))
def _logits(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, inputs: PyTree) -> Logits:
    return map_batch(partial(_apply, graphdef, dtype), state, inputs)


@jit(static_argnums=(0, 1))
def _features(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, images: PyTree) -> PyTree:
    def features(state: PyTree, images: PyTree) -> PyTree:
        state, images = in_dtype((state, images), dtype)
        model: Any = nnx.merge(graphdef, state)
        return model.features(images)

    return map_batch(features, state, images)
