"""Augmentations: flips and rotations as in Keras, exact cases, fair draws, one key per image."""

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
flip, rotate = jax.jit(jax.vmap(augment.flip)), jax.jit(jax.vmap(augment.rotate))
KEYS = jax.random.split(jax.random.key(0), 4000)
BLACK = jnp.zeros((4000, 1, 1, 3))


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


def test_flip_takes_one_coin_per_axis_and_image():
    images = random_pixels(4, 5, 6)
    flipped = flip(
        images, np.array([False, True, False, True]), np.array([False, False, True, True])
    )
    expected = [images[0], images[1, :, ::-1], images[2, ::-1], images[3, ::-1, ::-1]]
    np.testing.assert_array_equal(flipped, expected)


def test_rotate_by_zero_is_the_identity():
    images = random_pixels(2, 5, 8)
    np.testing.assert_array_equal(rotate(images, jnp.zeros(2)), images)


@pytest.mark.parametrize("quarters", [-1, 1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_rotate_by_quarter_turns_is_rot90(size, quarters):
    images = random_pixels(2, size, size)
    rotated = rotate(images, jnp.full(2, quarters * np.pi / 2))
    assert_same_pixels(rotated, np.rot90(images, quarters, axes=(1, 2)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_form_for_tpus_gives_the_same_pixels(size, monkeypatch):
    angles = np.deg2rad(np.array([-180, -72, -33.3, 0, 0.5, 45, 71.9, 90], "float32"))
    images = random_pixels(len(angles), *size)
    expected = rotate(images, angles)
    monkeypatch.setattr(augment, "_bilinear", augment._bilinear_by_products)
    for_tpus = jax.jit(jax.vmap(lambda image, angle: augment.rotate(image, angle)))
    np.testing.assert_allclose(for_tpus(images, angles), expected, rtol=0, atol=1e-5 * 255)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_tpus_rotate_without_gathers(platform):
    traced = rotate.trace(random_pixels(2, 8, 8), np.zeros(2, "float32"))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("gather" in program) == (platform != "tpu")
    assert ("dot_general" in program) == (platform == "tpu")


def test_rotate_mirrors_beyond_the_border():
    # Four rows a, b, c, d, a quarter turn: across the wide image, d c b a | a b c d | d c b a.
    rows = np.array([10, 20, 30, 40], "float32")
    images = np.broadcast_to(rows[:, None, None], (1, 4, 12, 3))
    expected = np.broadcast_to(np.pad(rows, 4, "symmetric")[:, None], (1, 4, 12, 3))
    assert_same_pixels(rotate(images, jnp.array([np.pi / 2])), expected)


@pytest.mark.parametrize("factor", [0.2, 0.05])
def test_angles_are_uniform_within_the_factor_of_a_turn(factor, monkeypatch):
    monkeypatch.setattr(augment, "rotate", lambda image, angle: image + angle)
    angles = jax.vmap(augment.random_rotation(factor))(KEYS, BLACK)
    turns = np.asarray(angles)[:, 0, 0, 0] / (2 * np.pi)
    assert np.abs(turns).max() <= factor
    assert np.abs(turns).max() > 0.99 * factor
    assert abs(turns.mean()) < 4 * factor / np.sqrt(3 * 4000)
    assert stats.kstest(turns, "uniform", (-factor, 2 * factor)).pvalue > 0.01


def test_flips_and_angles_are_distributed_as_in_keras():
    """Except that Keras 3 tosses one coin for both axes: none is flipped, or both."""
    keras = keras_reference.import_keras()
    images = np.zeros((4000, 2, 2, 3), "float32")
    flips = keras.layers.RandomFlip("horizontal_and_vertical", seed=0)
    coins = np.asarray(flips.get_random_transformation(images)["flips"])
    assert coins.shape == (4000, 1, 1, 1)
    assert stats.binomtest(int(coins.sum()), 4000).pvalue > 0.01
    rotation = keras.layers.RandomRotation(0.2, seed=0)
    degrees = np.asarray(rotation.get_random_transformation(images)["angle"])
    with mock.patch.object(augment, "rotate", lambda image, angle: image + angle):
        angles = np.rad2deg(jax.vmap(augment.random_rotation())(KEYS, BLACK))
    assert stats.kstest(angles[:, 0, 0, 0], degrees).pvalue > 0.01


def test_each_pair_of_coins_is_a_quarter_of_all(monkeypatch):
    def flip(image, *coins):
        return image + jnp.array([*coins, 0])

    monkeypatch.setattr(augment, "flip", flip)
    coins = np.asarray(jax.vmap(augment.random_flip)(KEYS, BLACK)).astype(int)
    horizontal, vertical = coins[:, 0, 0, 0], coins[:, 0, 0, 1]
    counts = np.bincount(2 * horizontal + vertical, minlength=4)
    assert stats.chisquare(counts).pvalue > 0.01


def test_a_mirrored_image_is_never_upside_down():
    image = jnp.asarray(random_pixels(1, 4, 5)[0])
    mirrored = jax.jit(jax.vmap(augment.random_mirror, (0, None)))(KEYS[:40], image)
    seen = {np.asarray(one).tobytes() for one in mirrored}
    assert seen == {np.asarray(image).tobytes(), np.asarray(image[:, ::-1]).tobytes()}


def test_a_crop_is_a_part_of_the_image_of_the_right_size():
    """Red is the column and green the row, so that pixels show where they were."""
    size = 32
    rows, columns = np.mgrid[:size, :size].astype("float32")
    image = np.stack([columns, rows, 0 * rows], axis=-1)
    crops = np.asarray(jax.jit(jax.vmap(augment.random_crop(0.25), (0, None)))(KEYS[:500], image))
    width = (crops[:, 16, -2, 0] - crops[:, 16, 1, 0]) / (size - 3)
    height = (crops[:, -2, 16, 1] - crops[:, 1, 16, 1]) / (size - 3)
    area, aspect = width * height, width / height
    assert area.min() > 0.2
    assert area.max() < 1.02
    assert 0.6 < area.mean() < 0.65  # uniform from a quarter to one
    assert aspect.min() > 0.73
    assert aspect.max() < 1.36
    assert crops.min() >= -1e-3
    assert crops.max() <= size - 1 + 1e-3


def test_colours_change_by_at_most_the_strength_and_stay_in_range():
    def change(strength, count, image):
        colour = jax.jit(jax.vmap(augment.random_colour(strength), (0, None)))
        return np.asarray(colour(KEYS[:count], image))

    grey = jnp.full((4, 4, 3), 100.0)
    changed = change(0.2, 1000, grey)
    assert changed.min() == pytest.approx(80, abs=0.5)
    assert changed.max() == pytest.approx(120, abs=0.5)
    red = jnp.zeros((4, 4, 3)).at[..., 0].set(255.0)
    changed = change(0.5, 100, red)
    assert changed.min() >= 0
    assert changed.max() <= 255
    np.testing.assert_allclose(change(0.0, 1, grey)[0], grey, rtol=1e-6)


def test_mixup_mixes_images_and_labels_by_one_share():
    """Images that equal their labels show the shares in which they were mixed."""
    labels = jnp.arange(8) % 3
    images = jnp.broadcast_to(jax.nn.one_hot(labels, 3)[:, None, None, :], (8, 2, 2, 3))
    mixed, shares = jax.jit(augment.mixup(1.0, 3))(jax.random.key(3), images, labels)
    np.testing.assert_allclose(mixed[:, 0, 0], shares, rtol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert len(np.unique(np.round(shares, 5))) > 2


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_of_mixup_are_from_a_beta_distribution(alpha):
    """Of two images, one black, one white: the share is a pixel, or 1 minus it."""
    images = jnp.stack([jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))])
    keys = jax.random.split(jax.random.key(0), 4000)
    mix = jax.vmap(augment.mixup(alpha, 2), in_axes=(0, None, None))
    pixels = np.asarray(jax.jit(mix)(keys, images, jnp.arange(2))[0])[:, 1, 0, 0, 0]
    of_pairs = pixels[pixels < 1]  # the others were mixed with themselves
    assert len(of_pairs) > 1500
    assert stats.kstest(of_pairs, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_augmentations_go_in_order_each_image_with_its_own_key():
    def add(key, image):
        return image + jax.random.uniform(key)

    def double_all(key, images, labels):
        return 2 * images, labels + 1

    images, labels = jnp.zeros((6, 2, 2, 3)), jnp.arange(6)
    augmented = augment.combined([add, add, double_all, add])
    result, shifted = jax.jit(augmented)(jax.random.key(0), images, labels)
    draws = np.asarray(result[:, 0, 0, 0])
    assert len(np.unique(draws)) == 6
    assert draws.min() > 0
    assert draws.max() < 5
    np.testing.assert_array_equal(shifted, labels + 1)
    once, _ = jax.jit(augment.combined(add))(jax.random.key(0), images, labels)
    assert 0 < np.asarray(once).max() < 1
    same, _ = augment.combined(())(jax.random.key(0), images, labels)
    assert same is images


def test_rescale_maps_pixels_to_plus_minus_one():
    pixels = jnp.array([0, 127.5, 255]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(rescale(pixels).ravel(), [-1, 0, 1])
