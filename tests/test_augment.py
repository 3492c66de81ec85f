"""Flips and rotations: Keras's own transforms, exact cases, fair draws, one key an image."""

from unittest import mock

import jax
import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
from scipy import stats

from catdog_jax.models.layers import rescale
from catdog_jax.training import augment

pytestmark = keras_reference.ignore_keras_warnings

SIZES = [(24, 24), (17, 30), (31, 16), (6, 60)]
AUGMENTATIONS = [jax.jit(augment.random_flip), jax.jit(augment.random_rotation)]
flip, rotate = jax.jit(augment.flip), jax.jit(augment.rotate)


def random_pixels(count, height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, 3)).astype("float32")


def assert_same_pixels(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * 255)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rotate_equals_keras(size):
    keras = keras_reference.import_keras()
    degrees = np.array([-72, -33.3, -1, 0.5, 45, 60, 71.9, 90, 180], "float32")
    images = random_pixels(len(degrees), *size)
    layer = keras.layers.RandomRotation(0.2)
    drawn = keras.ops.convert_to_tensor(degrees)
    with mock.patch.object(layer.backend.random, "uniform", return_value=drawn):
        transformation = layer.get_random_transformation(images, training=True)
    expected = layer.transform_images(images, transformation, training=True)
    assert_same_pixels(rotate(images, np.deg2rad(degrees)), expected)


@pytest.mark.parametrize(
    ("mode", "axes"),
    [("horizontal", (True, False)), ("vertical", (False, True)), ("both", (True, True))],
)
def test_flip_equals_keras(mode, axes):
    keras = keras_reference.import_keras()
    images, coins = random_pixels(4, 6, 9), np.array([True, False, False, True])
    layer = keras.layers.RandomFlip("horizontal_and_vertical" if mode == "both" else mode)
    transformation = {"flips": coins[:, None, None, None], "input_shape": images.shape}
    expected = layer.transform_images(images, transformation, training=True)
    actual = flip(images, *(coins & axis for axis in axes))
    np.testing.assert_array_equal(actual, expected)


def test_flip_takes_one_coin_an_axis_and_image():
    images = random_pixels(4, 5, 6)
    flipped = flip(
        images, np.array([False, True, False, True]), np.array([False, False, True, True])
    )
    expected = [images[0], images[1, :, ::-1], images[2, ::-1], images[3, ::-1, ::-1]]
    np.testing.assert_array_equal(flipped, expected)


def test_flip_twice_is_the_identity():
    images, yes = random_pixels(3, 5, 6), np.ones(3, bool)
    np.testing.assert_array_equal(flip(flip(images, yes, yes), yes, yes), images)


def test_rotate_by_nothing_is_the_identity():
    images = random_pixels(2, 5, 8)
    np.testing.assert_array_equal(rotate(images, jnp.zeros(2)), images)


@pytest.mark.parametrize("quarters", [-1, 1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_rotate_by_quarter_turns_is_rot90(size, quarters):
    images = random_pixels(2, size, size)
    rotated = rotate(images, jnp.full(2, quarters * np.pi / 2))
    assert_same_pixels(rotated, np.rot90(images, quarters, axes=(1, 2)))


def test_rotate_mirrors_beyond_the_border():
    # Four rows a, b, c, d, a quarter turn: across the wide image, d c b a | a b c d | d c b a.
    rows = np.array([10, 20, 30, 40], "float32")
    images = np.broadcast_to(rows[:, None, None], (1, 4, 12, 3))
    expected = np.broadcast_to(np.pad(rows, 4, "symmetric")[:, None], (1, 4, 12, 3))
    assert_same_pixels(rotate(images, jnp.array([np.pi / 2])), expected)


@pytest.mark.parametrize("factor", [0.2, 0.05])
def test_angles_are_uniform_within_the_factor_of_a_turn(factor, monkeypatch):
    monkeypatch.setattr(augment, "rotate", lambda images, angles: angles)
    keys = jax.random.split(jax.random.key(0), 4000)
    angles = augment.random_rotation(keys, jnp.zeros((4000, 1, 1, 3)), factor=factor)
    turns = np.asarray(angles) / (2 * np.pi)
    assert np.abs(turns).max() <= factor
    assert np.abs(turns).max() > 0.99 * factor
    assert abs(turns.mean()) < 4 * factor / np.sqrt(3 * 4000)
    assert stats.kstest(turns, "uniform", (-factor, 2 * factor)).pvalue > 0.01


def test_angles_are_within_a_fifth_of_a_turn_by_default(monkeypatch):
    monkeypatch.setattr(augment, "rotate", lambda images, angles: angles)
    keys = jax.random.split(jax.random.key(0), 1000)
    angles = augment.random_rotation(keys, jnp.zeros((1000, 1, 1, 3)))
    assert np.abs(angles).max() == pytest.approx(np.deg2rad(72), rel=0.01)


def test_draws_are_distributed_as_kerass_but_for_its_one_coin():
    """Keras 3 tosses one coin an image for both axes: it is left alone or turned by 180°."""
    keras = keras_reference.import_keras()
    images = np.zeros((4000, 2, 2, 3), "float32")
    flips = keras.layers.RandomFlip("horizontal_and_vertical", seed=0)
    coins = np.asarray(flips.get_random_transformation(images)["flips"])
    assert coins.shape == (4000, 1, 1, 1)
    assert stats.binomtest(int(coins.sum()), 4000).pvalue > 0.01
    rotation = keras.layers.RandomRotation(0.2, seed=0)
    degrees = np.asarray(rotation.get_random_transformation(images)["angle"])
    with mock.patch.object(augment, "rotate", lambda images, angles: angles):
        keys = jax.random.split(jax.random.key(0), 4000)
        angles = np.rad2deg(augment.random_rotation(keys, jnp.asarray(images)))
    assert stats.kstest(angles, degrees).pvalue > 0.01


def test_each_pair_of_coins_is_a_quarter_of_all(monkeypatch):
    monkeypatch.setattr(augment, "flip", lambda images, *coins: coins)
    keys = jax.random.split(jax.random.key(0), 4000)
    horizontal, vertical = map(np.asarray, augment.random_flip(keys, jnp.zeros((4000, 1, 1, 3))))
    counts = np.bincount(2 * horizontal + vertical, minlength=4)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=["flip", "rotation"])
class TestOneKeyAnImage:
    def keys(self):
        return jax.random.split(jax.random.key(1), 6)

    def test_the_order_of_the_batch_does_not_matter(self, augmentation):
        images, order = random_pixels(6, 8, 8), np.array([3, 0, 5, 1, 4, 2])
        expected = augmentation(self.keys(), images)[order]
        actual = augmentation(self.keys()[order], images[order])
        np.testing.assert_allclose(actual, expected, atol=1e-3)

    def test_nor_where_the_batch_is_cut(self, augmentation):
        images, keys = random_pixels(6, 8, 8), self.keys()
        halves = [augmentation(keys[:2], images[:2]), augmentation(keys[2:], images[2:])]
        np.testing.assert_allclose(np.concatenate(halves), augmentation(keys, images), atol=1e-3)

    def test_images_alike_come_out_different(self, augmentation):
        images = np.broadcast_to(random_pixels(1, 8, 8), (6, 8, 8, 3))
        results = np.asarray(augmentation(self.keys(), images))
        assert len({result.tobytes() for result in results}) > 2


def test_rescale_maps_pixels_to_plus_minus_one():
    np.testing.assert_array_equal(rescale(jnp.array([0, 127.5, 255])), [-1, 0, 1])
