"""The classifier that comes with the package, and files of weights."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from catdog_jax.data import sketches
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError
from catdog_jax.models.ready_made import WEIGHTS, facts, load_weights, ready_made, save_weights
from catdog_jax.models.resnet import Model6
from catdog_jax.training.evaluation import evaluate

ROOT = Path(__file__).parent.parent


def tiny(width: int = 8, seed: int = 0) -> Model6:
    return Model6(widths=(width,), blocks=(1,), image_size=32, rngs=nnx.Rngs(seed))


def test_saved_weights_are_loaded_rounded_to_float16(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    model.norm.mean[...] = jax.random.normal(jax.random.key(0), (8,))
    save_weights(model, tmp_path / "weights.npz")
    load_weights(other, tmp_path / "weights.npz")
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    for saved, loaded in zip(
        *(jax.tree.leaves(nnx.state(m, kinds)) for m in (model, other)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(saved, np.float16).astype(np.float32), loaded)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_weights(tiny(), tmp_path / "weights.npz")
    with pytest.raises(InputError, match="holds the weights of another model"):
        load_weights(tiny(width=16), tmp_path / "weights.npz")


@pytest.mark.parametrize("length", [0, 100, 4000])
def test_a_file_that_was_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    save_weights(tiny(), tmp_path / "whole.npz")
    part = tmp_path / "part.npz"
    part.write_bytes((tmp_path / "whole.npz").read_bytes()[:length])
    with pytest.raises(InputError, match=r"part\.npz is not a file of weights"):
        load_weights(tiny(), part)


def test_the_file_of_the_package_is_small_and_fits() -> None:
    assert WEIGHTS.stat().st_size < 4 * 2**20
    with np.load(WEIGHTS) as arrays:
        assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.float16)}
    ready_made()


@pytest.mark.slow
def test_the_ready_made_classifier_knows_the_posts_photos(shared: Path) -> None:
    """It was trained on most of them: what it can do on others is in its model card. Slow, since
    photos are decoded and a network compiled."""
    photos = load_data(shared / "data/cats_and_dogs_filtered.zip", facts()["image_size"]).test
    assert evaluate(ready_made(), photos).accuracy > 0.95


@pytest.mark.slow
def test_the_tables_of_its_card_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On drawings. Slow: a network is compiled."""
    images, _ = sketches.draw(3, 64)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    measure = runpy.run_path(str(ROOT / "experiments/ready_made.py"))["main"]
    measure(data="sketches", sizes=(8, 4, 20), others=tmp_path)
    _, found, accuracies, confidences = capsys.readouterr().out.split("\n\n")
    assert json.loads(found)["photos"] == 20
    rows = [line.split(" | ") for line in accuracies.splitlines()[2:]]
    sure = rows.pop(3)
    assert (sure[0], int(sure[1]) <= 20) == ("| those of which it is sure", True)
    assert [row[1] for row in rows] == ["20", "10", "10", "2", "20", "20"]
    rows = [line.split(" | ") for line in confidences.splitlines()[2:]]
    assert sum(int(row[1]) for row in rows) == 20
    assert sum(int(row[3].removesuffix(" |")) for row in rows) == 3
