"""Convolution, depthwise convolution and max pooling in the form that is fast on each platform.

On GPUs and TPUs they are the plain `lax` operations (but for pooling on GPUs), on CPUs those of
`cpu_ops`; outside loops the convolution, too, is XLA's own, which is fast with the compiler option
of `training.mesh.jit`.
Values and gradients are equal up to rounding, see `tests/test_ops.py`.

Layout throughout: images `[batch, height, width, channels]`, kernels
`[kernel_height, kernel_width, in_channels, out_channels]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from . import cpu_ops
from .cpu_ops import Images, Kernel, Padding

_LAYOUT = ("NHWC", "HWIO", "NHWC")

CPU_MICROBATCH = 2


def platform() -> str:
    """The platform of the program that is traced: "cpu", "gpu" or "tpu".

    That of the mesh (`jax.set_mesh`), which may be one that this machine does not have, or else
    JAX's default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


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
        cpu=partial(cpu_ops.conv2d, stride, padding),
        default=partial(conv2d, stride=stride, padding=padding),
    )


def pointwise_conv2d(
    images: Images, kernel: Float[Array, "in_channels out_channels"], *, rounded: bool
) -> Images:
    """A 1×1 convolution for computing in bfloat16: of float32 arrays, with a float32 result.

    If `rounded`, the factors are rounded to bfloat16. If not, GPUs take TF32, and TPUs three passes
    in bfloat16: a tenth of the rounding error, or less.
    """
    if rounded:
        images, kernel = images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    precision = None if rounded else "high"
    return jnp.matmul(images, kernel, precision=precision, preferred_element_type=jnp.float32)


def depthwise_conv2d(
    images: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = "SAME"
) -> Images:
    """Convolve each channel with its own kernel; `kernel` is `[height, width, 1, channels]`."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(cpu_ops.depthwise_conv2d, stride, padding),
        default=partial(_depthwise_conv2d_lax, stride, padding),
    )


def add_bias(images: Images, bias: Float[Array, " channels"]) -> Images:
    """`images + bias`."""
    return lax.platform_dependent(images, bias, cpu=cpu_ops.add_bias, default=jnp.add)


def max_pool(images: Images) -> Images:
    """Maximum over 2×2 windows at stride 2; an odd last row or column is dropped.

    The gradient of `lax` is one operation on TPUs; on GPUs it is three kernels, with a scatter.
    """
    return lax.platform_dependent(images, tpu=cpu_ops.plain_max_pool, default=cpu_ops.max_pool)


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
    if platform() != "cpu":
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


def recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`, whose values are computed again for gradients on a CPU; for use in a loop.

    Keeping them, and reading them back from memory, took longer.
    """
    if platform() != "cpu":
        return function
    return jax.checkpoint(function, prevent_cse=False)


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


@jax.custom_vjp
def _matmul(inputs: Array, kernel: Array) -> Array:
    return inputs @ kernel


def _matmul_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _matmul_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    return cotangent @ kernel.T, lax.dot_general(inputs, cotangent, (((0,), (0,)), ((), ())))


_matmul.defvjp(_matmul_forward, _matmul_backward)
