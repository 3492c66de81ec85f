"""Runs that are killed, stopped, or out of room, and what is left of them."""

import errno
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from subprocess import PIPE
from threading import Event
from typing import Any, cast

import helpers
import jax
import jax.numpy as jnp
import networks
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from helpers import LINEAR, SETTINGS, TRAIN, command, silent, timeless

from catdog_jax.cli import main
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError, RunError
from catdog_jax.files import lock_folder
from catdog_jax.runs import build, checkpoint, initial, report, results, runner, saving
from catdog_jax.runs.build import build_model
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.history import COLUMNS, Row, best_epoch, read_history
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import load_run
from catdog_jax.runs.run_folder import read_config
from catdog_jax.runs.runner import resume, run
from catdog_jax.training.optimizers import keras_adam
from catdog_jax.training.state import TrainState, create_state

SMALL = replace(helpers.SMALL, epochs=4)
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


def state_of(experiment: Experiment) -> TrainState:
    model = build_model(experiment, 2)
    options = build.training_of(experiment, model, 2, 3)
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


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run_until(2, SMALL, out, Stop())
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.fixture
def unreported(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole run as it was after its last epoch."""
    copy = shutil.copytree(whole, tmp_path / "run")
    (copy / "metrics.json").unlink()
    return copy


def check_same(experiment: Experiment, one: Path, two: Path) -> None:
    """Check that two finished runs have the same history, results and last state, bit for bit."""
    first, second = load_run(one), load_run(two)
    assert timeless(second.history) == timeless(first.history)
    assert timeless(read_history(two / "history.csv")) == timeless(first.history)
    assert first.metrics is not None
    assert second.metrics is not None
    for result in ("best", "validation", "test", "test_last"):
        assert second.metrics[result] == first.metrics[result]
    epochs = checkpoint.epochs(one / "checkpoint")
    assert checkpoint.epochs(two / "checkpoint") == epochs
    assert not unfinished(two / "checkpoint")
    arrays, others = (saved_arrays(out, experiment, epochs[-1]) for out in (one, two))
    assert others.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(others[name], array, err_msg=name)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole: Path, out: Path) -> None:
    lines: list[str] = []
    resume(out, log=lines.append)
    assert "resuming after epoch 2, the last one saved" in lines
    check_same(SMALL, whole, out)


FROZEN = replace(LINEAR, model=f"{networks.__file__}:Residual", trainable="head")
MODEL4 = replace(RECIPES["model4"], **SETTINGS, model_options=("alpha=0.35",), weights="none")


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize(
    "experiment",
    [FROZEN, pytest.param(MODEL4, marks=pytest.mark.slow)],  # compiling model 4 takes longest
    ids=["residual", "model4"],
)
def test_a_resumed_run_with_frozen_parts_equals_an_uninterrupted_one(
    experiment: Experiment, tmp_path: Path
) -> None:
    run(experiment, tmp_path / "one", log=silent)
    run_until(2, experiment, tmp_path / "two", Stop())
    resume(tmp_path / "two", log=silent)
    check_same(experiment, tmp_path / "one", tmp_path / "two")


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
    whole: Path, unreported: Path
) -> None:
    """Epochs with falling accuracies, and weights that tell them apart."""
    out = unreported
    shutil.rmtree(out / "checkpoint")
    record, state = checkpoint.read(whole / "checkpoint/4"), state_of(SMALL)
    rows = record["history"]
    for row, accuracy in zip(rows, (0.5, 0.9, 0.7, 0.6), strict=True):
        row["val_accuracy"] = accuracy
    for epoch in (1, 2, 3, 4):
        params = jax.tree.map(lambda leaf, epoch=epoch: leaf * epoch, state.params)
        checkpoint.save(
            out / "checkpoint",
            checkpoint.on_host(replace(state, params=params)),
            {**record, "history": rows[:epoch]},
        )
        kept = {path.name for path in (out / "checkpoint").iterdir()}
        assert kept == {str(min(epoch, 2)), str(epoch)}

    total = sum(map(jnp.sum, jax.tree.leaves(state.params)))
    expected: list[tuple[results.Which, int]] = [("best", 2), ("last", 4)]
    for which, times in expected:
        weights = nnx.state(load_run(out, checkpoint=which).model, nnx.Param)
        assert sum(map(jnp.sum, jax.tree.leaves(weights))) / total == pytest.approx(times)


def test_other_files_among_checkpoints_are_left_alone(out: Path) -> None:
    """As file managers and users put there."""
    strangers = [out / "checkpoint/.DS_Store", out / "checkpoint/2/.DS_Store"]
    for path in strangers:
        path.touch()
    strangers += [out / "checkpoint/1-backup", out / "checkpoint/notes"]
    for path in strangers[2:]:
        path.mkdir()
    _ = load_run(out, checkpoint="last").model
    assert len(resume(out, log=silent).history) == 4
    for path in strangers:
        assert path.exists() or path.parent.name == "2"  # gone with the checkpoint it was in


def test_without_the_best_checkpoint_training_does_not_begin(unreported: Path) -> None:
    out = unreported
    record, state = checkpoint.read(out / "checkpoint/4"), state_of(SMALL)
    shutil.rmtree(out / "checkpoint")
    for epoch in (1, 2):
        history = [{**row, "val_accuracy": 1 / row["epoch"]} for row in record["history"][:epoch]]
        checkpoint.save(
            out / "checkpoint", checkpoint.on_host(state), {**record, "history": history}
        )
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
    """Also if its checkpoint is replaced by the next epoch's at that moment."""
    loaded, asked = load_run(whole), []

    def epochs(folder: Path) -> list[int]:
        asked.append(1)
        return [99] if len(asked) == 1 else there(folder)

    there = checkpoint.epochs
    monkeypatch.setattr(checkpoint, "epochs", epochs)
    assert loaded.model


def test_a_run_stopped_after_its_last_epoch_is_only_evaluated(
    whole: Path, unreported: Path
) -> None:
    lines: list[str] = []
    again = resume(unreported, log=lines.append)
    assert not [line for line in lines if line.startswith("epoch")]
    # All but the memory that this process has used so far.
    assert {**(again.metrics or {}), "peak_memory": {}} == {
        **(load_run(whole).metrics or {}),
        "peak_memory": {},
    }


def test_before_there_is_a_run_no_command_to_resume_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "inputs_of", press)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", log=lines.append)
    assert not lines


# Killed processes.

MOMENTS = (
    "before its checkpoint is begun",
    "while Orbax writes it",
    "before its hashes are written",
    "before its line in history.csv is written",
    "before metrics.json is written",
)


class AtOnce(Executor):
    """Runs what it is given before it goes on."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = Future[Any]()
        done.set_result(fn(*args, **kwargs))
        return done


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, and what a kill at each of the moments would have left of it on the disk.

    All but the last are moments of the second epoch.
    """
    folder = tmp_path_factory.mktemp("killed")
    out = folder / "whole"
    epoch = 0

    def note(moment: str) -> None:
        if epoch == 2 and not (folder / moment).exists():
            shutil.copytree(out, folder / moment)

    def save(*arguments: Any) -> None:
        nonlocal epoch
        epoch += 1
        note(MOMENTS[0])
        kept["save"](*arguments)

    def finalize(*arguments: Any) -> None:
        note(MOMENTS[1])
        kept["finalize"](*arguments)

    def sha256(path: Path) -> str:
        note(MOMENTS[2])
        return kept["sha256"](path)

    def write_history(*arguments: Any) -> None:
        note(MOMENTS[3])
        kept["write_history"](*arguments)

    def write_metrics(*arguments: Any) -> None:
        shutil.copytree(out, folder / MOMENTS[4])
        kept["write_json"](*arguments)

    places = [
        (saving, "ThreadPoolExecutor", AtOnce),  # or the second might give way to the third
        (checkpoint, "save", save),
        (ocp.JsonCheckpointHandler, "finalize", finalize),
        (checkpoint, "sha256", sha256),
        (saving, "write_history", write_history),
        (report, "write_json", write_metrics),
    ]
    kept: dict[str, Any] = {name: getattr(place, name) for place, name, _ in places}
    with pytest.MonkeyPatch.context() as patch:
        for place, name, instead in places:
            patch.setattr(place, name, instead)
        run(LINEAR, out, log=silent)
    return folder


def test_the_moments_are_those_they_are_named_after(moments: Path) -> None:
    def left(moment: str) -> tuple[bool, bool, bool, int]:
        """Is a checkpoint being written, is the second there, has it hashes; lines of history."""
        out = moments / moment
        lines = (out / "history.csv").read_text().splitlines()
        second = out / "checkpoint/2"
        being_written = bool(unfinished(out / "checkpoint"))
        return being_written, second.is_dir(), (second / "sha256.json").exists(), len(lines) - 1

    before, during, unhashed, unlisted, unreported = map(left, MOMENTS)
    assert before == (False, False, False, 1)
    assert during == (True, False, False, 1)
    assert unhashed == (False, True, False, 1)
    assert unlisted == (False, True, True, 1)
    assert unreported[3] == 3
    assert not (moments / MOMENTS[4] / "metrics.json").exists()


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment_of_a_save_it_resumes_to_the_same_run(
    moment: str, moments: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(moments / moment, tmp_path / "run")
    resume(out, log=silent)
    check_same(LINEAR, moments / "whole", out)


LONG = 150  # epochs: enough for twenty kills
PAUSED = replace(LINEAR, epochs=LONG, callbacks=(f"{networks.__file__}:pause",))
TRAIN_PAUSED = ("train", LINEAR.model, *TRAIN, "--callbacks", *PAUSED.callbacks, "--epochs")


def test_a_killed_process_resumes_to_the_same_run(tmp_path: Path) -> None:
    """SIGKILL, while a checkpoint is being written; the slow test does so twenty times."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    experiment = replace(PAUSED, epochs=20)
    run(experiment, whole, log=silent)
    train = command(*TRAIN_PAUSED, "20", "--out", str(out))
    with subprocess.Popen(train, stdout=subprocess.PIPE, text=True) as process:
        wait_for_a_write_after_epoch_2(out / "checkpoint", process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 1 <= checkpoint.epochs(out / "checkpoint")[-1] < 20
    resume(out, log=silent)
    check_same(experiment, whole, out)


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_history(tmp_path: Path) -> None:
    """Twenty times SIGKILL: every other time while a checkpoint is being written, else at any
    moment after the first epoch, or, once in five, while the process starts. Slow: minutes."""
    train = (*TRAIN_PAUSED, str(LONG), "--out")
    subprocess.run(command(*train, str(tmp_path / "whole")), check=True, capture_output=True)
    expected = timeless(load_run(tmp_path / "whole").history)
    out, draw = tmp_path / "run", random.Random(0)
    kills = during_writes = finished = 0
    deadline = time.monotonic() + 600
    forking = [sys.executable, str(Path(__file__).with_name("forking.py"))]
    with subprocess.Popen(forking, stdin=PIPE, stdout=PIPE, text=True) as forks:
        assert forks.stdin is not None
        assert forks.stdout is not None
        while kills < KILLS:
            assert time.monotonic() < deadline, f"only {kills} kills in 600 s"
            print(shlex.join([*train, str(out)]), file=forks.stdin, flush=True)
            process, line = int(forks.stdout.readline()), ""
            starting = kills % 10 in (2, 6)  # with the odd ones aimed at writes
            while not starting and not line.startswith(("epoch", "going on")):
                line = forks.stdout.readline()
                assert "ended" not in line
            if starting:
                time.sleep(draw.uniform(0, 2))
            elif kills % 2:
                wait_for_a_write(out / "checkpoint", partial(is_running, process))
            else:
                time.sleep(draw.uniform(0, 0.3))
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            while "ended" not in line:
                line = forks.stdout.readline()
            if line == "ended 0\n":  # it had finished: check it and start again
                assert timeless(load_run(out).history) == expected
                shutil.rmtree(out)
                finished += 1
                continue
            assert line.endswith(f"ended {-signal.SIGKILL}\n")
            kills += 1
            # A process killed while starting may leave its predecessor's unfinished write.
            during_writes += not starting and bool(unfinished(out / "checkpoint"))
            saved = checkpoint.epochs(out / "checkpoint")
            if saved:
                history = timeless(checkpoint.read(out / "checkpoint" / str(saved[-1]))["history"])
                assert history == expected[: saved[-1]]
                assert load_run(out).model
        forks.stdin.close()
    done = subprocess.run(
        command("train", "--resume", str(out)), check=True, capture_output=True, text=True
    )
    assert "resuming after epoch" in done.stdout
    assert timeless(load_run(out).history) == expected
    assert not unfinished(out / "checkpoint")
    experiment, _ = read_config(out)
    first, second = (saved_arrays(folder, experiment, LONG) for folder in (tmp_path / "whole", out))
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
    print(f"{kills} kills, {during_writes} in the middle of a checkpoint; {finished} runs finished")
    assert during_writes >= KILLS // 4


def unfinished(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(set(names) - set(map(str, checkpoint.epochs(folder))))


def is_running(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def wait_for_a_write(folder: Path, running: Callable[[], bool]) -> None:
    while running() and not unfinished(folder):
        time.sleep(0.0005)


def wait_for_a_write_after_epoch_2(folder: Path, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch  2/"):
            break
    wait_for_a_write(folder, lambda: process.poll() is None)


def test_ctrl_c_prints_the_command_to_resume(tmp_path: Path) -> None:
    out = tmp_path / "a run"  # the command must be quoted
    with subprocess.Popen(
        command(*TRAIN_PAUSED, "60", "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_a_write_after_epoch_2(out / "checkpoint", process)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate()
    assert process.returncode == 130
    assert f"to resume: catdog-jax train --resume '{out}'\n" in output
    assert error == "interrupted\n"
    assert not unfinished(out / "checkpoint")  # the write was finished
    saved = checkpoint.epochs(out / "checkpoint")[-1]
    assert 2 <= saved < 60


@pytest.mark.parametrize(
    "module",  # one will do; each starts a process
    [
        pytest.param("numpy", marks=pytest.mark.slow),
        "jax",
        pytest.param("flax.nnx", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_it_starts_ends_it_quietly(module: str) -> None:
    """`-X importtime` prints each module, so Ctrl-C can be sent at a known point."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "catdog_jax", "train", "model3"],
        stderr=subprocess.PIPE,
        pipesize=4096,  # it waits to be read, and cannot end before the signal
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


DROPPED = """
import gc, sys, time
from catdog_jax.errors import guarded

def once(*_):
    gc.callbacks.remove(once)
    raise KeyboardInterrupt  # as if the signal had come here

def command():
    gc.callbacks.append(once)
    gc.collect()
    time.sleep(60)

sys.exit(guarded(command))
"""


def test_ctrl_c_counts_even_if_it_comes_in_a_callback_of_the_garbage_collector() -> None:
    process = [sys.executable, "-c", DROPPED]
    done = subprocess.run(process, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_full_disk_ends_in_one_line_and_costs_nothing_saved(
    stopped: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(stopped, small_disk / "run")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 500_000))
    assert main(["train", "--resume", str(out)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {out} could not be written to (the checkpoint of epoch 3")
    assert "No space left on device" in line
    assert f"the state after epoch 2 is kept in {out}" in line
    assert line.endswith(f"catdog-jax train --resume {out}")
    assert checkpoint.epochs(out / "checkpoint")[-1] == 2
    assert not unfinished(out / "checkpoint")
    ballast.unlink()
    assert len(resume(out, log=silent).history) == 4


@pytest.mark.parametrize(
    "name",  # slow: two that fail as late as the first
    [
        "write_history",
        "keep_code",
        pytest.param("plot_history", marks=pytest.mark.slow),
        pytest.param("write_json", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_beside_the_checkpoints_ends_in_one_line(
    name: str, unreported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = unreported

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        for module in (runner, saving, report):
            patch.setattr(module, name, fill, raising=False)
        with pytest.raises(RunError) as caught:
            resume(out, log=silent)
    said = str(caught.value)
    assert said.startswith(f"{out} could not be written to (No space left on device)")
    assert "the state after epoch 4 is kept" in said
    assert said.endswith(f"catdog-jax train --resume {out}")
    assert len(resume(out, log=silent).history) == 4


@dataclass
class SlowDisk:
    """Stands for `checkpoint.save`: writes nothing before it is free, and may fail at an epoch."""

    fails_at: int = 0
    free: Event = field(default_factory=Event)
    tried: list[int] = field(default_factory=list)
    """The epochs that were to be written."""

    def save(self, _: Path, arrays: checkpoint.Arrays, record: checkpoint.Record) -> None:
        assert self.free.wait(60)
        epoch = len(record["history"])
        assert int(arrays["step"]) == epoch
        self.tried.append(epoch)
        if epoch == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_epochs(put: saving.Save) -> None:
    """Save six epochs, the third of which is the best."""
    state, history = state_of(LINEAR), list[Row]()
    record = checkpoint.Record(
        format=checkpoint.FORMAT,
        experiment={},
        inputs={},
        class_names=[],
        history=history,
        device="",
        on_device=False,
    )
    for epoch, accuracy in enumerate([0.5, 0.6, 0.8, 0.7, 0.8, 0.6], 1):
        row = dict.fromkeys(COLUMNS, 0.0) | {"epoch": epoch, "val_accuracy": accuracy}
        history.append(cast("Row", row))
        put(replace(state, step=jnp.int32(epoch)), record)


def test_epochs_shorter_than_a_write_are_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk()
    monkeypatch.setattr(checkpoint, "save", disk.save)
    with saving.saving(tmp_path, tmp_path / "history.csv") as put:
        save_epochs(put)
        assert not disk.tried
        disk.free.set()
    *first, best, last = disk.tried  # of the first two, the thread may have begun with one, or none
    assert (best, last) == (3, 6)
    assert len(first) <= 1
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2, 3, 4, 5, 6]


def test_after_a_failed_write_nothing_takes_the_place_of_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best epoch's write fails while a later one, which would refer to it, waits."""
    disk = SlowDisk(fails_at=3)

    def save_them() -> None:
        with saving.saving(tmp_path, tmp_path / "history.csv") as put:
            save_epochs(put)
            disk.free.set()

    monkeypatch.setattr(checkpoint, "save", disk.save)
    with pytest.raises(OSError, match="No space left"):
        save_them()
    assert disk.tried[-1] == 3


def test_a_broken_pipe_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    run_until(1, LINEAR, tmp_path / "run", BrokenPipeError())


def test_a_checkpoint_that_breaks_off_costs_nothing_saved(out: Path) -> None:
    # The system then refuses to let any file grow beyond 100 kB.
    code = (
        "import resource, sys; from catdog_jax.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(['train', '--resume', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    # Orbax's threads print other lines.
    said = f"error: {out} could not be written to (the checkpoint of epoch 3: "
    assert said in done.stderr, done.stderr
    assert checkpoint.epochs(out / "checkpoint")[-1] == 2
    assert len(resume(out, log=silent).history) == 4
    assert not unfinished(out / "checkpoint")


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [
        (16, "the loss became (nan|inf) in step 2 of epoch 3"),
        # Slow: programs of another batch size.
        pytest.param(48, "the last step of epoch 3", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_diverges_keeps_the_last_good_state(
    batch_size: int,
    said: str,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With three steps per epoch the second loss is not finite; with one, only the weights after
    it."""
    experiment = replace(SMALL, batch_size=batch_size)
    if experiment != SMALL:
        out = tmp_path / "other"
        run_until(2, experiment, out, Stop())
    before = saved_arrays(out, experiment, 2)
    monkeypatch.setattr(build, "make_optimizer", lambda *_, **__: keras_adam(1e38))
    kept = f"the state after epoch 2 is kept in {re.escape(str(out))}$"
    with pytest.raises(RunError, match=f"{said}; .*{kept}"):
        resume(out, log=silent)
    after = saved_arrays(out, experiment, 2)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert len(checkpoint.read(out / "checkpoint/2")["history"]) == 2


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with lock_folder(out), pytest.raises(InputError, match="is in use by another run"):
        run(LINEAR, out, log=silent)


# Checkpoints that do not fit.


def test_a_checkpoint_of_another_run_is_refused(unreported: Path) -> None:
    config = json.loads((unreported / "config.json").read_text())
    config["experiment"]["seed"] = 7
    (unreported / "config.json").write_text(json.dumps(config))
    for use in (resume, load_run):
        with pytest.raises(InputError, match="its seed is 0, this run's 7"):
            use(unreported)


def test_a_checkpoint_of_other_photos_is_refused(unreported: Path) -> None:
    config = json.loads((unreported / "config.json").read_text())
    config["inputs"]["photos"] = "others"
    (unreported / "config.json").write_text(json.dumps(config))
    said = "its photos had the fingerprint [0-9a-f]+, now it is others"
    with pytest.raises(InputError, match=said):
        load_run(unreported)


def test_a_run_of_another_weights_file_with_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"one")
    monkeypatch.setattr(initial, "load_keras_weights", lambda *_, **__: None)
    monkeypatch.setattr(build, "weights_file", Path)
    experiment = replace(LINEAR, weights=str(weights), epochs=1)
    run(experiment, tmp_path / "run", log=silent)
    lines: list[str] = []
    run(experiment, tmp_path / "run", log=lines.append)
    (line,) = lines
    assert "holds this run already" in line
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
    for changes in ({"model": "model1"}, {"image_size": 64}, {"optimizer": "sgd"}):
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
    checkpoint.save(tmp_path / "checkpoint", checkpoint.on_host(broken), record)
    with pytest.raises(InputError, match=r"4 cannot be used: params\.\S+ holds NaN or infinity"):
        checkpoint.restore(tmp_path / "checkpoint/4", state)


def test_a_damaged_checkpoint_is_refused(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each of its files cut in half, in turn."""
    files = sorted(
        path.relative_to(whole)
        for path in (whole / "checkpoint/4").rglob("*")
        if path.is_file() and path.stat().st_size
    )
    for number, name in enumerate(files):
        copy = shutil.copytree(whole, tmp_path / str(number))
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        assert main(["evaluate", str(copy), "--checkpoint", "last"]) == 2
        (line,) = capfd.readouterr().err.splitlines()  # and none of Orbax's
        assert line.startswith("error: ")
        assert "deleting this is enough" in line
        assert name.name in line or name.name == "sha256.json"
