"""What several of the networks are made of."""

from jaxtyping import Array, Num

from .ops import Images


def rescale(images: Num[Array, "batch height width channels"]) -> Images:
    """Map pixels 0…255 to [-1, 1], as MobileNetV2 was trained with."""
    return images / 127.5 - 1.0
