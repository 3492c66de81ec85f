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
from jaxtyping import Array, Int8

from . import ops
from .cpu_ops import unpooled
from .ops import Images, Kernel, Padding

_FEW_CHANNELS = 4


def pooled_conv2d(images: Images, kernel: Kernel, *, padding: Padding) -> Images:
    """`max_pool(conv2d(images, kernel))`, equal up to rounding."""

    def plain(images: Images, kernel: Kernel) -> Images:
        return ops.max_pool(ops.conv2d(images, kernel, padding=padding))

    if images.shape[-1] > _FEW_CHANNELS:
        return plain(images, kernel)
    here = partial(_of_few_channels, padding)
    return lax.platform_dependent(images, kernel, cpu=here, default=plain)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_few_channels(padding: Padding, images: Images, kernel: Kernel) -> Images:
    # In a loop, since XLA would compute the sums again for each reader of the result.
    return ops.in_microbatches(partial(_largest, padding), kernel, images)


def _forward(
    padding: Padding, images: Images, kernel: Kernel
) -> tuple[Images, tuple[Images, Kernel]]:
    return _of_few_channels(padding, images, kernel), (images, kernel)


def _backward(
    padding: Padding, saved: tuple[Images, Kernel], cotangent: Images
) -> tuple[Images, Kernel]:
    """To the first of a window's largest pixels, which are computed again; then XLA's gradient."""
    images, kernel = saved
    convolve = partial(ops.conv2d, padding=padding)
    first = ops.in_microbatches(partial(_first_of_largest, padding), kernel, images)
    _, height, width, _ = jax.eval_shape(convolve, images, kernel).shape
    gradient = unpooled(first, cotangent, height, width)
    return jax.vjp(convolve, images, kernel)[1](gradient)


_of_few_channels.defvjp(_forward, _backward)


def _largest(padding: Padding, kernel: Kernel, images: Images) -> Images:
    return reduce(jnp.maximum, _pixels_of_windows(padding, images, kernel))


def _first_of_largest(
    padding: Padding, kernel: Kernel, images: Images
) -> Int8[Array, "batch height width channels"]:
    """Which of a window's four pixels."""
    pixels = _pixels_of_windows(padding, images, kernel)
    largest, first = reduce(jnp.maximum, pixels), jnp.full(pixels[0].shape, 3, jnp.int8)
    for place in (2, 1, 0):
        first = jnp.where(pixels[place] == largest, jnp.int8(place), first)
    return first


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
