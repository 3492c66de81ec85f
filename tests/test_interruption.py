"""Runs that are killed, stopped, or out of room, and what is left of them."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from catdog_jax.cli import main
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError, RunError
from catdog_jax.runs import build, checkpoint, report, results, runner
from catdog_jax.runs.build import build_model
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.history import best_epoch, read_history
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import load_run
from catdog_jax.runs.run_folder import read_config
from catdog_jax.runs.runner import resume, run
from catdog_jax.training.optimizers import keras_adam
from catdog_jax.training.state import TrainState, create_state

SETTINGS: dict[str, Any] = {
    "data": "sketches",
    "image_size": 32,
    "sizes": (48, 20, 12),
    "epochs": 4,
    "batch_size": 16,
}
SMALL = replace(RECIPES["model3"], **SETTINGS)
KILLS = 20


class Stop(BaseException):
    """Stands for whatever ends a process between two epochs."""


def run_until(epoch: int, experiment: Experiment, out: Path, error: BaseException) -> None:
    """Run until `epoch` is reported, then raise `error`."""

    def log(line: str) -> None:
        if line.startswith(f"epoch {epoch:>2}/"):
            raise error

    with pytest.raises(type(error)):
        run(experiment, out, log=log)


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{**row, "seconds": 0} for row in history]


def silent(line: str) -> None:
    del line


def state_of(experiment: Experiment) -> TrainState:
    options = build.training_of(experiment, 2, 3)
    model = build_model(experiment, 2)
    optimizer = options["optimizer"](3 * experiment.epochs)
    return create_state(model, optimizer, trainable=options["trainable"])[1]


def saved_arrays(out: Path, experiment: Experiment, epoch: int) -> dict[str, np.ndarray]:
    restored = checkpoint.restore(out / "checkpoint" / str(epoch), state_of(experiment))
    return {name: np.asarray(array) for name, array in checkpoint._named(restored).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(SMALL, out, log=silent)
    return out


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("name", ["model3", "model4"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    experiment = replace(RECIPES[name], **SETTINGS, weights="none", stop_when_dead=False)
    if name == "model4":
        experiment = replace(experiment, model_options=("alpha=0.35",))
    one = run(experiment, tmp_path / "one", log=silent)
    run_until(2, experiment, tmp_path / "two", Stop())
    lines: list[str] = []
    two = resume(tmp_path / "two", log=lines.append)
    assert "resuming after epoch 2, the last one saved" in lines
    assert timeless(two.history) == timeless(one.history)
    assert timeless(read_history(tmp_path / "two/history.csv")) == timeless(one.history)
    assert one.metrics is not None
    assert two.metrics is not None
    for result in ("best", "validation", "test", "test_last"):
        assert two.metrics[result] == one.metrics[result]
    epochs = checkpoint.epochs(tmp_path / "one/checkpoint")
    assert checkpoint.epochs(tmp_path / "two/checkpoint") == epochs
    first, second = (saved_arrays(tmp_path / side, experiment, 4) for side in ("one", "two"))
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array, err_msg=key)


def test_the_last_and_the_best_epoch_are_kept(whole: Path) -> None:
    history = read_history(whole / "history.csv")
    best = best_epoch(history)
    accuracies = [row["val_accuracy"] for row in history]
    assert accuracies[best - 1] == max(accuracies)
    assert max(accuracies) not in accuracies[: best - 1]
    assert checkpoint.epochs(whole / "checkpoint") == sorted({best, 4})
    assert {path.name for path in (whole / "checkpoint").iterdir()} == {str(best), "4"}
    record = checkpoint.read(whole / "checkpoint" / "4")
    assert record["history"] == history
    splits = load_data("sketches", 32, sizes=(48, 20, 12))
    assert record["inputs"] == {"photos": splits.fingerprint, "weights file": "none"}


def test_the_best_epoch_is_kept_and_used_unless_the_last_is_asked_for(
    whole: Path, tmp_path: Path
) -> None:
    """Epochs with accuracies that fall, and weights that tell them apart."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoint")
    (out / "metrics.json").unlink()
    record, state = checkpoint.read(whole / "checkpoint/4"), state_of(SMALL)
    rows = record["history"]
    for epoch, accuracy in enumerate((0.5, 0.9, 0.7, 0.6), 1):
        history = [{**row} for row in rows[:epoch]]
        for row, value in zip(history, (0.5, 0.9, 0.7, 0.6), strict=False):
            row["val_accuracy"] = value
        params = jax.tree.map(lambda leaf, epoch=epoch: leaf * epoch, state.params)
        checkpoint.save(
            out / "checkpoint", replace(state, params=params), {**record, "history": history}
        )
        assert history[-1]["val_accuracy"] == accuracy
        kept = {path.name for path in (out / "checkpoint").iterdir()}
        assert kept == {str(min(epoch, 2)), str(epoch)}

    total = sum(map(jnp.sum, jax.tree.leaves(state.params)))
    expected: list[tuple[results.Which, int]] = [("best", 2), ("last", 4)]
    for which, times in expected:
        weights = nnx.state(load_run(out, checkpoint=which).model, nnx.Param)
        assert sum(map(jnp.sum, jax.tree.leaves(weights))) / total == pytest.approx(times)


def test_other_files_among_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """As file managers and users put there."""
    out = tmp_path / "run"
    run_until(1, SMALL, out, Stop())
    strangers = [out / "checkpoint/.DS_Store", out / "checkpoint/1/.DS_Store"]
    for path in strangers:
        path.touch()
    strangers += [out / "checkpoint/1-backup", out / "checkpoint/notes"]
    for path in strangers[2:]:
        path.mkdir()
    run_until(2, SMALL, out, Stop())
    _ = load_run(out, checkpoint="last").model
    assert len(resume(out, log=silent).history) == 4
    for path in strangers:
        assert path.exists() or path.parent.name == "1"  # gone with the checkpoint it was in


def test_without_the_best_checkpoint_training_does_not_begin(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "metrics.json").unlink()
    record, state = checkpoint.read(out / "checkpoint/4"), state_of(SMALL)
    shutil.rmtree(out / "checkpoint")
    for epoch in (1, 2):
        history = [{**row, "val_accuracy": 1 / row["epoch"]} for row in record["history"][:epoch]]
        checkpoint.save(out / "checkpoint", state, {**record, "history": history})
    arrays = next((out / "checkpoint/1/state/ocdbt.process_0/d").iterdir())
    arrays.write_bytes(arrays.read_bytes()[:-1])
    lines: list[str] = []
    with pytest.raises(InputError, match=r"checkpoint/1 is damaged"):
        resume(out, log=lines.append)
    shutil.rmtree(out / "checkpoint/1")
    with pytest.raises(InputError, match=r"no checkpoint at .*checkpoint/1; restore it"):
        resume(out, log=lines.append)
    assert not lines


def test_a_run_in_training_can_be_loaded(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint is replaced by the next epoch's at that very moment."""
    loaded, asked = load_run(whole), []

    def epochs(folder: Path) -> list[int]:
        asked.append(1)
        return [99] if len(asked) == 1 else there(folder)

    there = checkpoint.epochs
    monkeypatch.setattr(checkpoint, "epochs", epochs)
    assert loaded.model
    assert len(asked) == 3


def test_a_run_stopped_after_its_last_epoch_is_only_judged(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    lines: list[str] = []
    again = resume(tmp_path / "run", log=lines.append)
    assert not [line for line in lines if line.startswith("epoch")]
    assert again.metrics == load_run(whole).metrics


def test_a_dead_run_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stillborn(experiment: Experiment, *sizes: int) -> nnx.Module:
        model: Any = build_model(experiment, *sizes)
        model.dense2.bias[...] = jnp.full(64, -1e9)
        return model

    monkeypatch.setattr(build, "build_model", stillborn)
    lines: list[str] = []
    dead = run(SMALL, tmp_path / "run", log=lines.append)
    assert dead.is_dead
    assert len(dead.history) == 1
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "this model died in training" in capsys.readouterr().err
    (tmp_path / "run/metrics.json").unlink()
    lines.clear()
    assert timeless(resume(tmp_path / "run", log=lines.append).history) == timeless(dead.history)
    assert not [line for line in lines if line.startswith("epoch")]


def test_before_there_is_a_run_no_command_to_go_on_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "inputs_of", press)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", log=lines.append)
    assert not lines


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "catdog_jax", *arguments]


TRAIN = ("train", "model3", "--data", "sketches", "--image-size", "32", "--batch-size", "16")
TRAIN = (*TRAIN, "--sizes", "48", "20", "12", "--epochs", "60")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_history(tmp_path: Path) -> None:
    """Twenty times SIGKILL: every other time in the middle of writing a checkpoint, else at any
    moment after the first epoch, or, once in five, while the process starts."""
    subprocess.run(
        command(*TRAIN, "--out", str(tmp_path / "whole")), check=True, capture_output=True
    )
    expected = timeless(load_run(tmp_path / "whole").history)
    out, draw = tmp_path / "run", random.Random(0)
    kills = during_writes = finished = 0
    deadline = time.monotonic() + 600
    while kills < KILLS:
        assert time.monotonic() < deadline, f"{kills} kills in 600 s"
        with subprocess.Popen(
            command(*TRAIN, "--out", str(out)), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            starting = kills % 10 in (2, 6)  # with the odd ones aimed at writes
            while not starting and not process.stdout.readline().startswith(("epoch", "going on")):
                assert process.poll() is None
            if starting:
                time.sleep(draw.uniform(0, 5))
            elif kills % 2:
                wait_for_a_write(out / "checkpoint", process)
            else:
                time.sleep(draw.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        if process.returncode == 0:  # it was faster: check it and begin anew
            assert timeless(load_run(out).history) == expected
            shutil.rmtree(out)
            finished += 1
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        # What a process killed at its start leaves unfinished may be the one's before.
        during_writes += not starting and bool(unfinished(out / "checkpoint"))
        saved = checkpoint.epochs(out / "checkpoint")
        if saved:
            history = timeless(checkpoint.read(out / "checkpoint" / str(saved[-1]))["history"])
            assert history == expected[: saved[-1]]
            assert load_run(out).model
    done = subprocess.run(
        command("train", "--resume", str(out)), check=True, capture_output=True, text=True
    )
    assert "resuming after epoch" in done.stdout
    assert timeless(load_run(out).history) == expected
    assert not unfinished(out / "checkpoint")
    experiment, _ = read_config(out)
    first, second = (saved_arrays(folder, experiment, 60) for folder in (tmp_path / "whole", out))
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
    print(f"{kills} kills, {during_writes} in the middle of a checkpoint; {finished} runs finished")
    assert during_writes >= KILLS // 4


def unfinished(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(set(names) - set(map(str, checkpoint.epochs(folder))))


def wait_for_a_write(folder: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not unfinished(folder):
        time.sleep(0.0005)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "a run"  # the command must be quoted
    with subprocess.Popen(
        command(*TRAIN, "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch  2/"):
                break
        wait_for_a_write(out / "checkpoint", process)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate()
    assert process.returncode == 130
    assert f"interrupted; to resume: catdog-jax train --resume '{out}'\n" in output
    assert error == "interrupted\n"
    assert not unfinished(out / "checkpoint")  # the write was finished
    saved = checkpoint.epochs(out / "checkpoint")[-1]
    assert 2 <= saved < 60


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("numpy", marks=pytest.mark.slow),
        "jax",
        pytest.param("flax.nnx", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_it_starts_ends_it_quietly(module: str) -> None:
    """Python tells each module it has imported; the command imports for seconds."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "catdog_jax", "train", "model3"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip().startswith(module):
                break
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 130
    assert rest == ["interrupted\n"]


def test_a_full_disk_ends_in_one_line_and_costs_nothing_saved(small_disk: Path) -> None:
    out = small_disk / "run"
    run_until(2, SMALL, out, Stop())
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 500_000))
    done = subprocess.run(command("train", "--resume", str(out)), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {out} could not be written to (the checkpoint of epoch 3: No space left on "
        f"device); the state after epoch 2 is kept in {out}; free some space; to resume: "
        f"catdog-jax train --resume {out}\n"
    )
    assert checkpoint.epochs(out / "checkpoint")[-1] == 2
    assert not unfinished(out / "checkpoint")
    ballast.unlink()
    assert len(resume(out, log=silent).history) == 4


@pytest.mark.parametrize(
    "name",
    [
        "write_history",
        "keep_code",
        pytest.param("plot_history", marks=pytest.mark.slow),
        pytest.param("write_json", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_beside_the_checkpoints_ends_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run_until(4, SMALL, out, Stop())

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        for module in (runner, report):
            patch.setattr(module, name, fill, raising=False)
        with pytest.raises(RunError) as caught:
            resume(out, log=silent)
    assert str(caught.value) == (
        f"{out} could not be written to (No space left on device); the state after epoch 4 is kept "
        f"in {out}; free some space; to resume: catdog-jax train --resume {out}"
    )
    assert len(resume(out, log=silent).history) == 4


def test_a_reader_of_the_lines_that_leaves_is_no_full_disk(tmp_path: Path) -> None:
    run_until(1, SMALL, tmp_path / "run", BrokenPipeError())


def test_a_checkpoint_that_breaks_off_costs_nothing_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_until(2, SMALL, out, Stop())
    # The system then refuses to let any file grow beyond 100 kB.
    code = (
        "import resource, sys; from catdog_jax.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(['train', '--resume', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    # Among what Orbax's threads say.
    said = f"error: {out} could not be written to (the checkpoint of epoch 3: "
    assert said in done.stderr, done.stderr
    assert checkpoint.epochs(out / "checkpoint")[-1] == 2
    assert len(resume(out, log=silent).history) == 4
    assert not unfinished(out / "checkpoint")


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [
        (16, "the loss became (nan|inf) in step 2 of epoch 3"),
        pytest.param(48, "the last step of epoch 3", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_diverges_keeps_the_last_good_state(
    batch_size: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three steps an epoch, the second's loss tells; in one, only what it makes of the model."""
    experiment = replace(SMALL, batch_size=batch_size)
    run_until(2, experiment, tmp_path / "run", Stop())
    before = saved_arrays(tmp_path / "run", experiment, 2)
    monkeypatch.setattr(build, "make_optimizer", lambda *_, **__: keras_adam(1e38))
    kept = f"; the state after epoch 2 is kept in {re.escape(str(tmp_path / 'run'))}$"
    with pytest.raises(RunError, match=f"{said}; try a smaller learning rate .*{kept}"):
        resume(tmp_path / "run", log=silent)
    after = saved_arrays(tmp_path / "run", experiment, 2)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert len(checkpoint.read(tmp_path / "run/checkpoint/2")["history"]) == 2


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = []

    def log(line: str) -> None:
        if line.startswith("epoch  1/"):
            with pytest.raises(InputError, match="is in use by another run"):
                run(SMALL, out, log=silent)
            refused.append(line)

    run(SMALL, out, log=log)
    assert refused


# Checkpoints of something else.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "model2"}, "its model is model3, this run's model2"),
        ({"seed": 7}, "its seed is 0, this run's 7"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], said: str, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "run"
    shutil.copytree(whole, other)
    (other / "metrics.json").unlink()
    config = json.loads((other / "config.json").read_text())
    config["experiment"].update(change)
    (other / "config.json").write_text(json.dumps(config))
    for use in (resume, load_run):
        with pytest.raises(InputError, match=said):
            use(other)


def test_a_checkpoint_of_other_photos_is_refused(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(whole, other)
    config = json.loads((other / "config.json").read_text())
    config["inputs"]["photos"] = "others"
    (other / "config.json").write_text(json.dumps(config))
    said = "its photos had the fingerprint [0-9a-f]+, now it is others"
    with pytest.raises(InputError, match=said):
        load_run(other)


def test_a_run_of_another_weights_file_of_that_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"one")
    monkeypatch.setattr(build, "load_keras_weights", lambda *_, **__: None)
    monkeypatch.setattr(build, "weights_file", Path)
    experiment = replace(SMALL, weights=str(weights), epochs=1)
    run(experiment, tmp_path / "run", log=silent)
    lines: list[str] = []
    run(experiment, tmp_path / "run", log=lines.append)
    assert lines == [f"{tmp_path / 'run'} holds this run already; reading it"]
    weights.write_bytes(b"two")
    said = "not this run: its weights file had the fingerprint [0-9a-f]{64}, now it is [0-9a-f]{64}"
    with pytest.raises(InputError, match=said):
        run(experiment, tmp_path / "run", log=lines.append)


def test_a_checkpoint_of_another_version_is_refused(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 4)
    with pytest.raises(InputError, match=r"written in format 3, this version .* reads format 4"):
        load_run(whole)


def test_a_checkpoint_of_another_network_is_refused_by_tensor(whole: Path) -> None:
    model4 = {"model": "model4", "model_options": (), "trainable": "head"}
    for changes in (model4, {"image_size": 64}, {"optimizer": "sgd"}):
        with pytest.raises(
            InputError, match=r"not a checkpoint of this model: \S+ is .* there, .* here"
        ):
            checkpoint.restore(whole / "checkpoint/4", state_of(replace(SMALL, **changes)))


def test_a_checkpoint_that_is_not_finite_is_refused_by_tensor(whole: Path, tmp_path: Path) -> None:
    state = state_of(SMALL)
    leaves, structure = jax.tree.flatten(state.params)
    leaves[0] = leaves[0].at[0].set(jnp.inf)
    broken = replace(state, params=jax.tree.unflatten(structure, leaves))
    record = checkpoint.read(whole / "checkpoint/4")
    checkpoint.save(tmp_path / "checkpoint", broken, record)
    with pytest.raises(InputError, match=r"4 cannot be used: params\.\S+ holds NaN or infinity"):
        checkpoint.restore(tmp_path / "checkpoint/4", state)


def test_a_damaged_checkpoint_is_refused(whole: Path, tmp_path: Path) -> None:
    """Each of its files cut in half, in turn; in another process, to see what it prints, too."""
    files = sorted(
        path.relative_to(whole)
        for path in (whole / "checkpoint/4").rglob("*")
        if path.is_file() and path.stat().st_size
    )
    for number, name in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
    code = (
        "import sys; from pathlib import Path; from catdog_jax.errors import guarded\n"
        "from catdog_jax.runs.results import load_run\n"
        "for folder in sys.argv[1:]:\n"
        "    print(guarded(lambda: load_run(Path(folder), checkpoint='last').model and 0))"
    )
    folders = [str(tmp_path / str(number)) for number in range(len(files))]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    codes = done.stdout.split()
    assert codes == ["2"] * len(files)
    errors = done.stderr.splitlines()
    assert len(errors) == len(files), done.stderr
    for line, name in zip(errors, files, strict=True):
        assert line.startswith("error: ")
        assert line.endswith("train again (if there is an earlier one, deleting this is enough)")
        assert name.name in line or name.name == "sha256.json"
