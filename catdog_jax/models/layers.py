"""What several of the networks are made of."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Num

from .ops import Images

Path: TypeAlias = tuple[str | int, ...]
"""Where a part of a model is: `("backbone", "blocks", 3)`."""


@runtime_checkable
class Staged(Protocol):
    """A model whose parts are known in order, so that it can be trained by depth."""

    @property
    def stages(self) -> Sequence[Path]:
        """Paths of the parts that hold all parameters, from the input to the output."""
        ...


def rescale(images: Num[Array, "batch height width channels"]) -> Images:
    """Map pixels 0…255 to [-1, 1], as MobileNetV2 was trained with."""
    return images / 127.5 - 1.0
