"""What several of the networks are made of."""

from typing import TypeAlias

from jaxtyping import Array, Num

from .ops import Images

PathParts: TypeAlias = tuple[str | int, ...]
"""Where a part of a model is, as `("backbone", "blocks", 3)`; `flax.typing` has it for any key."""


def rescale(images: Num[Array, "batch height width channels"]) -> Images:
    """Map pixels 0…255 to [-1, 1], as MobileNetV2 was trained with."""
    return images / 127.5 - 1.0
