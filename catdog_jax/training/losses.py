"""Losses: (logits, labels) -> one number per image, in nats."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Logits: TypeAlias = Float[Array, "batch outputs"]
Labels: TypeAlias = Int[Array, " batch"] | Float[Array, " batch"] | Float[Array, "batch classes"]
Loss: TypeAlias = Callable[[Logits, Labels], Float[Array, " batch"]]


def cross_entropy(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
    """Cross-entropy: sigmoid for one logit, softmax for several.

    Args:
        logits: one for two classes (of class 1), or at least as many as there are classes.
        labels: class numbers, or the classes' probabilities, `[batch, classes]`.
    """
    if logits.shape[-1] == 1:
        probabilities = labels[:, 1] if labels.ndim == 2 else labels
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], probabilities)
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    unused = logits.shape[-1] - labels.shape[-1]  # the post's 64 outputs for two classes
    return optax.softmax_cross_entropy(logits, jnp.pad(labels, ((0, 0), (0, unused))))


def one_hot(labels: Labels, num_classes: int) -> Float[Array, "batch classes"]:
    """Class numbers as probabilities; probabilities are returned as they are."""
    return labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)


def smoothed(loss: Loss, amount: float, num_classes: int) -> Loss:
    """`loss` with the share `amount` of each label spread over all classes (arXiv:1512.00567)."""

    def smoothed_loss(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
        return loss(logits, (1 - amount) * one_hot(labels, num_classes) + amount / num_classes)

    return smoothed_loss


def label_classes(labels: Any) -> Any:
    """The class of each label; of soft labels, the most probable one. JAX's or NumPy's arrays."""
    if labels.ndim == 2:
        return labels.argmax(axis=-1)
    return labels if jnp.issubdtype(labels.dtype, jnp.integer) else (labels > 0.5).astype(int)
