"""Which recipe is taken for photos of one's own."""

from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from catdog_jax.errors import InputError
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.recommend import recommend, suited


def test_without_weights_a_network_is_trained_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> None:
        raise InputError("the weights could not be downloaded (offline)")

    monkeypatch.setattr("catdog_jax.runs.build.weights_path", offline)
    lines: list[str] = []
    assert recommend(log=lines.append) == RECIPES["model6"]
    assert lines == [
        "no pretrained weights (the weights could not be downloaded (offline)): "
        "training model 6 from scratch instead"
    ]
    assert recommend("none", log=lines.append) == RECIPES["model6"]
    assert len(lines) == 1
    with pytest.raises(InputError, match="could not be downloaded"):
        recommend("my_weights.h5")


def test_on_a_gpu_the_deep_network_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert recommend("none") == RECIPES["model6_deep"]


def test_with_weights_they_are_fine_tuned(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    h5py.File(weights, "w").close()
    assert recommend(str(weights)) == replace(RECIPES["model5"], weights=str(weights))


def test_images_too_small_for_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    h5py.File(weights, "w").close()
    with pytest.raises(InputError, match="weights need images of 96 pixels or more, not 32"):
        recommend(str(weights), image_size=32)
    small = recommend(image_size=32)
    assert (small.model, small.image_size) == ("model6", 32)


@pytest.mark.parametrize(
    ("photos", "head_epochs", "epochs"),
    [(2000, 10, 20), (500, 20, 40), (50, 30, 60), (10**6, 4, 8)],
)
def test_fewer_photos_are_seen_more_often(photos: int, head_epochs: int, epochs: int) -> None:
    found = suited(RECIPES["model5"], photos)
    assert (found.head_epochs, found.epochs) == (head_epochs, epochs)
    assert suited(RECIPES["model5"], photos, epochs=10).head_epochs == 5
    assert found.patience is not None
    assert found.patience >= 10
