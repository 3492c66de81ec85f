import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photo_files import write_classes
from tqdm import tqdm

from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError
from catdog_jax.reports.report import is_dead, read_history
from catdog_jax.runs import build, messages
from catdog_jax.runs.build import build_model
from catdog_jax.runs.recipes import RECIPES, Experiment
from catdog_jax.runs.reproduce import reproduce
from catdog_jax.runs.run_folder import Run, load_run
from catdog_jax.runs.runner import evaluate_run, load_model, predict, run

SMALL = replace(
    RECIPES["model3"],
    data="sketches",
    image_size=32,
    sizes=(48, 20, 12),
    epochs=3,
    batch_size=16,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    lines: list[str] = []
    return run(SMALL, tmp_path_factory.mktemp("runs") / "run", log=lines.append), lines


def test_a_run_folder_holds_what_was_asked_for(finished: tuple[Run, list[str]]) -> None:
    folder = finished[0].folder
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "history.csv", "history.png", "metrics.json", "checkpoint"}
    history = read_history(folder / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2, 3]
    metrics = json.loads((folder / "metrics.json").read_text())
    best = max(row["val_accuracy"] for row in history)
    assert metrics["best"]["val_accuracy"] == best
    assert history[metrics["best"]["epoch"] - 1]["val_accuracy"] == best
    assert metrics["best"]["interval"][0] < best < metrics["best"]["interval"][1]
    assert metrics["test"]["count"] == 12
    assert metrics["validation"]["accuracy"] == best
    assert metrics["baseline"] == {"validation": 0.5, "test": 0.5}
    assert metrics["images_per_second"] > 0
    assert {"jax", "flax", "optax", "catdog_jax", "python"} <= set(metrics["versions"])
    assert "cpu" in metrics["device"]
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["class_names"] == ["cats", "dogs"]
    assert config["data"]["train"] == {"cats": 24, "dogs": 24}


def test_each_epoch_is_one_line(finished: tuple[Run, list[str]]) -> None:
    epochs = [line for line in finished[1] if line.startswith("epoch")]
    assert len(epochs) == 3
    assert all("images/s" in line and "val_accuracy" in line for line in epochs)


@pytest.mark.parametrize(("which", "key"), [("best", "test"), ("last", "test_last")])
def test_evaluating_a_saved_run_gives_what_training_gave(
    finished: tuple[Run, list[str]], which: str, key: str
) -> None:
    result = evaluate_run(finished[0].folder, which=which)
    expected = finished[0].metrics[key]
    assert result["correct"] == expected["correct"]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_another_source_can_be_evaluated_and_must_have_the_same_classes(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    result = evaluate_run(finished[0].folder, data="sketches", split="validation")
    assert result["count"] == 168  # the source's own sizes
    others = write_classes(tmp_path / "photos", dog=5, fox=5)
    with pytest.raises(InputError, match=r"classes cats, dogs, but .* has dogs, foxs"):
        evaluate_run(finished[0].folder, data=str(others))


def test_a_finished_run_is_read_not_repeated(finished: tuple[Run, list[str]]) -> None:
    lines: list[str] = []
    again = run(SMALL, finished[0].folder, log=lines.append)
    assert lines == [f"{finished[0].folder} holds this run already; reading it"]
    assert again.history == finished[0].history
    assert again.metrics == json.loads(json.dumps(finished[0].metrics))


def test_a_run_from_before_a_setting_was_there_had_its_default(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["experiment"]["on_device"], config["experiment"]["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    lines: list[str] = []
    run(SMALL, folder, log=lines.append)
    assert lines == [f"{folder} holds this run already; reading it"]
    assert load_model(folder)[1] == SMALL
    with pytest.raises(InputError, match="is not this run"):
        run(replace(SMALL, on_device=True), folder)


def test_photos_on_the_devices_give_the_same_run_and_are_recorded(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    resident = run(replace(SMALL, on_device=True), tmp_path / "run")
    assert resident.metrics["on_device"]
    assert not finished[0].metrics["on_device"]
    for row, expected in zip(resident.history, finished[0].history, strict=True):
        row, expected = ({**values, "seconds": 0} for values in (row, expected))
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [(16, 32, 48), (48,)], ids=["steps", "epochs"])
def test_the_progress_bar_ends_where_the_run_does(
    steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm] = []
    monkeypatch.setattr(
        messages,
        "tqdm",
        lambda **options: bars.append(tqdm(**options, file=io.StringIO())) or bars[0],
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    clock = itertools.count(1.0, 0.3)  # every other call comes too soon after the last to be shown
    monkeypatch.setattr(messages.time, "monotonic", lambda: next(clock))
    shown = []
    with messages.progress(SMALL, 48, 0) as on_step:
        assert on_step is not None
        for epoch in range(3):
            for count in steps:
                on_step(
                    epoch, {"loss": np.float32(1), "correct": np.int32(1), "count": np.int32(count)}
                )
                shown.append((bars[0].n, epoch * 48 + count))
    assert all(position <= was for position, was in shown)
    assert shown[-1] == (144, 144)


def test_a_run_in_bfloat16_says_so_and_is_evaluated_in_it(tmp_path: Path) -> None:
    rounded = run(replace(SMALL, epochs=1, dtype="bfloat16"), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["experiment"]["dtype"] == "bfloat16"
    assert rounded.metrics["validation"]["loss"] == pytest.approx(
        rounded.history[0]["val_loss"], rel=1e-6
    )
    result = evaluate_run(tmp_path / "run")
    assert result["loss"] == pytest.approx(rounded.metrics["test"]["loss"], rel=1e-6)


def test_a_folder_with_something_else_is_not_written_to(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    for experiment, folder in ((SMALL, tmp_path), (replace(SMALL, seed=9), finished[0].folder)):
        with pytest.raises(InputError, match="already exists and is not this run"):
            run(experiment, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    "wrong",
    [{"model": "model9"}, {"data": "nowhere"}, {"model": "model4", "weights": "no/such/file.h5"}],
)
def test_wrong_input_leaves_no_folder_behind(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(replace(SMALL, **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_dies_is_named_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stillborn(experiment: Experiment, num_classes: int) -> nnx.Module:
        model: Any = build_model(experiment, num_classes)
        model.dense2.bias[...] = jnp.full(64, -1e9)
        return model

    monkeypatch.setattr(build, "build_model", stillborn)
    lines: list[str] = []
    finished = run(SMALL, tmp_path / "run", log=lines.append)
    assert finished.metrics["dead"]
    assert len(finished.history) == 1
    assert is_dead(finished.history[0])
    assert any(line.startswith("died: all outputs are zero") for line in lines)
    going_on = run(replace(SMALL, stop_when_dead=False), tmp_path / "on", log=lines.append)
    assert len(going_on.history) == 3


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for load in (load_run, load_model, evaluate_run):
        with pytest.raises(InputError, match="has no config\\.json"):
            load(tmp_path)


def test_predictions_are_the_models_probabilities(finished: tuple[Run, list[str]]) -> None:
    splits = load_data("sketches", 32, sizes=(48, 20, 12))
    model, _, names = load_model(finished[0].folder)
    assert names == ("cats", "dogs")
    probabilities = predict(model, splits.test.images, names)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    hits = (probabilities.argmax(axis=1) == splits.test.labels).sum()
    assert hits == finished[0].metrics["test"]["correct"]


def test_a_series_draws_and_tabulates_all_its_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    def adapt(experiment: Experiment) -> Experiment:
        return replace(
            experiment,
            data="sketches",
            image_size=32,
            sizes=(48, 20, 12),
            epochs=1,
            batch_size=16,
        )

    reproduce(["model3"], [0], tmp_path, adapt=adapt)
    lines: list[str] = []
    runs = reproduce(["model3", "model2"], [0, 1], tmp_path, adapt=adapt, log=lines.append)
    assert [(r.metrics["model"], r.metrics["seed"]) for r in runs] == [
        ("model3", 0),
        ("model2", 0),
        ("model3", 1),
        ("model2", 1),
    ]
    assert sum("holds this run already" in line for line in lines) == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| model2 | 2 | " in summary
    assert "| 78.1 % (epoch 19) |" in summary
    figures = {"labels.png", "photos.png", "flips.png", "rotations.png", "curves.png"}
    assert figures <= {path.name for path in tmp_path.iterdir()}
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 4


def test_a_series_finds_wrong_weights_before_it_trains(tmp_path: Path) -> None:
    def adapt(experiment: Experiment) -> Experiment:
        weights = "no.h5" if experiment.model == "model4" else "none"
        return replace(SMALL, model=experiment.model, weights=weights)

    with pytest.raises(InputError, match=r"no weights file at no\.h5"):
        reproduce(["model3", "model4"], [0], tmp_path / "out", adapt=adapt)
    assert not (tmp_path / "out").exists()


def test_a_series_of_an_unknown_model_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown model 'model7'"):
        reproduce(["model7"], [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
