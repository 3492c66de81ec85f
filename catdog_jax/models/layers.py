"""What several of the networks are made of."""

from typing import Any, TypeAlias

from flax import nnx
from jaxtyping import Array, Num

from .ops import Images

PathParts: TypeAlias = tuple[str | int, ...]
"""Where a part of a model is, as `("backbone", "blocks", 3)`; `flax.typing` has it for any key."""


def rescale(images: Num[Array, "batch height width channels"]) -> Images:
    """Map pixels 0…255 to [-1, 1], as MobileNetV2 was trained with."""
    return images / 127.5 - 1.0


def weights_of(model: nnx.Module) -> dict[PathParts, Any]:
    """Parameters and batch statistics by path."""
    state: Any = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return dict(state)
