"""Models whose logits are `classify(features(images))`: fixed features are computed only once."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from ..data.splits import Split
from .feed import limit_dispatch, stream
from .losses import Logits
from .mesh import fetch, jit, replicate
from .state import Dtype, full_precision, in_dtype, in_mode, in_pixels, trained_parts


@runtime_checkable
class FeatureModel(Protocol):
    """A model whose logits are `classify(features(images))`.

    If none of `feature_parts` is trained, the features of an image are computed only once, in
    inference mode: always for validation, and without augmentation for training as well.
    """

    feature_parts: Sequence[str]
    """Names of the attributes that `features` uses."""

    def features(self, images: Any) -> Any:
        """Features of `images`, `[batch, features]`."""
        ...

    def classify(self, features: Any) -> Any:
        """Logits of features, `[batch, outputs]`."""
        ...


def has_fixed_features(model: nnx.Module, params: PyTree) -> bool:
    """Whether training `params` leaves the features that `model` finds in an image unchanged."""
    return isinstance(model, FeatureModel) and not (
        set(model.feature_parts) & set(trained_parts(params))
    )


def features_of(
    model: nnx.Module, split: Split, batch_size: int, dtype: Dtype, mesh: Mesh
) -> Float[np.ndarray, "n features"]:
    """The features of all images of a split, without dropout and augmentation."""
    graphdef, state = nnx.split(in_mode(model, training=False))
    state = replicate(state, mesh)
    with jax.set_mesh(mesh):
        parts = (
            _features(graphdef, dtype, state, batch["image"])
            for batch in stream(split.batches(batch_size), mesh)
        )
        features = np.concatenate([fetch(part) for part in limit_dispatch(parts)])
    return features[: len(split)]  # without padding


def logits_by_features(
    model: nnx.Module, features: Float[Array | np.ndarray, "n features"], dtype: Dtype, mesh: Mesh
) -> Float[np.ndarray, "n outputs"]:
    """Logits of features: they are small and the head is fast, so all of them are one batch."""
    graphdef, state = nnx.split(in_mode(model, training=False))
    with jax.set_mesh(mesh):
        return fetch(_classify(graphdef, dtype, *replicate((state, features), mesh)))


@jit(static_argnums=(0, 1))
def _features(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, images: Array) -> Array:
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return full_precision(model.features(in_pixels(images, dtype)))


@jit(static_argnums=(0, 1))
def _classify(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, features: Array) -> Logits:
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return full_precision(model.classify(in_pixels(features, dtype)))
