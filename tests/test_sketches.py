"""The drawn data set: repeatable, balanced, and not solvable without looking at shapes."""

import numpy as np
import pytest
from jaxtyping import Float64, Int32, UInt8

from catdog_jax.data.sketches import CLASS_NAMES, draw, draw_one

TRAINED = 600


@pytest.fixture(scope="module")
def sketches() -> tuple[UInt8[np.ndarray, "1000 64 64 3"], Int32[np.ndarray, " 1000"]]:
    return draw(1000, image_size=64, seed=0)


def held_out_accuracy(
    features: Float64[np.ndarray, "n features"], labels: Int32[np.ndarray, " n"]
) -> float:
    """Return the accuracy of ridge regression trained on the first `TRAINED` rows."""
    features = features - features[:TRAINED].mean(axis=0)
    features /= features[:TRAINED].std(axis=0)
    kernel = features @ features.T / features.shape[1]
    signs = 2.0 * labels - 1
    weights = np.linalg.solve(kernel[:TRAINED, :TRAINED] + 0.1 * np.eye(TRAINED), signs[:TRAINED])
    scores = kernel[TRAINED:, :TRAINED] @ weights
    return float(np.mean((scores > 0) == (signs[TRAINED:] > 0)))


def test_longer_draw_repeats_the_shorter_one():
    images, labels = draw(4, image_size=48, seed=3)
    more_images, more_labels = draw(7, image_size=48, seed=3)
    np.testing.assert_array_equal(images, more_images[:4])
    np.testing.assert_array_equal(labels, more_labels[:4])


def test_all_pictures_differ():
    images = np.concatenate([draw(20, image_size=32, seed=seed)[0] for seed in (0, 1)])
    assert len({image.tobytes() for image in images}) == 40


@pytest.mark.parametrize(("count", "image_size"), [(0, 32), (1, 33), (5, 97), (2, 160)])
def test_shapes_dtypes_and_balance(count: int, image_size: int):
    images, labels = draw(count, image_size)
    assert images.shape == (count, image_size, image_size, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    assert counts.sum() == count
    assert np.ptp(counts) <= 1


def test_size_changes_resolution_and_not_the_scene():
    small, _ = draw(12, image_size=64)
    large, _ = draw(12, image_size=128)
    shrunk = large.reshape(12, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    distance = np.abs(shrunk[:, None] - small[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(12))


def test_heads_lie_any_way_unless_told_otherwise():
    turned, upright = (draw(40, 32, tilt=tilt)[0].astype(float) for tilt in (180, 0))
    assert not np.array_equal(turned, upright)
    # The mean of upright drawings differs from itself upside down; that of turned ones less so.
    distances = [np.abs((mean := x.mean(axis=0)) - mean[::-1]).mean() for x in (turned, upright)]
    assert distances[0] < distances[1]


def test_label_decides_the_animal():
    cat, dog = (draw_one(np.random.default_rng(1), label, 64).astype(int) for label in (0, 1))
    assert np.mean(np.abs(cat - dog).max(axis=-1) > 40) > 0.02


def test_rejects_a_negative_count_and_a_tiny_picture():
    with pytest.raises(ValueError, match="count"):
        draw(-1)
    with pytest.raises(ValueError, match="image_size"):
        draw(0, image_size=31)


@pytest.mark.slow
def test_colour_does_not_tell_cats_from_dogs(sketches):
    """Slow: 1,000 drawings. Nothing can change while `EDITION` does not."""
    images, labels = sketches
    pixels = images.reshape(len(images), -1, 3)
    features = np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    # Measured 0.53 here, 0.52 and 0.57 with other seeds.
    assert held_out_accuracy(features, labels) < 0.6


@pytest.mark.slow
def test_linear_classifier_on_pixels_is_not_enough(sketches):
    """Slow, as above."""
    images, labels = sketches
    blocks = images.reshape(len(images), 32, 2, 32, 2, 3).mean(axis=(2, 4))
    # Measured 0.61 here and with two other seeds; the networks reach 0.84 to 0.94.
    assert held_out_accuracy(blocks.reshape(len(images), -1), labels) < 0.66
