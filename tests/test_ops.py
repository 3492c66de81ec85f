"""The forms that are fast on CPUs give the values and gradients of the plain `lax` operations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from catdog_jax.models import cpu_ops, ops
from catdog_jax.models.pooled_conv import pooled_conv2d


def plain_conv2d(stride, padding, images, kernel):
    return ops.conv2d(images, kernel, stride=stride, padding=padding)


FORMS = {
    "conv2d_in_loop": (cpu_ops.conv2d, plain_conv2d),
    "depthwise_conv2d": (cpu_ops.depthwise_conv2d, ops._depthwise_conv2d_lax),
}


@pytest.fixture(autouse=True)
def _full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def images_and_kernel(operation, size, kernel_size):
    shape = (5, 7) if operation == "conv2d_in_loop" else (1, 5)
    return random(2, *size, 5), random(kernel_size, kernel_size, *shape, seed=1)


HEIGHTS = (6, 11, 32)
"""Sums add up to eight rows first: all, none since 11 is prime, and groups of eight."""


def value_and_gradients(function, *args):
    """Value, and gradients of its product with fixed random numbers."""
    value, transpose = jax.vjp(function, *args)
    return value, transpose(random(*value.shape, seed=2))


def assert_equal(function, reference, *args):
    """The same values and gradients, jitted."""
    results = jax.jit(
        lambda *args: (value_and_gradients(function, *args), value_and_gradients(reference, *args))
    )(*args)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *results)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operation", FORMS)
def test_cpu_convolution_equals_lax(operation, kernel_size, stride, padding):
    cpu, lax = (partial(form, stride, padding) for form in FORMS[operation])
    args = images_and_kernel(operation, (6, 9), kernel_size)  # an even and an odd side
    assert_equal(cpu, lax, *args)


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_cpu_depthwise_convolution_of_more_rows_equals_lax(height, stride):
    cpu, lax = (partial(form, stride, "SAME") for form in FORMS["depthwise_conv2d"])
    assert_equal(cpu, lax, *images_and_kernel("depthwise_conv2d", (height, 9), 3))


@pytest.mark.parametrize("size", [(6, 9), (9, 6)], ids=str)
def test_cpu_max_pool_equals_lax(size):
    assert_equal(cpu_ops.max_pool, cpu_ops.plain_max_pool, random(2, *size, 5))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)], ids=str)
def test_convolution_and_pooling_in_one_equal_both(size, padding):
    def plain(images, kernel):
        return ops.max_pool(ops.conv2d(images, kernel, padding=padding))

    args = random(4, *size, 3), random(3, 3, 3, 5, seed=1)
    here = jax.jit(partial(pooled_conv2d, padding=padding))
    assert_equal(here, plain, *args)
    assert "convolution" not in here.lower(*args).as_text()  # but in its gradient


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_convolution_and_pooling_in_one_keep_the_precision(dtype):
    with jax.enable_x64(True):
        images, kernel = (x.astype(dtype) for x in (random(2, 6, 6, 3), random(3, 3, 3, 4)))
        plain = ops.max_pool(ops.conv2d(images, kernel))
        here = pooled_conv2d(images, kernel, padding="SAME")
        assert here.dtype == dtype
        rounding = 4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(here, plain, rtol=rounding, atol=rounding)


def test_convolution_and_pooling_in_one_where_pixels_are_equal():
    """As in any area of one colour, also black: the first of the largest gets the gradient."""
    images = jnp.ones((4, 6, 6, 3)).at[:2, 2:].set(0).at[0, 4:, 3:].set(1)
    here = partial(pooled_conv2d, padding="SAME")
    plain = lambda images, kernel: ops.max_pool(ops.conv2d(images, kernel))  # noqa: E731
    assert_equal(here, plain, images, random(3, 3, 3, 4))


def test_cpu_bias_equals_a_sum():
    assert_equal(cpu_ops.add_bias, jnp.add, random(2, 6, 9, 5), random(5, seed=1))


@pytest.mark.parametrize("height", HEIGHTS)
def test_cpu_scale_and_shift_equals_its_formula(height):
    args = random(2, height, 9, 5), random(5, seed=1), random(5, seed=2)
    assert_equal(cpu_ops.scale_and_shift, lambda images, a, b: images * a + b, *args)


@pytest.mark.parametrize("height", HEIGHTS)
def test_cpu_moments_are_means(height):
    def means(images):
        return jnp.stack([images.mean((0, 1, 2)), (images**2).mean((0, 1, 2))])

    assert_equal(lambda images: jnp.stack(cpu_ops.moments(images)), means, random(2, height, 9, 5))


def test_cpu_max_pool_equals_lax_where_pixels_are_equal():
    """As in any area of one colour: the first of the largest pixels gets the gradient."""
    images = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 9, 9, 3)), jnp.float32)
    assert_equal(cpu_ops.max_pool, cpu_ops.plain_max_pool, images)


@pytest.mark.parametrize("operation", FORMS)
def test_convolution_on_this_platform_equals_lax(operation):
    public = partial(getattr(ops, operation), stride=2, padding="SAME")
    lax = partial(FORMS[operation][1], 2, "SAME")
    assert_equal(public, lax, *images_and_kernel(operation, (7, 8), 3))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("operation", [*FORMS, "max_pool"])
def test_lowering_is_plain_lax_on_accelerators_only(operation, platform):
    """But for pooling on GPUs."""
    plain = platform == "tpu" or (platform == "cuda" and operation != "max_pool")
    args = images_and_kernel(operation, (8, 8), 3)
    if operation == "max_pool":
        args = args[:1]
    step = jax.jit(partial(value_and_gradients, getattr(ops, operation)))
    program = step.trace(*args).lower(lowering_platforms=(platform,)).as_text()
    slow_on_cpu = ("stablehlo.convolution", "select_and_scatter")
    assert any(name in program for name in slow_on_cpu) == plain


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_microbatches_equal_the_whole_batch(size):
    images = random(size, 4, 4, 3)

    def each(images):
        return images.sum(axis=(1, 2))

    program = jax.jit(
        lambda images: ops.in_microbatches(lambda _, images: each(images), (), images)
    )
    np.testing.assert_allclose(program(images), each(images), rtol=1e-6, atol=1e-6)
    looped = "stablehlo.while" in program.lower(images).as_text()
    assert looped == (size > ops.CPU_MICROBATCH)


def plane(*rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


@pytest.mark.parametrize("operation", [ops.conv2d, ops.conv2d_in_loop, ops.depthwise_conv2d])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Each output is 100 times the pixel's upper left neighbour plus its right neighbour.
        ({"padding": "VALID"}, [[106]]),
        ({"padding": "SAME"}, [[2, 3, 0], [5, 106, 200], [8, 409, 500]]),
        ({"padding": "SAME", "stride": 2}, [[2, 0], [8, 500]]),
    ],
    ids=["valid", "same", "same, stride 2"],
)
def test_convolution_by_hand(operation, options, expected):
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(100).at[1, 2].set(1)
    images = plane([1, 2, 3], [4, 5, 6], [7, 8, 9])
    np.testing.assert_array_equal(operation(images, kernel, **options), plane(*expected))


def test_same_padding_at_stride_2_puts_the_odd_zero_last():
    images = plane([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16])
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)
    np.testing.assert_array_equal(ops.conv2d(images, kernel, stride=2), plane([1, 3], [9, 11]))


def test_max_pool_by_hand_drops_the_odd_row_and_column():
    images = plane([1, 2, 5, 9], [3, 4, 8, 6], [-4, -3, 0, 0], [-2, -1, -7, 0], [99, 99, 99, 99])
    np.testing.assert_array_equal(ops.max_pool(images), plane([4, 9], [-1, 0]))
    np.testing.assert_array_equal(ops.max_pool(images[:, :, :3]), plane([4], [-1]))


def test_max_pool_sends_the_gradient_to_the_largest_pixel_alone():
    images = plane([1, 2, 5, 9], [3, 4, 8, 6])
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x) * plane([10, 20])))(images)
    np.testing.assert_array_equal(gradient, plane([0, 0, 0, 20], [0, 10, 0, 0]))


def test_dense_dot_is_a_matrix_product_with_its_gradient() -> None:
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 7), (7, 3), (5, 3))
    )
    with jax.default_matmul_precision("highest"):
        ours, pull = jax.vjp(ops.dense_dot, x, kernel)
        theirs, their_pull = jax.vjp(jnp.matmul, x, kernel)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        for mine, other in zip(pull(cotangent), their_pull(cotangent), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5)


def test_microbatches_of_a_batch_whose_size_is_not_known_yet():
    """In a program that `jax.export` makes for all platforms."""
    kernel = random(3, 3, 3, 4)

    def convolved(images):
        return ops.in_microbatches(
            lambda kernel, images: ops.conv2d_in_loop(images, kernel), kernel, images
        )

    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 6, 6, 3), np.float32)
    program = export.export(jax.jit(convolved), platforms=("cpu", "cuda", "tpu"))(shape)
    for count in (1, 3):
        images = random(count, 6, 6, 3)
        np.testing.assert_allclose(program.call(images), convolved(images), rtol=1e-5, atol=1e-5)
