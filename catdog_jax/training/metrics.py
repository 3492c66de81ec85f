"""Evaluation: logits, accuracy and loss over all images, padding left out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..data.splits import Arrays, Split
from ..errors import InputError, first_line
from .feed import as_split, settled, stream
from .losses import Labels, Logits, Loss, cross_entropy, label_classes
from .mesh import data_mesh, jit, replicate
from .state import Dtype, in_dtype, in_mode


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


@runtime_checkable
class FeatureModel(Protocol):
    """A model whose logits are `classify(features(images))`.

    Where none of `feature_parts` is trained, the features of an image are computed once.
    """

    feature_parts: Sequence[str]
    """The attributes that `features` makes use of."""

    def features(self, images: Any) -> Any:
        """Features of `images`, `[batch, features]`."""
        ...

    def classify(self, features: Any) -> Any:
        """Logits of features, `[batch, outputs]`."""
        ...


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


def evaluate(
    model: nnx.Module,
    data: Split | Arrays,
    *,
    batch_size: int = 32,
    threshold: float = 0.0,
    loss: Loss = cross_entropy,
    dtype: Dtype = "float32",
    mesh: Mesh | None = None,
) -> Metrics:
    """Loss and accuracy over all images, without dropout and with running batch statistics.

    Args:
        model: takes pixels 0…255 and gives logits.
        data: a split, or images and labels.
        batch_size: images at once.
        threshold: for models with one logit; 0 is a probability of one half.
        loss: (logits, labels) -> one number an image.
        dtype: what the model computes in.
        mesh: the devices; by default all.

    Raises:
        InputError: there are no images, or they or their labels do not fit the model.
    """
    split = as_split(data)
    check_fit(model, split, loss)
    logits = predict_logits(model, split, batch_size=batch_size, dtype=dtype, mesh=mesh)
    return metrics_of(logits, split.labels, threshold, loss)


def predict_logits(
    model: nnx.Module,
    images: Any,
    *,
    batch_size: int = 32,
    dtype: Dtype = "float32",
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "images outputs"]:
    """Logits of all images, in order; arguments as in `evaluate`.

    Args:
        model: takes pixels 0…255 and gives logits.
        images: a split, or an array `[n, height, width, channels]`.
        batch_size: images at once.
        dtype: what the model computes in.
        mesh: the devices; by default all.

    Raises:
        InputError: there are no images.
    """
    if not isinstance(images, Split):
        images = as_split((images, np.zeros(len(images), np.int32)))
    if not len(images):
        raise InputError("there are no images to train or evaluate on")
    mesh = data_mesh(batch_size) if mesh is None else mesh
    graphdef, state = nnx.split(in_mode(model, training=False))
    state = replicate(state, mesh)
    with jax.set_mesh(mesh):
        outputs = (
            infer(graphdef, dtype, state, batch["image"])
            for batch in stream(images.batches(batch_size), mesh)
        )
        logits = np.concatenate([np.asarray(output) for output in settled(outputs)])
    return logits[: len(images)]  # the rest is padding


def apply(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, images: Array) -> Logits:
    """Logits, in float32 at least, of a model in the mode of its structure."""
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return full_precision(model(in_pixels(images, dtype)))


infer = jit(static_argnums=(0, 1))(apply)


def in_pixels(images: Array, dtype: Dtype) -> Array:
    """Pixels as a model is given them; bfloat16 holds each of 0…255 exactly."""
    return images.astype(float if dtype == "float32" else dtype)  # float64 in a test's x64 mode


def full_precision(logits: Logits) -> Logits:
    """`logits` in float32 at least, for losses to be computed from."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def check_fit(model: nnx.Module, split: Split, loss: Loss = cross_entropy) -> None:
    """Refuse images or labels that the model or the loss cannot take, before anything is compiled.

    Raises:
        InputError: they do not fit.
    """
    if not len(split):
        raise InputError("there are no images to train or evaluate on")
    name, shape = type(model).__name__, split.images.shape[1:]
    graphdef, state = nnx.split(in_mode(model, training=False))
    size = "×".join(map(str, shape))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    try:
        logits = jax.eval_shape(lambda images: apply(graphdef, "float32", state, images), images)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} does not take images of {size}; was it made for another size? "
            f"({first_line(error)})"
        ) from error
    if logits.ndim != 2 or logits.shape[0] != 2:
        raise InputError(
            f"{name} must give logits [batch, outputs], but 2 images gave {logits.shape}"
        )
    labels, outputs = split.labels, logits.shape[1]
    classes = max(outputs, 2)
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= classes:
            raise InputError(
                f"labels go from {least} to {most}, but {name} has {outputs} "
                f"{'output' if outputs == 1 else 'outputs'}, for classes 0 to {classes - 1}; "
                "make it with num_classes"
            )
    elif labels.ndim == 2 and labels.shape[1] > classes:
        raise InputError(f"labels have {labels.shape[1]} classes, but {name} has {outputs} outputs")
    example = jax.ShapeDtypeStruct((2, *labels.shape[1:]), labels.dtype)
    try:
        losses = jax.eval_shape(loss, logits, example)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"the loss does not take labels {labels.dtype}[{', '.join(map(str, labels.shape))}] "
            f"({first_line(error)}); give one that does"
        ) from error
    if losses.shape != (2,):
        raise InputError(f"a loss must give one number an image, but 2 images gave {losses.shape}")


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
