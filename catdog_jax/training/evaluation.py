"""Evaluation: logits, loss and accuracy over all images; whether model, images and labels fit."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from ..data.arrays import Arrays, as_split, unlabelled
from ..data.splits import Split
from ..errors import InputError, first_line
from .augment import BatchAugmentation
from .features import features_of, logits_by_features
from .feed import limit_dispatch, stream
from .losses import Logits, Loss, cross_entropy
from .mesh import data_mesh, fetch, jit, replicate
from .metrics import Metrics, metrics_of
from .state import Dtype, apply, in_mode


def evaluate(
    model: nnx.Module,
    data: Split | Arrays,
    *,
    batch_size: int = 32,
    threshold: float = 0.0,
    loss: Loss = cross_entropy,
    dtype: Dtype = "float32",
    mirror: bool = False,
    mesh: Mesh | None = None,
) -> Metrics:
    """Loss and accuracy over all images, without dropout and with running batch statistics.

    Args:
        model: takes pixels 0…255 and gives logits.
        data: a split, or images and labels.
        batch_size: images at once.
        threshold: for models with one logit; 0 is a probability of one half.
        loss: (logits, labels) -> one number per image.
        dtype: what the model computes in.
        mirror: take the mean of the logits for an image and for its mirror image.
        mesh: the devices; by default all.

    Raises:
        InputError: there are no images, or they or their labels do not fit the model.
    """
    split = as_split(data)
    check_fit(model, split, loss=loss)
    logits = predict_logits(
        model, split, batch_size=batch_size, dtype=dtype, mirror=mirror, mesh=mesh
    )
    return metrics_of(logits, split.labels, threshold, loss)


def predict_logits(
    model: nnx.Module,
    images: Any,
    *,
    batch_size: int = 32,
    dtype: Dtype = "float32",
    mirror: bool = False,
    by_features: bool = False,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "images outputs"]:
    """Logits of all images, in order; arguments as in `evaluate`.

    Args:
        model: takes pixels 0…255 and gives logits.
        images: a split, or an array `[n, height, width, channels]`.
        batch_size: images at once.
        dtype: what the model computes in.
        mirror: as in `evaluate`.
        by_features: call a `FeatureModel` in two programs, those of a training that leaves its
            features fixed, which are compiled already; not with `mirror`.
        mesh: the devices; by default all.

    Raises:
        InputError: there are no images.
    """
    if by_features:
        mesh = data_mesh(batch_size) if mesh is None else mesh
        features = features_of(model, images, batch_size, dtype, mesh)
        return logits_by_features(model, features, dtype, mesh)
    return Inference(model, dtype=dtype, mirror=mirror).logits(images, batch_size, mesh)


class Inference:
    """A model taken apart once, to be asked many times: for one small image that is half the time.

    Later changes of the model have no effect.
    """

    def __init__(
        self, model: nnx.Module, *, dtype: Dtype = "float32", mirror: bool = False
    ) -> None:
        """Arguments as in `evaluate`."""
        self._graphdef, self._state = nnx.split(in_mode(model, training=False))
        self._dtype: Dtype = dtype
        self._mirror = mirror
        self._state_on: dict[Mesh, PyTree] = {}

    def logits(
        self, images: Any, batch_size: int = 32, mesh: Mesh | None = None
    ) -> Float[np.ndarray, "images outputs"]:
        """As `predict_logits`."""
        if not isinstance(images, Split):
            images = unlabelled(images)
        if not len(images):
            raise InputError("there are no images to train or evaluate on")
        mesh = data_mesh(batch_size) if mesh is None else mesh
        if mesh not in self._state_on:
            self._state_on[mesh] = replicate(self._state, mesh)
        state = self._state_on[mesh]
        with jax.set_mesh(mesh):
            outputs = (
                infer(self._graphdef, self._dtype, self._mirror, state, batch["image"])
                for batch in stream(images.batches(batch_size), mesh)
            )
            logits = np.concatenate([fetch(output) for output in limit_dispatch(outputs)])
        return logits[: len(images)]  # without padding


def logits_of(
    graphdef: nnx.GraphDef, dtype: Dtype, mirror: bool, state: PyTree, images: Array
) -> Logits:
    """Logits of images, or with `mirror` their mean with those of the mirrored images."""
    if not mirror:
        return apply(graphdef, dtype, state, images)
    # One pass, so that the network is compiled once; side by side, both stay on their device.
    both = jnp.stack([images, images[:, :, ::-1]], axis=1)
    logits = apply(graphdef, dtype, state, both.reshape(-1, *images.shape[1:]))
    return logits.reshape(-1, 2, logits.shape[-1]).mean(axis=1)


infer = jit(static_argnums=(0, 1, 2))(logits_of)


def check_fit(
    model: nnx.Module,
    *splits: Split,
    loss: Loss = cross_entropy,
    augment: BatchAugmentation | None = None,
) -> None:
    """Refuse images or labels that do not fit the model or the loss.

    `augment` is that of the first split, in training.

    Raises:
        InputError: they do not fit.
    """
    if not all(map(len, splits)):
        raise InputError("there are no images to train or evaluate on")
    if not isinstance(loss, Hashable):  # programs are kept by it
        raise InputError("loss must be hashable, as functions are")
    shapes = {split.images.shape[1:] for split in splits}
    logits = {shape: _logits_of_two(model, shape) for shape in shapes}
    name = type(model).__name__
    for split in splits:
        _check_labels(split.labels, logits[split.images.shape[1:]], loss, name)
    if augment is not None:
        first = splits[0]
        shape = first.images.shape[1:]
        key = jax.eval_shape(lambda: jax.random.key(0))
        images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        _, augmented = jax.eval_shape(augment, key, images, _two(first.labels))
        _check_loss(loss, logits[shape], augmented)


def _logits_of_two(model: nnx.Module, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the logits of two images of this shape."""
    name, size = type(model).__name__, "×".join(map(str, shape))
    graphdef, state = nnx.split(in_mode(model, training=False))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    try:
        logits = jax.eval_shape(lambda images: apply(graphdef, "float32", state, images), images)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} does not take images of {size} (height×width×channels); was it made for "
            f"another size? ({first_line(error)})"
        ) from error
    if logits.ndim != 2 or logits.shape[0] != 2:
        raise InputError(
            f"{name} must give logits [batch, outputs], but 2 images gave {logits.shape}"
        )
    return logits


def _check_labels(labels: Any, logits: jax.ShapeDtypeStruct, loss: Loss, name: str) -> None:
    outputs = logits.shape[1]
    classes = max(outputs, 2)
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= classes:
            raise InputError(
                f"labels go from {least} to {most}, but {name} has {outputs} "
                f"{'output' if outputs == 1 else 'outputs'}, for classes 0 to {classes - 1}; "
                f"{'number the labels from 0' if least > 0 else 'make it with num_classes'}"
            )
    elif labels.ndim == 2 and labels.shape[1] > classes:
        raise InputError(f"labels have {labels.shape[1]} classes, but {name} has {outputs} outputs")
    _check_loss(loss, logits, _two(labels))


def _two(labels: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *labels.shape[1:]), labels.dtype)


def _check_loss(loss: Loss, logits: jax.ShapeDtypeStruct, labels: jax.ShapeDtypeStruct) -> None:
    try:
        losses = jax.eval_shape(loss, logits, labels)
    except Exception as error:  # it may be anyone's code
        shape = ", ".join(["n", *map(str, labels.shape[1:])])
        raise InputError(
            f"the loss does not take labels {labels.dtype}[{shape}] ({first_line(error)}); give "
            "one that does (mixup and label smoothing make probabilities of class numbers)"
        ) from error
    if losses.shape != (2,):
        raise InputError(f"a loss must give one number per image, but 2 images gave {losses.shape}")
