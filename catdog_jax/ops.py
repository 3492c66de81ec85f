"""Convolution, depthwise convolution and max pooling, each lowered to what is fast on the platform.

On GPU and TPU these are the plain `lax` operations. On a CPU, XLA (0.10) runs convolutions inside
a loop, depthwise convolutions and the gradients of both 5 to 25 times slower than the processor
can. There a convolution is a matrix product over columns of shifted images, a depthwise
convolution nine shifted multiply-adds, and 2×2 max pooling pairwise maxima. Values and gradients
are the same up to rounding; `tests/test_ops.py` compares them.

Layout throughout: images `[batch, height, width, channels]`, kernels
`[kernel_height, kernel_width, in_channels, out_channels]`.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"]
Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "kernel_height kernel_width in_channels out_channels"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv2d(images: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = "SAME") -> Images:
    """Convolve `images` with `kernel`; padding as TensorFlow and `lax` define it."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_conv2d_cpu, stride, padding),
        default=partial(_conv2d_lax, stride, padding),
    )


def depthwise_conv2d(
    images: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = "SAME"
) -> Images:
    """Convolve each channel with its own kernel; `kernel` is `[height, width, 1, channels]`."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_depthwise_conv2d_cpu, stride, padding),
        default=partial(_depthwise_conv2d_lax, stride, padding),
    )


def max_pool(images: Images) -> Images:
    """Maximum over 2×2 windows at stride 2; an odd last row or column is dropped."""
    return lax.platform_dependent(images, cpu=_max_pool_cpu, default=_max_pool_lax)


# The plain forms: GPU, TPU, and the reference of the tests.


def _conv2d_lax(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    strides = (stride, stride)
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _depthwise_conv2d_lax(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_LAYOUT,
        feature_group_count=images.shape[-1],
    )


def _max_pool_lax(images: Images) -> Images:
    window = (1, 2, 2, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


# The CPU forms.


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv2d_cpu(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    columns = _columns(_pad(images, kernel.shape, stride, padding), kernel.shape, stride)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _conv2d_cpu_forward(
    stride: int, padding: Padding, images: Images, kernel: Kernel
) -> tuple[Images, tuple[Images, Kernel]]:
    return _conv2d_cpu(stride, padding, images, kernel), (images, kernel)


def _conv2d_cpu_backward(
    stride: int, padding: Padding, saved: tuple[Images, Kernel], cotangent: Images
) -> tuple[Images, Kernel]:
    """Gradients of the convolution.

    Written by hand because it halves the time of a training step: the columns are cut again
    rather than kept (they are nine times the images), and the images' gradient adds up slices of
    one product over a padded cotangent instead of nine padded arrays.
    """
    images, kernel = saved
    columns, transpose_images = jax.vjp(
        lambda x: _columns(_pad(x, kernel.shape, stride, padding), kernel.shape, stride), images
    )
    out_channels = kernel.shape[-1]
    kernel_gradient = columns.reshape(-1, columns.shape[-1]).T @ cotangent.reshape(-1, out_channels)
    if stride != 1:
        (images_gradient,) = transpose_images(cotangent @ kernel.reshape(-1, out_channels).T)
    else:
        images_gradient = _input_gradient(padding, images, kernel, cotangent)
    return images_gradient, kernel_gradient.reshape(kernel.shape)


_conv2d_cpu.defvjp(_conv2d_cpu_forward, _conv2d_cpu_backward)


def _input_gradient(padding: Padding, images: Images, kernel: Kernel, cotangent: Images) -> Images:
    """Gradient of a stride-1 convolution by its images."""
    _, height, width, channels = images.shape
    rows, cols, _, out_channels = kernel.shape
    (top, _), (left, _) = _pads(images.shape, kernel.shape, 1, padding)
    # Pixel (y, x) met kernel tap (i, j) in output (y + top - i, x + left - j); with `above` rows
    # and `before` columns of zeros in front, every such output is a plain slice.
    above, before = rows - 1 - top, cols - 1 - left
    below = height + rows - 1 - above - cotangent.shape[1]
    after = width + cols - 1 - before - cotangent.shape[2]
    padded = jnp.pad(cotangent, ((0, 0), (above, below), (before, after), (0, 0)))
    taps = padded @ kernel.reshape(-1, out_channels).T
    taps = taps.reshape(*padded.shape[:3], rows * cols, channels)
    return sum(
        (
            taps[:, rows - 1 - i :, cols - 1 - j :, i * cols + j][:, :height, :width]
            for i in range(rows)
            for j in range(cols)
        ),
        start=jnp.zeros((), images.dtype),
    )


def _depthwise_conv2d_cpu(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    padded = _pad(images, kernel.shape, stride, padding)
    shifts = _shifts(padded, kernel.shape, stride)
    taps = kernel.reshape(-1, kernel.shape[-1])
    return sum(
        (shift * tap for shift, tap in zip(shifts, taps, strict=True)),
        start=jnp.zeros((), images.dtype),
    )


def _max_pool_cpu(images: Images) -> Images:
    batch, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    # Neighbours in a row lie side by side in memory once two pixels share the channel axis.
    pairs = images.reshape(batch, -1, width // 2, 2 * channels)
    rows = jnp.maximum(pairs[..., :channels], pairs[..., channels:])
    rows = rows.reshape(batch, height // 2, 2, width // 2, channels)
    return jnp.maximum(rows[:, :, 0], rows[:, :, 1])


def _pads(
    images: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = lax.padtype_to_pads(images[1:3], kernel[:2], (stride, stride), padding)
    return rows, columns


def _pad(images: Images, kernel: tuple[int, ...], stride: int, padding: Padding) -> Images:
    return jnp.pad(images, ((0, 0), *_pads(images.shape, kernel, stride, padding), (0, 0)))


def _shifts(padded: Images, kernel: tuple[int, ...], stride: int) -> list[Images]:
    """What each kernel tap sees, in the taps' order: `[batch, out_height, out_width, channels]`."""
    rows, cols = kernel[:2]
    height = padded.shape[1] - rows + 1
    width = padded.shape[2] - cols + 1
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(rows)
        for j in range(cols)
    ]


def _columns(padded: Images, kernel: tuple[int, ...], stride: int) -> Images:
    """Each output pixel's patch as one row, ordered as the kernel's first three axes."""
    return jnp.concatenate(_shifts(padded, kernel, stride), axis=-1)
