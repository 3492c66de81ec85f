"""Model 6: a small residual network, trained from scratch."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from ..errors import InputError
from .layers import BatchNorm, PathParts, rescale
from .ops import Images

_he = nnx.initializers.he_normal()


class Model6(nnx.Module):
    """A small residual network of standard layers, with batch norm before each convolution.

    A strided convolution and four stages of residual blocks (He et al. 2016, arXiv:1603.05027),
    each at half the size of the one before; then batch norm, global average pooling, dropout and
    one logit per class. Takes pixels 0…255.

    Args:
        image_size: height and width of the images; decides the stride of the first convolution.
        num_classes: number of classes.
        widths: channels of each stage.
        blocks: residual blocks of each stage.
        stride: of the first convolution; by default 4, or less for images below 128 pixels, so
            that the last stage still sees 4×4 pixels. Half of it is better, and four times as slow.
        dropout: rate before the last layer.
        rngs: source of the initial weights.

    Raises:
        InputError: `widths` and `blocks` are not as many.
    """

    def __init__(
        self,
        *,
        image_size: int = 128,
        num_classes: int = 2,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 1, 1),
        stride: int | None = None,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) != len(blocks):
            raise InputError(f"{len(widths)} widths, but {len(blocks)} numbers of blocks")
        stride = min(4, max(1, image_size // 32)) if stride is None else stride
        self.stem = _conv(3, widths[0], max(3, 2 * stride - 1), stride, rngs)
        self.blocks = nnx.List()
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                halves = 2 if stage > 0 and block == 0 else 1
                self.blocks.append(ResidualBlock(channels, width, halves, rngs=rngs))
                channels = width
        self.norm = NormRelu(channels, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    @property
    def stages(self) -> list[PathParts]:
        """Paths of the stem, the blocks, the last norm and the head."""
        blocks: list[PathParts] = [("blocks", index) for index in range(len(self.blocks))]
        return [("stem",), *blocks, ("norm",), ("head",)]

    def __call__(self, images: Num[Array, "batch height width 3"]) -> Float[Array, "batch outputs"]:
        """Logits of `images`."""
        x = self.stem(rescale(images).astype(self.stem.kernel.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(jnp.mean(self.norm(x), axis=(1, 2))))


class NormRelu(BatchNorm):
    """Batch norm and relu in one, so that a layer's output is what is pooled (for heat maps)."""

    def __call__(self, *args: Any, **options: Any) -> Array:
        """Normalized features, zero where negative."""
        return nnx.relu(super().__call__(*args, **options))


class ResidualBlock(nnx.Module):
    """Batch norm, relu and a 3×3 convolution, twice, added to the input.

    If the shape changes, the input is averaged over 2×2 pixels and projected by a 1×1 convolution.
    """

    def __init__(self, in_features: int, features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = BatchNorm(in_features, momentum=0.9, rngs=rngs)
        self.conv1 = _conv(in_features, features, 3, stride, rngs)
        self.norm2 = BatchNorm(features, momentum=0.9, rngs=rngs)
        self.conv2 = _conv(features, features, 3, 1, rngs)
        changes = stride > 1 or in_features != features
        self.projection = _conv(in_features, features, 1, 1, rngs) if changes else None
        self.stride = stride

    def __call__(self, images: Images) -> Images:
        """The features, at `1 / stride` of the size."""
        x = nnx.relu(self.norm1(images))
        shortcut = images
        if self.projection is not None:
            window = (self.stride, self.stride)
            pooled = nnx.avg_pool(x, window, window, padding="SAME", count_include_pad=False)
            shortcut = self.projection(pooled)
        x = self.conv1(x)
        return shortcut + self.conv2(nnx.relu(self.norm2(x)))


def _conv(in_features: int, features: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        in_features,
        features,
        (size, size),
        strides=stride,
        use_bias=False,
        kernel_init=_he,
        rngs=rngs,
    )
