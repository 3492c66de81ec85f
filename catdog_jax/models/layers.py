"""What several of the networks are made of."""

from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Num

from . import cpu_ops, ops
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


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm, trained on a CPU with sums and gradients that are fast there.

    Flax's own took a fifth of a step of model 6, most of it for XLA's sums over an array.
    """

    def __call__(self, x: Array, use_running_average: bool | None = None, **options: Any) -> Array:
        """`x`, normalized."""
        fixed = self.use_running_average if use_running_average is None else use_running_average
        gain, bias = self.scale, self.bias
        here = ops.platform() == "cpu" and x.dtype == jnp.float32 and not options
        if fixed or not here or gain is None or bias is None:
            return super().__call__(x, use_running_average, **options)
        mean, square = cpu_ops.moments(x)
        variance = jnp.maximum(square - mean**2, 0)
        for running, new in ((self.mean, mean), (self.var, variance)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * new
        scale = gain[...] * lax.rsqrt(variance + self.epsilon)
        return cpu_ops.scale_and_shift(x, scale, bias[...] - mean * scale)


def weights_of(model: nnx.Module) -> dict[PathParts, Any]:
    """Parameters and batch statistics by path."""
    state: Any = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return dict(state)
