"""What is read from a run folder, and what its model predicts."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from flax import nnx
from helpers import LINEAR, silent, write_drawings

import catdog_jax as cd
from catdog_jax.data import sources
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError
from catdog_jax.runs import checkpoint
from catdog_jax.runs.classifier import classifier, predict
from catdog_jax.runs.predictions import Predictions
from catdog_jax.runs.results import Run, load_run
from catdog_jax.runs.runner import run

SMALL = replace(helpers.SMALL, epochs=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(SMALL, tmp_path_factory.mktemp("runs") / "run", log=silent)


@pytest.mark.parametrize(("which", "key"), [("best", "test"), ("last", "test_last")])
def test_a_loaded_run_gives_the_results_of_training(finished: Run, which: Any, key: str) -> None:
    loaded = load_run(finished.folder, checkpoint=which)
    assert loaded.class_names == ("cats", "dogs")
    assert loaded.history == finished.history
    assert loaded.metrics is not None
    result = loaded.judge(loaded.predict(log=silent))
    assert result["correct"] == loaded.metrics[key]["correct"]
    assert result["loss"] == pytest.approx(loaded.metrics[key]["loss"], rel=1e-6)


def test_a_run_as_a_classifier_says_its_name_and_accuracy_but_not_where_it_is(
    finished: Run,
) -> None:
    """The page of `serve` shows it to whoever comes."""
    about = classifier(finished.folder).about
    assert about.startswith("run, for cats, dogs: right in ")
    assert f" of {SMALL.sizes[2]} test photos" in about  # pyright: ignore[reportOptionalSubscript]
    assert str(finished.folder.parent) not in about


def test_predictions_by_hand() -> None:
    # Labels 0, 1, 1; the post's models have more outputs than classes, as here.
    logits = np.array([[2.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 5.0]])
    found = Predictions(("a", "b", "c"), ("cats", "dogs"), logits, np.array([0, 1, 1]))
    assert found.classes.tolist() == [0, 0, 2]
    assert found.confusion().tolist() == [[1, 0], [1, 0]]
    assert found.mistakes().tolist() == [1, 2]  # 95 % sure, and 73 %
    np.testing.assert_allclose(found.probabilities[0], [1 / (1 + math.exp(-2)), 0.1192], atol=1e-4)
    one = Predictions(
        ("a", "b"), ("cats", "dogs"), np.array([[0.4], [0.6]]), np.array([1, 1]), threshold=0.5
    )
    assert one.classes.tolist() == [0, 1]
    assert one.confusion().tolist() == [[0, 0], [1, 1]]


def test_photos_without_labels_have_no_mistakes() -> None:
    found = Predictions(("a",), ("cats", "dogs"), np.array([[1.0, 0.0]]))
    with pytest.raises(InputError, match="have no labels"):
        found.mistakes()


def test_predictions_are_written_as_a_table(finished: Run, tmp_path: Path) -> None:
    found = finished.predict(log=silent)
    found.write_csv(tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [row["photo"] for row in rows] == list(found.names)
    hits = sum(row["class"] == row["predicted"] for row in rows)
    assert finished.metrics is not None
    assert hits == finished.metrics["test"]["correct"]
    mean = np.mean([float(row["loss"]) for row in rows])
    assert mean == pytest.approx(finished.metrics["test"]["loss"], rel=1e-5)
    assert all(float(row["cats"]) + float(row["dogs"]) == pytest.approx(1) for row in rows)


def test_all_photos_of_another_source_are_evaluated(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_drawings(tmp_path / "photos", {"cats": 20, "dogs": 20})
    found = finished.predict(folder, split="all", log=silent)
    assert len(found.names) == 40
    assert finished.judge(found)["count"] == 40
    monkeypatch.setattr(sources, "_SKETCHES_SIZES", (12, 6, 2))
    assert finished.predict("sketches", split="validation", log=silent).logits.shape == (6, 64)


@pytest.mark.parametrize("names", [("Cat", "Dog"), ("DOGS", "cat")])
def test_classes_with_similar_names_are_matched_and_reported(
    finished: Run, names: tuple[str, str], tmp_path: Path
) -> None:
    same = write_drawings(tmp_path / "same", {"cats": 20, "dogs": 20})
    expected = finished.judge(finished.predict(same, split="all", log=silent))
    folder = tmp_path / "photos"
    for name in names:
        shutil.copytree(same / ("cats" if name[0] in "Cc" else "dogs"), folder / name)
    lines: list[str] = []
    found = finished.predict(folder, split="all", log=lines.append)
    assert finished.judge(found)["correct"] == expected["correct"]
    assert found.class_names == ("cats", "dogs")
    assert len(lines) == 1
    assert all(f"{name} = " in lines[0] for name in names)


@pytest.mark.parametrize("names", [("dogs", "foxes"), ("cat", "Cats")])
def test_other_classes_are_refused_naming_both_sides(
    finished: Run, names: tuple[str, str], tmp_path: Path
) -> None:
    folder = write_drawings(tmp_path / "photos", dict.fromkeys(names, 20))
    said = f"classes cats, dogs, but .* has {', '.join(sorted(names))}"
    with pytest.raises(InputError, match=said):
        finished.predict(folder, split="all", log=silent)


def test_photos_images_and_splits_can_be_predicted(finished: Run, tmp_path: Path) -> None:
    split = load_data("sketches", 32, sizes=(48, 20, 12)).test
    images, labels = np.asarray(split.images), split.labels
    expected = finished.predict(log=silent)
    for data in (split, (images, labels), images):
        found = finished.predict(data)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5)
        assert (found.labels is None) == (data is images)
    folder = write_drawings(tmp_path / "photos", {"cats": 2, "dogs": 2})
    paths = sorted(folder.rglob("*.png"))
    by_folder = cd.predict(finished.folder, folder)
    by_paths = cd.predict(finished, paths)
    by_model = cd.predict(finished.model, paths, image_size=32)
    assert by_folder.names == by_paths.names == tuple(map(str, paths))
    for found in (by_paths, by_model):
        np.testing.assert_allclose(found.logits, by_folder.logits, atol=1e-5)
    assert by_model.class_names[:2] == ("0", "1")
    with pytest.raises(InputError, match="no photos to classify"):
        cd.predict(finished, [])
    with pytest.raises(InputError, match="neither a known data set"):
        finished.predict(Path("sketches"))  # a folder, which is not there
    np.testing.assert_allclose(by_folder.probabilities.sum(axis=1), 1)


def test_images_that_do_not_fit_are_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not take images of 40×40×3"):
        finished.predict(np.zeros((2, 40, 40, 3), np.uint8))
    with pytest.raises(InputError, match="labels go from 0 to 64, but Model3 has 64 outputs"):
        finished.predict((np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 64])))
    with pytest.raises(InputError, match="unknown split 'half'"):
        finished.predict(split="half")
    splits = load_data("sketches", 32, sizes=(48, 20, 12))
    two = replace(splits.train, labels=splits.train.labels + 2)
    three = replace(splits, train=two, class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="labels go from 2 to 3, but Linear has 3 outputs"):
        run(LINEAR, tmp_path / "run", splits=three, log=silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_in_bfloat16_is_evaluated_in_it(tmp_path: Path) -> None:
    """Slow: programs of its own."""
    rounded = run(replace(SMALL, epochs=1, dtype="bfloat16"), tmp_path / "run", log=silent)
    assert rounded.metrics is not None
    assert rounded.experiment.dtype == "bfloat16"
    assert rounded.metrics["validation"]["loss"] == pytest.approx(
        rounded.history[0]["val_loss"], rel=1e-6
    )
    result = rounded.judge(rounded.predict(log=silent))
    assert result["loss"] == pytest.approx(rounded.metrics["test"]["loss"], rel=1e-6)


def test_a_run_folder_copied_elsewhere_predicts(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(predict("copy", images).logits, finished.predict(images).logits)


def test_an_unfinished_run_can_be_loaded(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch  1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", log=stop)
    unfinished = load_run(tmp_path / "run")
    assert unfinished.metrics is None
    assert not unfinished.is_dead
    result = unfinished.judge(unfinished.predict(split="validation", log=silent))
    assert result["loss"] == pytest.approx(unfinished.history[0]["val_loss"], rel=1e-6)
    shutil.rmtree(tmp_path / "run/checkpoint")
    with pytest.raises(InputError, match="has no checkpoint yet; train at least one epoch"):
        _ = load_run(tmp_path / "run").model


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: it has no config\.json"):
        load_run(tmp_path)
    with pytest.raises(InputError, match=r"is not a run: it has no config\.json"):
        load_run(tmp_path / "absent")


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_damaged_file_of_a_run_is_named(name: str, finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    text = (copy / name).read_text()
    for damaged in ("", text[: len(text) // 2], "[]", "{}", text.replace('"', "'")):
        (copy / name).write_text(damaged)
        with pytest.raises(InputError, match=name):
            load_run(copy)


def test_a_metrics_file_of_another_run_is_refused(finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["best"]["val_accuracy"] += 0.1
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics.json is damaged .*delete it and resume"):
        load_run(copy)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
def test_errors_of_the_machine_are_not_reported_as_damage(
    error: OSError, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise error

    monkeypatch.setattr(checkpoint, "sha256", fail)
    with pytest.raises(InputError, match=f"cannot be read .{error.strerror}") as caught:
        load_run(finished.folder)
    assert "delet" not in str(caught.value)


def test_a_missing_platform_is_not_reported_as_damage(finished: Run) -> None:
    code = (
        "import sys, catdog_jax as cd\n"
        "try: cd.load_run(sys.argv[1]).model\n"
        "except (cd.InputError, RuntimeError, AssertionError) as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished.folder)],
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    assert "delet" not in done.stdout
    assert "damaged" not in done.stdout


def test_a_module_that_is_not_of_a_run_predicts() -> None:
    model = cd.create_model("model3", image_size=32, rngs=nnx.Rngs(0))
    found = predict(model, np.zeros((3, 32, 32, 3), np.uint8))
    assert found.probabilities.shape == (3, 2)
