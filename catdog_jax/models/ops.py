"""Convolution, depthwise convolution and max pooling in the form that is fast on each platform.

On GPUs and TPUs they are the plain `lax` operations. On CPUs, XLA (jaxlib 0.10 to 0.12) has a fast
convolution, given the compiler option of `training.mesh.jit`, but it is 5 to 25 times slower inside
loops, slow for depthwise convolutions, and slow in the gradient of pooling. So on CPUs a
convolution in a loop is a matrix product over columns of shifted images (im2col), a depthwise
convolution is one shifted multiply-add for each kernel position, and pooling has its own gradient.
Values and gradients are equal up to rounding, see `tests/test_ops.py`.

Layout throughout: images `[batch, height, width, channels]`, kernels
`[kernel_height, kernel_width, in_channels, out_channels]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

Padding = Literal["SAME", "VALID"]
Images = Float[Array, "batch _height _width _channels"]
Kernel = Float[Array, "kernel_height kernel_width in_channels out_channels"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")

CPU_MICROBATCH = 2


def conv2d(images: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = "SAME") -> Images:
    """Convolve `images` with `kernel`; padding as TensorFlow and `lax` define it."""
    strides = (stride, stride)
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=_LAYOUT)


def conv2d_in_loop(
    images: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = "SAME"
) -> Images:
    """`conv2d` for the body of a loop such as that of `in_microbatches`."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_conv2d_cpu, stride, padding),
        default=partial(conv2d, stride=stride, padding=padding),
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


def dense_dot(inputs: Array, kernel: Array, _: Any = None, **__: Any) -> Array:
    """`inputs @ kernel` as the `dot_general` of an `nnx.Linear`, for large kernels.

    JAX computes a kernel's gradient transposed and turns it afterwards. With a batch on several
    devices XLA sums it over them in between, and the optimizer then reads it across the grain,
    which took a tenth of a step of models 1 and 2 on a CPU. Here it is computed as it is stored.
    """
    return _matmul(inputs, kernel)


def in_microbatches(function: Callable[..., Array], replicated: PyTree, *batch: Array) -> Array:
    """`function(replicated, *batch)` for a function of single images; on CPUs two images at a time.

    The activations of a whole batch exceed the processor's caches, those of two images do not: this
    halved the time of MobileNetV2's forward pass. It also keeps XLA from fusing `function` into
    every operation that reads its result, which would compute it repeatedly. Worthwhile if
    `function` is fast in a loop (see `conv2d_in_loop`).

    Within a mesh (`jax.set_mesh`) each device processes its own part of the batch; the number of
    devices must divide the batch. In an exported program, whose batch has no size yet
    (`jax.export.symbolic_shape`), the platform is chosen when it runs, and on a CPU it takes one
    image at a time.
    """
    if not isinstance(batch[0].shape[0], int):
        one_by_one = partial(_map_microbatches, function)
        return lax.platform_dependent(replicated, *batch, cpu=one_by_one, default=function)
    if jax.default_backend() != "cpu":
        return function(replicated, *batch)
    on_device = partial(_map_microbatches, function)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and not mesh.manual_axes:
        cut = PartitionSpec("data")
        on_device = jax.shard_map(
            on_device,
            in_specs=(PartitionSpec(), *[cut] * len(batch)),
            out_specs=cut,
            check_vma=False,
        )
    return on_device(replicated, *batch)


def _map_microbatches(function: Callable[..., Array], replicated: PyTree, *batch: Array) -> Array:
    size = batch[0].shape[0]
    parts = range(1, CPU_MICROBATCH + 1) if isinstance(size, int) else (1,)
    part = max(n for n in parts if size % n == 0)
    if size == part:
        return function(replicated, *batch)
    parts = [array.reshape(size // part, part, *array.shape[1:]) for array in batch]
    outputs = lax.map(lambda examples: function(replicated, *examples), parts)
    return outputs.reshape(size, *outputs.shape[2:])


# The plain forms: GPU, TPU, and the reference of the tests.


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


def _conv2d_cpu(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    shifts = _shifts(images, kernel.shape, stride, padding)
    # Each output pixel's patch as a row, ordered like the kernel's first three axes.
    columns = jnp.concatenate(shifts, axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _depthwise_conv2d_cpu(stride: int, padding: Padding, images: Images, kernel: Kernel) -> Images:
    shifts = _shifts(images, kernel.shape, stride, padding)
    taps = kernel.reshape(-1, kernel.shape[-1])
    return sum(
        (shift * tap for shift, tap in zip(shifts, taps, strict=True)),
        start=jnp.zeros((), images.dtype),
    )


@jax.custom_vjp
def _max_pool_cpu(images: Images) -> Images:
    # The forward pass of `lax`: XLA would fuse a maximum written out pair by pair into each of its
    # readers and compute it repeatedly; it does not do this to `reduce_window`.
    return _max_pool_lax(images)


def _max_pool_cpu_forward(images: Images) -> tuple[Images, tuple[Images, Images]]:
    maxima = _max_pool_cpu(images)
    return maxima, (images, maxima)


def _max_pool_cpu_backward(saved: tuple[Images, Images], cotangent: Images) -> tuple[Images]:
    """Pass each window's gradient to the first of its largest pixels, as `lax` does.

    `lax`'s own gradient (select-and-scatter) took ten times as long. The minimum over positions is
    a reduction, which XLA computes once; comparing with it is cheap to repeat.
    """
    images, maxima = saved
    batch, rows, columns, channels = maxima.shape
    windows = images[:, : 2 * rows, : 2 * columns]
    windows = windows.reshape(batch, rows, 2, columns, 2, channels)
    place = jnp.arange(4, dtype=jnp.int32).reshape(1, 1, 2, 1, 2, 1)
    largest = windows == maxima[:, :, None, :, None]
    first = jnp.where(largest, place, 4).min(axis=(2, 4), keepdims=True)
    gradient = jnp.where(place == first, cotangent[:, :, None, :, None], 0)
    gradient = gradient.reshape(batch, 2 * rows, 2 * columns, channels)
    _, height, width, _ = images.shape
    return (jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


_max_pool_cpu.defvjp(_max_pool_cpu_forward, _max_pool_cpu_backward)


@jax.custom_vjp
def _matmul(inputs: Array, kernel: Array) -> Array:
    return inputs @ kernel


def _matmul_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _matmul_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    return cotangent @ kernel.T, lax.dot_general(inputs, cotangent, (((0,), (0,)), ((), ())))


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _shifts(images: Images, kernel: tuple[int, ...], stride: int, padding: Padding) -> list[Images]:
    """The input of each kernel tap, in order: `[batch, out_height, out_width, channels]`."""
    rows, cols = kernel[:2]
    size, strides = images.shape[1:3], (stride, stride)
    row_padding, column_padding = lax.padtype_to_pads(size, (rows, cols), strides, padding)
    padded = jnp.pad(images, ((0, 0), row_padding, column_padding, (0, 0)))
    height = padded.shape[1] - rows + 1
    width = padded.shape[2] - cols + 1
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(rows)
        for j in range(cols)
    ]
