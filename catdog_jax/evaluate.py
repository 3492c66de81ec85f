"""Logits, losses and masked metrics."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypedDict, runtime_checkable

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .errors import InputError
from .parallel import jit, map_batch, replicate, shard

Batch = Mapping[str, Any]
Logits = Float[Array, "batch outputs"]
Labels = Int[Array, " batch"]

# Keras compares a single logit with 0.5, not the probability: a cat up to a probability of 0.62.
BLOG_THRESHOLD = 0.5
"""The logit above which the post counts a dog. 0 is the right one: a probability of one half."""


@runtime_checkable
class FrozenBackbone(Protocol):
    """A model whose `backbone` is not trained, so that its features can be computed once."""

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
    model: nnx.Module, batches: Iterable[Batch]
) -> Float[np.ndarray, "images outputs"]:
    """Logits of all images that the batches' masks let through, in order; no dropout."""
    graphdef, state = nnx.split(model)
    logits = [
        np.asarray(_logits(graphdef, replicate(state, inputs), shard(inputs)))[mask]
        for inputs, mask in ((_inputs(batch), np.asarray(batch["mask"])) for batch in batches)
    ]
    if not logits:
        raise InputError("there are no images to evaluate")
    return np.concatenate(logits)


def evaluate(
    model: nnx.Module, batches: Iterable[Batch], *, threshold: float = BLOG_THRESHOLD
) -> Metrics:
    """Loss and accuracy over all images of `batches`.

    Args:
        model: takes images and gives logits.
        batches: dicts of `image` (or `feature`, see `with_features`), `label` and `mask`, which can
            be gone through twice.
        threshold: for models with one logit, see `BLOG_THRESHOLD`.
    """
    logits = predict_logits(model, batches)
    labels = [np.asarray(batch["label"])[np.asarray(batch["mask"])] for batch in batches]
    return metrics_of(logits, np.concatenate(labels), threshold)


def with_features(model: nnx.Module, batches: Iterable[Batch]) -> Iterable[Batch]:
    """Replace images by their features where a frozen backbone makes them the same every time."""
    if not isinstance(model, FrozenBackbone):
        return batches
    graphdef, state = nnx.split(model)
    return [
        {
            "feature": _features(graphdef, replicate(state, image), shard(image)),
            "label": label,
            "mask": mask,
        }
        for image, label, mask in ((b["image"], b["label"], b["mask"]) for b in batches)
    ]


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _inputs(batch: Batch) -> PyTree:
    return {name: batch[name] for name in ("feature", "image") if name in batch}


def _apply(graphdef: nnx.GraphDef, state: PyTree, inputs: PyTree) -> Logits:
    model: Any = nnx.merge(graphdef, state)
    return model.classify(inputs["feature"]) if "feature" in inputs else model(inputs["image"])


@jit(static_argnums=0)
def _logits(graphdef: nnx.GraphDef, state: PyTree, inputs: PyTree) -> Logits:
    return map_batch(partial(_apply, graphdef), state, inputs)


@jit(static_argnums=0)
def _features(graphdef: nnx.GraphDef, state: PyTree, images: PyTree) -> PyTree:
    def features(state: PyTree, images: PyTree) -> PyTree:
        model: Any = nnx.merge(graphdef, state)
        return model.features(images)

    return map_batch(features, state, images)
