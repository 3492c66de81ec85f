"""A convolution of photos and the pooling after it, as one operation on CPUs.

XLA's convolution of three channels reaches a twentieth of a core's speed: it took a quarter of a
step of models 1 to 3. As one multiply-add for each kernel position and channel it is fast, and the
four pixels of a window are maximized before they are stored.
"""

from functools import partial, reduce
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32

from . import ops
from .cpu_ops import unpooled
from .ops import Images, Kernel, Padding

_FEW_CHANNELS = 4


def pooled_conv2d(images: Images, kernel: Kernel, *, padding: Padding) -> Images:
    """`max_pool(conv2d(images, kernel))`, equal up to rounding."""

    def plain(images: Images, kernel: Kernel) -> Images:
        return ops.max_pool(ops.conv2d(images, kernel, padding=padding))

    if images.shape[-1] > _FEW_CHANNELS or images.dtype == jnp.float64:
        return plain(images, kernel)
    here = partial(_of_few_channels, padding)
    return lax.platform_dependent(images, kernel, cpu=here, default=plain)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_few_channels(padding: Padding, images: Images, kernel: Kernel) -> Images:
    return _forward(padding, images, kernel)[0]


def _forward(
    padding: Padding, images: Images, kernel: Kernel
) -> tuple[Images, tuple[Images, Kernel, Images]]:
    # In a loop, since XLA would compute the sums again for each reader of the result.
    maxima = ops.in_microbatches(partial(_marked_maxima, padding), kernel, images)
    return maxima.astype(images.dtype), (images, kernel, maxima)


def _backward(
    padding: Padding, saved: tuple[Images, Kernel, Images], cotangent: Images
) -> tuple[Images, Kernel]:
    """To the largest pixel of each window; then XLA's gradient of the convolution."""
    images, kernel, maxima = saved
    convolve = partial(ops.conv2d, padding=padding)
    _, height, width, _ = jax.eval_shape(convolve, images, kernel).shape
    gradient = unpooled(_places(maxima), cotangent, height, width)
    return jax.vjp(convolve, images, kernel)[1](gradient)


_of_few_channels.defvjp(_forward, _backward)


def _marked_maxima(padding: Padding, kernel: Kernel, images: Images) -> Images:
    """The maximum of each window in float32, marked with the place of its pixel, 0 to 3.

    The place is in the two last bits of 24, so the gradient need not compute the pixels again. Of
    equal pixels the first becomes the largest: a negative number grows as its bits fall. An
    infinity becomes a NaN.
    """

    def marked(pixels: Images, place: int) -> Images:
        # XLA takes numbers below the smallest normal one, `tiny`, for zero: a zero would lose its
        # mark. Others of 1e-30 or more do not change.
        bits = _bits(pixels + jnp.finfo(jnp.float32).tiny)
        mark = (3 - place) ^ ((bits >> 31) & 3)
        return lax.bitcast_convert_type((bits & ~3) | mark, jnp.float32)

    kernel, images = kernel.astype(jnp.float32), images.astype(jnp.float32)
    pixels = _pixels_of_windows(padding, images, kernel)
    return reduce(jnp.maximum, [marked(each, place) for place, each in enumerate(pixels)])


def _places(maxima: Images) -> Int32[Array, "batch height width channels"]:
    bits = _bits(maxima)
    return (3 - (bits ^ (bits >> 31))) & 3


def _bits(numbers: Images) -> Int32[Array, "batch height width channels"]:
    return lax.bitcast_convert_type(numbers, jnp.int32)


def _pixels_of_windows(padding: Padding, images: Images, kernel: Kernel) -> list[Images]:
    """The convolution at the four places in the windows of 2×2 pixels, row by row."""
    rows, columns, channels, _ = kernel.shape
    pads = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (1, 1), padding)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    height, width = ((padded.shape[1] - rows + 1) // 2, (padded.shape[2] - columns + 1) // 2)

    def at(top: int, left: int) -> Images:
        products = [
            padded[:, top + y :: 2, left + x :: 2, channel, None][:, :height, :width]
            * kernel[y, x, channel]
            for y in range(rows)
            for x in range(columns)
            for channel in range(channels)
        ]
        return cast(Array, sum(products))

    return [at(top, left) for top in (0, 1) for left in (0, 1)]
