"""Heat maps: against definitions, finite differences, and what covering a hot region does."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.image import resize

import catdog_jax as cd
from catdog_jax.errors import InputError
from catdog_jax.models.ready_made import ready_made
from catdog_jax.training.evaluation import predict_logits


class Small(nnx.Module):
    """A feature map after two layers; then something that no formula of CAM covers."""

    def __init__(self, outputs: int = 3, *, rngs: nnx.Rngs) -> None:
        self.convs = nnx.Sequential(
            nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs),
            nnx.Conv(4, 5, (3, 3), strides=2, rngs=rngs),
        )
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dense = nnx.Linear(5 * 4 * 4, outputs, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def features(self, images: Any) -> Any:
        return self.convs(images / 255)

    def classify(self, features: Any) -> Any:
        x = self.dropout(nnx.tanh(self.norm(features)))
        return self.dense(x.reshape(len(x), -1))

    def __call__(self, images: Any) -> Any:
        return self.classify(self.features(images))


class Pooled(nnx.Module):
    """Global average pooling and one linear layer: what CAM was defined for."""

    def __init__(self, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), strides=4, rngs=rngs)
        self.head = nnx.Linear(6, outputs, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        return self.head(self.conv(images / 255).mean(axis=(1, 2)))


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


def scaled(maps: Any) -> np.ndarray:
    """Coarse maps as `explain` gives them."""
    fine = np.asarray(resize(jnp.maximum(maps, 0), IMAGES.shape[:3], "bilinear"))
    return fine / np.maximum(fine.max(axis=(1, 2), keepdims=True), 1e-9)


def test_heat_maps_agree_with_finite_differences() -> None:
    model = Small(rngs=nnx.Rngs(0))
    before = nnx.state(model)
    classes = np.array([0, 2, 1, 1, 0])
    found = cd.explain(model, IMAGES, classes, layer="convs")
    evaluated: Any = nnx.view(model, deterministic=True, use_running_average=True)
    features = np.asarray(evaluated.features(jnp.asarray(IMAGES, float)))
    maps = np.zeros(features.shape[:3])
    for image, label in enumerate(classes):
        for channel in range(5):
            # One channel raised everywhere: the sum of the gradients over its positions.
            sides = []
            for sign in (1, -1):
                moved = features[image].copy()
                moved[..., channel] += sign * 0.02
                sides.append(float(evaluated.classify(moved[None])[0, label]))
            gradient = (sides[0] - sides[1]) / 0.04 / (4 * 4)
            maps[image] += gradient * features[image, ..., channel]
    np.testing.assert_allclose(found, scaled(maps), atol=2e-3)
    assert found.shape == (5, 16, 16)
    assert found.dtype == np.float32
    # The model is as before, and was asked in inference mode: dropout would have drawn.
    assert type(model.convs) is nnx.Sequential
    nnx.update(model, before)
    np.testing.assert_array_equal(cd.explain(model, IMAGES, classes, layer="convs"), found)


@pytest.mark.parametrize("outputs", [1, 2])
def test_after_global_pooling_they_are_cam(outputs: int) -> None:
    """By default for the predicted class; of one logit, toward the predicted side."""
    model = Pooled(outputs, rngs=nnx.Rngs(1))
    features = np.asarray(model.conv(jnp.asarray(IMAGES / 255, jnp.float32)))
    weights = np.asarray(model.head.kernel)
    logits = np.asarray(model(jnp.asarray(IMAGES, float)))
    if outputs == 1:
        chosen = weights[:, 0] * np.where(logits > 0, 1, -1)
    else:
        chosen = weights.T[logits.argmax(axis=1)]
    expected = scaled(np.einsum("nhwc,nc->nhw", features, chosen))
    found = cd.explain(model, IMAGES, batch_size=3)  # the last batch is filled up
    np.testing.assert_allclose(found, expected, atol=1e-4)


class Spots(nnx.Module):
    """Class 1 is what has a white spot: smoothed, squared, averaged."""

    def __init__(self) -> None:
        self.smooth = nnx.Conv(3, 1, (5, 5), strides=2, rngs=nnx.Rngs(0))
        self.smooth.kernel[...] = jnp.full((5, 5, 3, 1), 1 / 75)

    def __call__(self, images: Any) -> Any:
        found = self.smooth(images / 255).mean(axis=(1, 2))
        return jnp.concatenate([jnp.full_like(found, 0.02), found], axis=1)


def test_the_hot_region_is_where_the_evidence_is() -> None:
    rng = np.random.default_rng(2)
    images = np.zeros((6, 32, 32, 3), np.uint8)
    places = rng.integers(0, 24, (6, 2))
    for image, (row, column) in zip(images, places, strict=True):
        image[row : row + 8, column : column + 8] = 255
    heat = cd.explain(Spots(), images, [1] * 6)
    for one, (row, column) in zip(heat, places, strict=True):
        inside = one[row : row + 8, column : column + 8]
        assert inside.mean() > 10 * (one.sum() - inside.sum()) / (one.size - 64)


@pytest.mark.slow
def test_covering_the_hot_fifth_changes_the_answer_more_than_the_coldest(shared: Any) -> None:
    """Slow: the classifier of the package, on real photos."""
    model = ready_made()
    photos = cd.load_data(shared / "data/cats_and_dogs_filtered.zip", 128).validation
    images = np.stack([photos.images[index] for index in range(0, len(photos), 13)])
    heat = cd.explain(model, images).reshape(len(images), -1)

    def logits(pixels: np.ndarray) -> np.ndarray:
        return predict_logits(model, pixels.reshape(images.shape))

    rows, sure = np.arange(len(images)), logits(images)
    answers = sure.argmax(axis=1)
    order, fifth = heat.argsort(axis=1), heat.shape[1] // 5
    falls = []
    for covered in (order[:, -fifth:], order[:, :fifth]):
        pixels = images.reshape(len(images), -1, 3).copy()
        pixels[rows[:, None], covered] = images.mean(axis=(1, 2))[:, None].astype(np.uint8)
        margin = (sure - logits(pixels))[rows, answers] - (sure - logits(pixels))[rows, 1 - answers]
        falls.append(margin)
    hot, cold = falls
    assert (hot > cold).mean() > 0.8
    assert hot.mean() > 3 * abs(cold.mean())


def test_the_layer_can_be_named_and_what_does_not_fit_is_refused() -> None:
    model = Small(rngs=nnx.Rngs(0))
    # By default the last layer with rows and columns: dropout, which passes on what tanh gave.
    by_default = cd.explain(model, IMAGES, [0] * 5)
    np.testing.assert_array_equal(cd.explain(model, IMAGES, [0] * 5, layer="dropout"), by_default)
    assert (
        np.abs(cd.explain(model, IMAGES, [0] * 5, layer="convs/layers/0") - by_default).max() > 0.1
    )
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"layer": "dense"},
            "no layer dense whose output has rows and columns.*those that do: convs",
        ),
        ({"classes": [0, 1]}, "5 whole numbers"),
        ({"classes": [0, 1, 2, 3, 0]}, "from 0 to 2"),
    ]
    for wrong, said in cases:
        with pytest.raises(InputError, match=said):
            cd.explain(model, IMAGES, **wrong)
    with pytest.raises(InputError, match="does not take images of 8×8×3"):
        cd.explain(model, IMAGES[:, :8, :8])
    with pytest.raises(InputError, match="no layer whose output has rows"):
        cd.explain(
            nnx.Sequential(lambda x: x.mean(axis=(1, 2)), nnx.Linear(3, 2, rngs=nnx.Rngs(0))),
            IMAGES,
        )
    with pytest.raises(InputError, match="no images"):
        cd.explain(model, IMAGES[:0])


def test_a_backbone_that_computes_its_batch_in_parts_has_heat_maps(short_backbone: None) -> None:
    """What is inside its loop cannot be looked at, what it returns can."""
    images = np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    model = cd.create_model("model4", image_size=32, rngs=nnx.Rngs(0))
    heat = cd.explain(model, images)
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1, rtol=1e-6)
    np.testing.assert_array_equal(cd.explain(model, images, layer="backbone"), heat)
