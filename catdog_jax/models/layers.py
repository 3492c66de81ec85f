"""What several of the networks are made of."""

from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Num

from .ops import Images

PathParts: TypeAlias = tuple[str | int, ...]
"""Where a part of a model is, as `("backbone", "blocks", 3)`; `flax.typing` has it for any key."""

STAYS_FLOAT32 = "stays_float32"
"""Metadata of a parameter that its layer itself rounds, where it does, in `dtype="bfloat16"`."""


def rescale(images: Num[Array, "batch height width channels"]) -> Images:
    """Map pixels 0…255 to [-1, 1], as MobileNetV2 was trained with; bfloat16 is rounded once."""
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    rescaled = images.astype(dtype) / 127.5 - 1.0
    return rescaled.astype(jnp.bfloat16) if images.dtype == jnp.bfloat16 else rescaled


def weights_of(model: nnx.Module) -> dict[PathParts, Any]:
    """Parameters and batch statistics by path."""
    state: Any = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return dict(state)
