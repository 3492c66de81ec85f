"""Model 6, a small residual network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from catdog_jax.errors import InputError
from catdog_jax.models.create import create_model
from catdog_jax.models.layers import BatchNorm
from catdog_jax.models.resnet import Model6, ResidualBlock
from catdog_jax.training.loop import fit
from catdog_jax.training.state import in_mode

TINY: dict[str, Any] = {"widths": (8,), "blocks": (1,), "image_size": 32}


@pytest.mark.parametrize(("name", "count"), [("model6", 889_506), ("model6_deep", 908_666)])
def test_it_has_at_most_a_million_and_a_half_parameters(name: str, count: int) -> None:
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    assert sum(array.size for array in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (64, 2), (128, 4), (224, 4)])
def test_small_images_are_shrunk_less(size: int, stride: int) -> None:
    model = Model6(widths=(4,), blocks=(1,), image_size=size, num_classes=3, rngs=nnx.Rngs(0))
    assert model.stem(jnp.zeros((1, size, size, 3))).shape == (1, size // stride, size // stride, 4)
    assert in_mode(model, training=False)(jnp.zeros((2, size, size, 3), jnp.uint8)).shape == (2, 3)


def test_a_block_adds_to_its_input() -> None:
    block = ResidualBlock(3, 3, 1, rngs=nnx.Rngs(0))
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    images = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    np.testing.assert_array_equal(block(images), images)


def test_a_projection_averages_the_pixels_that_are_there() -> None:
    """Of an odd size, the last row and column alone."""
    block = in_mode(ResidualBlock(2, 2, 2, rngs=nnx.Rngs(0)), training=False)
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    assert block.projection is not None
    block.projection.kernel[...] = jnp.eye(2)[None, None]
    images = jnp.ones((1, 5, 5, 2))
    np.testing.assert_allclose(block(images), jnp.ones((1, 3, 3, 2)), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_batch_norm_is_that_of_flax(dtype: str) -> None:
    """Features, running statistics and gradients; and with running statistics."""
    images = 3 * jax.random.normal(jax.random.key(0), (4, 6, 7, 8)).astype(dtype) + 2
    weights = jax.random.normal(jax.random.key(1), images.shape)

    def everything(kind: type[nnx.BatchNorm]) -> Any:
        norm = kind(8, momentum=0.9, rngs=nnx.Rngs(0))
        assert norm.scale is not None
        assert norm.bias is not None
        norm.scale[...], norm.bias[...] = jnp.linspace(0.5, 2, 8), jnp.linspace(-1, 1, 8)
        loss = nnx.jit(lambda norm, images: (norm(images) * weights).sum())
        gradients = nnx.grad(loss, argnums=(0, 1))(norm, images)
        return gradients, norm(images), norm.mean, norm.var, norm(images, use_running_average=True)

    found, expected = everything(BatchNorm), everything(nnx.BatchNorm)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_stages_hold_all_parameters_once() -> None:
    model = nnx.eval_shape(lambda: Model6(**TINY, rngs=nnx.Rngs(0)))
    for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        assert sum(path[: len(stage)] == stage for stage in model.stages) == 1


def test_widths_and_blocks_go_together() -> None:
    with pytest.raises(InputError, match="2 widths, but 1 numbers of blocks"):
        Model6(widths=(8, 8), blocks=(1,), rngs=nnx.Rngs(0))


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal stripes (class 0) and vertical ones, shifted at random."""
    labels = (np.arange(count) % 2).astype(np.int32)
    across = np.arange(32) + np.random.default_rng(0).integers(0, 8, (count, 1))
    waves = (127 + 100 * np.sin(across * np.pi / 4))[:, :, None, None]
    rows = np.broadcast_to(waves, (count, 32, 32, 3))
    return np.where(labels[:, None, None, None], rows.swapaxes(1, 2), rows), labels


def test_it_learns_more_than_colours() -> None:
    images, labels = stripes(64)
    model = Model6(**TINY, rngs=nnx.Rngs(0))
    data = images, labels
    *_, last = fit(model, data, data, epochs=10, batch_size=16, optimizer=optax.adam(3e-3))
    assert last.val_accuracy == 1
