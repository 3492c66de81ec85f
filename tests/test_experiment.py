"""Run folders: what they hold, and what is refused."""

import json
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    LINEAR,
    SMALL,
    Terminal,
    silent,
    stillborn,
    timeless,
    write_drawings,
)

import catdog_jax as cd
from catdog_jax.cli import main
from catdog_jax.data import quiet_tensorflow
from catdog_jax.errors import InputError
from catdog_jax.runs import build, terminal
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.history import is_dead, read_history
from catdog_jax.runs.results import Run, load_run
from catdog_jax.runs.runner import resume, run


def metrics_of(run: Run) -> dict[str, Any]:
    assert run.metrics is not None
    return run.metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    lines: list[str] = []
    return run(SMALL, tmp_path_factory.mktemp("runs") / "run", log=lines.append), lines


def test_a_run_folder_holds_config_history_metrics_and_checkpoints(
    finished: tuple[Run, list[str]],
) -> None:
    folder = finished[0].folder
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "history.csv",
        "history.png",
        "metrics.json",
        "predictions.npz",
        "checkpoint",
    }
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
    (line,) = lines
    assert "holds this run already" in line
    assert again.history == finished[0].history
    assert again.metrics == finished[0].metrics


def test_a_run_from_before_a_setting_existed_had_its_default(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["experiment"]["on_device"], config["experiment"]["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    lines: list[str] = []
    run(SMALL, folder, log=lines.append)
    (line,) = lines
    assert "holds this run already" in line
    assert load_run(folder).experiment == SMALL
    with pytest.raises(InputError, match="is not this run"):
        run(replace(SMALL, on_device=True), folder)


def test_a_run_with_its_photos_on_the_devices_is_the_same_and_says_so(
    tmp_path: Path,
) -> None:
    streamed = run(LINEAR, tmp_path / "streamed", log=silent)
    resident = run(replace(LINEAR, on_device=True), tmp_path / "resident", log=silent)
    assert metrics_of(resident)["on_device"]
    assert not metrics_of(streamed)["on_device"]
    for row, expected in zip(resident.history, streamed.history, strict=True):
        row, expected = ({**values, "seconds": 0} for values in (row, expected))
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [(16, 32, 48), (48,)], ids=["steps", "epochs"])
def test_the_progress_bar_ends_where_the_run_does(
    steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    with terminal.progress(SMALL, 48, 0) as on_step:
        assert on_step is not None
        for epoch in range(3):
            for count in steps:
                if (epoch, count) == (2, 48):
                    time.sleep(0.6)  # the bar moves twice a second
                on_step(
                    epoch, {"loss": np.float32(1), "correct": np.int32(1), "count": np.int32(count)}
                )
    positions = [int(found) for found in re.findall(r"(\d+)/144", shown.getvalue())]
    assert positions == sorted(positions)
    assert positions[-1] == 144


def test_a_folder_with_something_else_is_not_written_to(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    for experiment, folder in ((SMALL, tmp_path), (replace(SMALL, seed=9), finished[0].folder)):
        with pytest.raises(InputError, match="already exists and is not this run"):
            run(experiment, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_run_that_dies_is_reported_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "build_model", stillborn)
    lines: list[str] = []
    dead = run(SMALL, tmp_path / "run", log=lines.append)
    assert metrics_of(dead)["dead"]
    assert dead.is_dead
    assert len(dead.history) == 1
    assert is_dead(dead.history[0])
    assert any(line.startswith("died: all outputs are zero") for line in lines)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "this model died in training" in capsys.readouterr().err
    (tmp_path / "run/metrics.json").unlink()
    lines.clear()
    assert timeless(resume(tmp_path / "run", log=lines.append).history) == timeless(dead.history)
    assert not [line for line in lines if line.startswith("epoch")]
    going_on = run(replace(SMALL, stop_when_dead=False), tmp_path / "on", log=silent)
    assert len(going_on.history) == 3


def test_a_run_of_arrays_needs_no_source(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 28, 28, 3)).astype(np.uint8)
    arrays = images, np.arange(40) % 3
    splits = cd.splits_from_arrays(arrays, arrays, class_names=("a", "b", "c"))
    experiment = Experiment(LINEAR.model, epochs=1, batch_size=16)
    done = run(experiment, tmp_path / "run", splits=splits, log=silent)
    assert done.image_size == 28
    assert done.predict(arrays).probabilities.shape == (40, 3)
    lines: list[str] = []
    run(experiment, tmp_path / "run", splits=splits, log=lines.append)
    (line,) = lines
    assert "holds this run already" in line
    assert done.metrics is not None
    assert done.metrics["test"] is None
    for use in (lambda: resume(tmp_path / "run", epochs=2, log=silent), done.predict):
        with pytest.raises(InputError, match="trained on arrays: pass them"):
            use()


# Runs that are continued, elsewhere or for longer.


def test_a_run_is_lengthened(finished: tuple[Run, list[str]], tmp_path: Path) -> None:
    """Its history equals that of a run that was as long from the start."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    with pytest.raises(InputError, match="its epochs are 3, this run's 5"):
        run(replace(SMALL, epochs=5), folder)
    longer = resume(folder, epochs=5, log=silent)
    whole = run(replace(SMALL, epochs=5), tmp_path / "whole", log=silent)
    assert timeless(longer.history) == timeless(whole.history)
    assert metrics_of(longer)["epochs"] == 5
    assert metrics_of(longer)["test"] == metrics_of(whole)["test"]
    assert load_run(folder).experiment.epochs == 5
    lines: list[str] = []
    assert run(replace(SMALL, epochs=5), folder, log=lines.append).history == longer.history
    (line,) = lines
    assert "holds this run already" in line
    with pytest.raises(InputError, match="has 5 epochs already"):
        resume(folder, epochs=4)


def test_a_changed_schedule_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    run(replace(LINEAR, epochs=1, schedule="cosine"), tmp_path / "run", log=silent)
    resume(tmp_path / "run", epochs=2, log=lines.append)
    assert "cosine schedule now ends with epoch 2" in lines[0]


def test_a_run_is_finished_early_and_can_still_be_lengthened(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch  2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", log=stop)
    assert load_run(tmp_path / "run").metrics is None
    with pytest.raises(InputError, match="give only one of the two"):
        resume(tmp_path / "run", finish=True, epochs=3)
    early = resume(tmp_path / "run", finish=True, log=silent)
    assert metrics_of(early)["epochs"] == len(early.history) == 2
    assert resume(tmp_path / "run", log=silent).history == early.history
    assert len(resume(tmp_path / "run", epochs=3, log=silent).history) == 3


def test_a_run_is_continued_after_its_photos_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_drawings(tmp_path / "photos", {"cats": 10, "dogs": 10})
    monkeypatch.chdir(tmp_path)
    experiment = replace(LINEAR, data="photos", sizes=None, epochs=1)
    run(experiment, "run", log=silent)
    monkeypatch.chdir("/")
    folder = tmp_path / "run"
    assert len(resume(folder, epochs=2, log=silent).history) == 2  # a relative path still holds
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="photos does not exist any more"):
        resume(folder, epochs=3, log=silent)
    done = resume(folder, epochs=3, data=str(tmp_path / "moved"), log=silent)
    assert len(done.history) == 3
    assert done.predict(split="all", log=silent).labels is not None
    write_drawings(tmp_path / "others", {"cats": 10, "dogs": 10}, seed=1)
    with pytest.raises(InputError, match="cannot be resumed: its photos had the fingerprint"):
        resume(folder, epochs=4, data=str(tmp_path / "others"), log=silent)


def test_tensorboard_gets_the_history_also_of_a_resumed_run(tmp_path: Path) -> None:
    run(replace(LINEAR, epochs=1, tensorboard=True), tmp_path / "run", log=silent)
    history = resume(tmp_path / "run", epochs=3, log=silent).history
    tf = quiet_tensorflow.tensorflow()
    found: dict[tuple[str, int], float] = {}
    for file in sorted((tmp_path / "run/tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
    columns = [name for name in history[0] if name != "epoch"]
    assert found.keys() == {(name, epoch) for name in columns for epoch in (1, 2, 3)}
    for row in history:
        assert found["val_loss", int(row["epoch"])] == pytest.approx(row["val_loss"])


def test_tensorboard_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="pip install tensorboardX"):
        run(replace(LINEAR, tensorboard=True), tmp_path / "run", log=silent)
    assert not (tmp_path / "run").exists()
