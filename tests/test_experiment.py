"""Run folders: what they hold, what is refused, and series of them."""

import io
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tqdm import tqdm

import catdog_jax as cd
from catdog_jax.data import sketches
from catdog_jax.errors import InputError
from catdog_jax.runs import build, reproduce, terminal
from catdog_jax.runs.build import build_model
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.history import is_dead, read_history
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import Run, load_run
from catdog_jax.runs.runner import resume, run

SMALL = replace(
    RECIPES["model3"],
    data="sketches",
    image_size=32,
    sizes=(48, 20, 12),
    epochs=3,
    batch_size=16,
)


def metrics_of(run: Run) -> dict[str, Any]:
    assert run.metrics is not None
    return run.metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    lines: list[str] = []
    return run(SMALL, tmp_path_factory.mktemp("runs") / "run", log=lines.append), lines


def test_a_run_folder_holds_what_was_asked_for(finished: tuple[Run, list[str]]) -> None:
    folder = finished[0].folder
    names = {path.name for path in folder.iterdir()} - {".lock"}
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


def test_a_finished_run_is_read_not_repeated(finished: tuple[Run, list[str]]) -> None:
    lines: list[str] = []
    again = run(SMALL, finished[0].folder, log=lines.append)
    assert lines == [f"{finished[0].folder} holds this run already; reading it"]
    assert again.history == finished[0].history
    assert again.metrics == finished[0].metrics


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
    assert load_run(folder).experiment == SMALL
    with pytest.raises(InputError, match="is not this run"):
        run(replace(SMALL, on_device=True), folder)


def test_photos_on_the_devices_give_the_same_run_and_are_recorded(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    resident = run(replace(SMALL, on_device=True), tmp_path / "run")
    assert metrics_of(resident)["on_device"]
    assert not metrics_of(finished[0])["on_device"]
    for row, expected in zip(resident.history, finished[0].history, strict=True):
        row, expected = ({**values, "seconds": 0} for values in (row, expected))
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [(16, 32, 48), (48,)], ids=["steps", "epochs"])
def test_the_progress_bar_ends_where_the_run_does(
    steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm] = []
    monkeypatch.setattr(
        terminal,
        "tqdm",
        lambda **options: bars.append(tqdm(**options, file=io.StringIO())) or bars[0],
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    clock = itertools.count(1.0, 0.3)  # every other call comes too soon after the last to be shown
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    shown = []
    with terminal.progress(SMALL, 48, 0) as on_step:
        assert on_step is not None
        for epoch in range(3):
            for count in steps:
                on_step(
                    epoch, {"loss": np.float32(1), "correct": np.int32(1), "count": np.int32(count)}
                )
                shown.append((bars[0].n, epoch * 48 + count))
    assert all(position <= was for position, was in shown)
    assert shown[-1] == (144, 144)


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
    [
        {"model": "model9"},
        {"data": "nowhere"},
        {"optimizer": "adamm"},
        {"model": "model4", "model_options": (), "weights": "no/such/file.h5"},
    ],
)
def test_wrong_input_leaves_no_folder_behind(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(replace(SMALL, **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_dies_is_named_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stillborn(experiment: Experiment, *sizes: int) -> nnx.Module:
        model: Any = build_model(experiment, *sizes)
        model.dense2.bias[...] = jnp.full(64, -1e9)
        return model

    monkeypatch.setattr(build, "build_model", stillborn)
    lines: list[str] = []
    finished = run(SMALL, tmp_path / "run", log=lines.append)
    assert metrics_of(finished)["dead"]
    assert len(finished.history) == 1
    assert is_dead(finished.history[0])
    assert any(line.startswith("died: all outputs are zero") for line in lines)
    going_on = run(replace(SMALL, stop_when_dead=False), tmp_path / "on", log=lines.append)
    assert len(going_on.history) == 3


def small(experiment: Experiment) -> Experiment:
    changes: dict[str, Any] = {"image_size": 32, "sizes": (48, 20, 12), "batch_size": 16}
    return replace(experiment, data="sketches", epochs=1, **changes)


def silent(line: str) -> None:
    del line


def test_a_series_draws_and_tabulates_all_its_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    reproduce.reproduce(["model3"], [0], tmp_path, adapt=small)
    lines: list[str] = []
    models = ["model3", "model2"]
    runs = reproduce.reproduce(models, [0, 1], tmp_path, adapt=small, log=lines.append)
    assert [(r.experiment.model, r.experiment.seed) for r in runs] == [
        ("model3", 0),
        ("model2", 0),
        ("model3", 1),
        ("model2", 1),
    ]
    assert sum("holds this run already" in line for line in lines) == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| model2 | 2 | " in summary
    assert "published" not in summary  # of other data
    figures = {"labels.png", "photos.png", "flips.png", "rotations.png", "curves.png"}
    assert figures <= {path.name for path in tmp_path.iterdir()}
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 4


def test_published_numbers_stand_beside_the_posts_own_photos(
    finished: tuple[Run, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished[0]
    its_own = replace(run, experiment=replace(run.experiment, sizes=None))
    assert not reproduce._is_of_the_post(its_own)
    monkeypatch.setattr(reproduce, "POSTS_PHOTOS", run.inputs["photos"])
    assert reproduce._is_of_the_post(its_own)
    assert not reproduce._is_of_the_post(run)  # of other sizes
    monkeypatch.setattr(reproduce, "_is_of_the_post", lambda _: True)
    shutil.copytree(run.folder, tmp_path / "model3-seed0")
    reproduce.summarize(tmp_path)
    assert "78.1 % (epoch 19)" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_two_series_at_once_share_a_folder(tmp_path: Path) -> None:
    """Each finishes its own runs; the figures and the summary, which both write, are whole."""
    command = "reproduce --data sketches --image-size 32 --sizes 48 20 12 --epochs 1 --models"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "catdog_jax", *command.split(), model, "--out", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        )
        for model in ("model2", "model3")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert not list(tmp_path.glob(".*unfinished"))
    reproduce.summarize(tmp_path)
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2


def test_a_series_finds_wrong_weights_before_it_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapt(experiment: Experiment) -> Experiment:
        weights = "no.h5" if experiment.model == "model4" else "none"
        return replace(small(experiment), weights=weights)

    monkeypatch.setattr(build, "load_data", None)
    with pytest.raises(InputError, match=r"no weights file at .*no\.h5"):
        reproduce.reproduce(["model3", "model4"], [0], tmp_path / "out", adapt=adapt)
    assert not (tmp_path / "out").exists()


def test_a_series_of_an_unknown_model_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown model 'model7'"):
        reproduce.reproduce(["model7"], [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_arrays_needs_no_source(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 28, 28, 3)).astype(np.uint8)
    arrays = images, np.arange(40) % 3
    splits = cd.splits_from_arrays(arrays, arrays, class_names=("a", "b", "c"))
    experiment = Experiment("model3", epochs=1, batch_size=16)
    done = run(experiment, tmp_path / "run", splits=splits, log=silent)
    assert done.image_size == 28
    assert done.predict(arrays).probabilities.shape == (40, 3)
    lines: list[str] = []
    run(experiment, tmp_path / "run", splits=splits, log=lines.append)
    assert lines == [f"{tmp_path / 'run'} holds this run already; reading it"]
    assert done.metrics is not None
    assert done.metrics["test"] is None
    for use in (lambda: resume(tmp_path / "run", epochs=2, log=silent), done.predict):
        with pytest.raises(InputError, match="trained on arrays: pass them"):
            use()


# Runs that go on, elsewhere or for longer.


def test_a_run_is_lengthened(finished: tuple[Run, list[str]], tmp_path: Path) -> None:
    """Its history is that of a run which was as long from the start."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    with pytest.raises(InputError, match=r"its epochs are 3, this run's 5 \(to lengthen it: --res"):
        run(replace(SMALL, epochs=5), folder)
    longer = resume(folder, epochs=5, log=silent)
    whole = run(replace(SMALL, epochs=5), tmp_path / "whole", log=silent)
    assert [{**row, "seconds": 0} for row in longer.history] == [
        {**row, "seconds": 0} for row in whole.history
    ]
    assert metrics_of(longer)["epochs"] == 5
    assert metrics_of(longer)["test"] == metrics_of(whole)["test"]
    assert load_run(folder).experiment.epochs == 5
    lines: list[str] = []
    assert run(replace(SMALL, epochs=5), folder, log=lines.append).history == longer.history
    assert lines == [f"{folder} holds this run already; reading it"]
    with pytest.raises(InputError, match="has 5 epochs already; give --epochs 5 or more"):
        resume(folder, epochs=4)


def test_a_schedule_that_becomes_another_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    run(replace(SMALL, epochs=1, schedule="cosine"), tmp_path / "run", log=silent)
    resume(tmp_path / "run", epochs=2, log=lines.append)
    assert lines[0] == "note: the cosine schedule now spans 2 epochs"


def test_a_run_is_judged_early_and_can_still_go_on(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch  2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", log=stop)
    assert load_run(tmp_path / "run").metrics is None
    early = resume(tmp_path / "run", finish=True, log=silent)
    assert metrics_of(early)["epochs"] == len(early.history) == 2
    assert resume(tmp_path / "run", log=silent).history == early.history
    assert len(resume(tmp_path / "run", epochs=3, log=silent).history) == 3


def test_a_run_goes_on_where_its_photos_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    experiment = replace(SMALL, data="photos", sizes=None, epochs=1)
    run(experiment, "run", log=silent)
    monkeypatch.chdir("/")
    folder = tmp_path / "run"
    assert len(resume(folder, epochs=2, log=silent).history) == 2  # a relative path still holds
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="photos does not exist any more; give its new path with"):
        resume(folder, epochs=3, log=silent)
    done = resume(folder, epochs=3, data=str(tmp_path / "moved"), log=silent)
    assert len(done.history) == 3
    assert done.predict(split="all", log=silent).labels is not None
    write_photos(tmp_path / "others", seed=1)
    with pytest.raises(InputError, match="cannot be resumed: its photos had the fingerprint"):
        resume(folder, epochs=4, data=str(tmp_path / "others"), log=silent)


def write_photos(folder: Path, seed: int = 0) -> None:
    images, labels = sketches.draw(20, 32, seed=seed)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / sketches.CLASS_NAMES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
