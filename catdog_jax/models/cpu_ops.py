"""Convolution, depthwise convolution and max pooling for CPUs, and their gradients.

XLA (jaxlib 0.10 to 0.12) has a fast convolution for CPUs, but it is 5 to 25 times slower inside
loops, slow for depthwise convolutions, and slow in the gradient of pooling. Here a convolution is a
matrix product over columns of shifted images (im2col), and a depthwise convolution is one shifted
multiply-add for each kernel position. Their gradients are written so that each large array is
computed once: XLA computes an elementwise result again for each of its readers, unless these are
matrix products.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"]
Images = Float[Array, "batch _height _width _channels"]
Kernel = Float[Array, "kernel_height kernel_width in_channels out_channels"]


def plain_max_pool(images: Images) -> Images:
    window = (1, 2, 2, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


def conv2d(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    shifts = _shifts(images, kernel.shape, stride, padding)
    # Each output pixel's patch as a row, ordered like the kernel's first three axes.
    columns = jnp.concatenate(shifts, axis=-1)
    return _mix_channels(columns, kernel.reshape(-1, kernel.shape[-1]))


@jax.custom_vjp
def _mix_channels(images: Images, kernel: Float[Array, "channels out"]) -> Images:
    return images @ kernel


def _mix_channels_forward(images: Images, kernel: Array) -> tuple[Images, tuple[Images, Array]]:
    return images @ kernel, (images, kernel)


def _mix_channels_backward(saved: tuple[Images, Array], cotangent: Images) -> tuple[Images, Array]:
    """As JAX does it, but for which factor XLA has to turn: the narrower one."""
    images, kernel = saved
    rows, cotangents = (array.reshape(-1, array.shape[-1]) for array in (images, cotangent))
    over_rows = (((0,), (0,)), ((), ()))
    if rows.shape[1] <= cotangents.shape[1]:
        to_kernel = lax.dot_general(rows, cotangents, over_rows)
    else:
        to_kernel = lax.dot_general(cotangents, rows, over_rows).T
    return cotangent @ kernel.T, to_kernel


_mix_channels.defvjp(_mix_channels_forward, _mix_channels_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def depthwise_conv2d(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    return _filtered(stride, padding, images, kernel)


def _filtered(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    shifts = _shifts(images, kernel.shape, stride, padding)
    taps = kernel.reshape(-1, kernel.shape[-1])
    return sum(
        (shift * tap for shift, tap in zip(shifts, taps, strict=True)),
        start=jnp.zeros((), images.dtype),
    )


def _depthwise_forward(
    stride: int, padding: Padding, images: Images, kernel: Kernel
) -> tuple[Images, tuple[Images, Kernel]]:
    return _filtered(stride, padding, images, kernel), (images, kernel)


def _depthwise_backward(
    stride: int, padding: Padding, saved: tuple[Images, Kernel], cotangent: Images
) -> tuple[Images, Kernel]:
    """JAX's own took three times as long: pads that are added up, and sums of strided columns."""
    images, kernel = saved
    size = kernel.shape[:2]
    # Of the images: convolve with the turned kernel, with stride - 1 zeros between the pixels.
    low = [pad for pad, _ in lax.padtype_to_pads(images.shape[1:3], size, (stride,) * 2, padding)]
    edges = [
        (taps - 1 - pad, whole + pad - stride * (part - 1) - 1, stride - 1)
        for whole, part, taps, pad in zip(
            images.shape[1:3], cotangent.shape[1:3], size, low, strict=True
        )
    ]
    zero = jnp.zeros((), cotangent.dtype)
    spread = lax.pad(cotangent, zero, [(0, 0, 0), *edges, (0, 0, 0)])
    to_images = _filtered(1, "VALID", spread, kernel[::-1, ::-1])
    padded, size_of_shift = _padded(images, kernel.shape, stride, padding)
    extent = (padded.shape[0], *size_of_shift, padded.shape[3])

    def to_tap(tap: Array) -> Array:
        corner = (0, tap // size[1], tap % size[1], 0)
        shift = lax.dynamic_slice(padded, corner, extent)[:, ::stride, ::stride]
        return _sum_of_products(shift, cotangent)

    # A loop: one compiled body instead of nine saves a quarter of a step and of its compilation.
    to_taps = lax.map(to_tap, jnp.arange(size[0] * size[1]))
    return to_images, to_taps.reshape(kernel.shape)


depthwise_conv2d.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def add_bias(images: Images, bias: Float[Array, " channels"]) -> Images:
    return images + bias


def _add_bias_forward(images: Images, bias: Array) -> tuple[Images, None]:
    return images + bias, None


def _add_bias_backward(saved: None, cotangent: Images) -> tuple[Images, Array]:
    del saved
    return cotangent, _sum_of_rows(cotangent)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def moments(images: Images) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and mean square of each channel."""
    count = images.size // images.shape[-1]
    return _sum_of_rows(images) / count, _sum_of_products(images, images) / count


def _moments_forward(images: Images) -> tuple[tuple[Array, Array], Images]:
    return moments(images), images


def _moments_backward(images: Images, cotangents: tuple[Array, Array]) -> tuple[Images]:
    of_mean, of_square = (each * images.shape[-1] / images.size for each in cotangents)
    return (of_mean + 2 * of_square * images,)


moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
def scale_and_shift(
    images: Images, scale: Float[Array, " channels"], shift: Float[Array, " channels"]
) -> Images:
    return images * scale + shift


def _scale_and_shift_forward(
    images: Images, scale: Array, shift: Array
) -> tuple[Images, tuple[Images, Array]]:
    return scale_and_shift(images, scale, shift), (images, scale)


def _scale_and_shift_backward(
    saved: tuple[Images, Array], cotangent: Images
) -> tuple[Images, Array, Array]:
    images, scale = saved
    return cotangent * scale, _sum_of_products(cotangent, images), _sum_of_rows(cotangent)


scale_and_shift.defvjp(_scale_and_shift_forward, _scale_and_shift_backward)


def _sum_of_rows(images: Images) -> Float[Array, " channels"]:
    """The sum over all but the last axis, as a product with ones: XLA reduces more slowly."""
    rows = images.reshape(-1, images.shape[-1])
    return jnp.ones(len(rows), images.dtype) @ rows


def _sum_of_products(left: Images, right: Images) -> Float[Array, " channels"]:
    """The sum of `left * right` over batch, height and width.

    Up to eight rows are added up first: XLA makes that one loop with the product, whose result, as
    large as the images, is then never written.
    """
    batch, height, *rest = left.shape
    rows = max(divisor for divisor in range(1, 9) if height % divisor == 0)
    products = (left * right).reshape(batch, height // rows, rows, *rest)
    return _sum_of_rows(products.sum(axis=2))


@jax.custom_vjp
def max_pool(images: Images) -> Images:
    return lax.platform_dependent(images, cpu=_largest_of_windows, default=plain_max_pool)


def _max_pool_forward(images: Images) -> tuple[Images, tuple[Images, Images]]:
    maxima = max_pool(images)
    return maxima, (images, maxima)


def _max_pool_backward(saved: tuple[Images, Images], cotangent: Images) -> tuple[Images]:
    """Pass each window's gradient to the first of its largest pixels, as `lax` does.

    `lax`'s own gradient (select-and-scatter) took ten times as long.
    """
    images, maxima = saved
    left, right = _columns_of_windows(images)
    largest, place = maxima[:, :, None], jnp.arange(0, 4, 2, dtype=jnp.int32).reshape(2, 1, 1)
    first_of_row = jnp.where(left == largest, place, jnp.where(right == largest, place + 1, 4))
    first = first_of_row.min(axis=2)
    return (unpooled(first, cotangent, *images.shape[1:3]),)


def _largest_of_windows(images: Images) -> Images:
    left, right = _columns_of_windows(images)
    return jnp.maximum(left, right).max(axis=2)


def _columns_of_windows(images: Images) -> tuple[Array, Array]:
    """The left and the right pixels of windows of 2×2, `[batch, height, 2, width, channels]`.

    What is computed of them ends in a reduction over their axis of two rows: XLA does not compute a
    reduction again for each of its readers. One over both axes took four times as long.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // 2, width // 2
    windows = images[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, 2 * columns, channels)
    return windows[:, :, :, ::2], windows[:, :, :, 1::2]


def unpooled(first: Array, cotangent: Images, height: int, width: int) -> Images:
    """Each window's gradient at its pixel `first`, of four; zeros elsewhere."""
    batch, rows, columns, channels = cotangent.shape
    place = jnp.arange(4, dtype=first.dtype).reshape(1, 1, 2, 1, 2, 1)
    gradient = jnp.where(place == first[:, :, None, :, None], cotangent[:, :, None, :, None], 0)
    gradient = gradient.reshape(batch, 2 * rows, 2 * columns, channels)
    return jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _shifts(images: Images, kernel: tuple[int, ...], stride: int, padding: Padding) -> list[Images]:
    """The input of each kernel tap, in order: `[batch, out_height, out_width, channels]`."""
    padded, (height, width) = _padded(images, kernel, stride, padding)
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _padded(
    images: Images, kernel: tuple[int, ...], stride: int, padding: Padding
) -> tuple[Images, tuple[int, int]]:
    """The images with their padding, and height and width of what a kernel tap passes over."""
    rows, columns = kernel[:2]
    pads = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (stride, stride), padding)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    return padded, (padded.shape[1] - rows + 1, padded.shape[2] - columns + 1)
