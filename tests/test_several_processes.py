"""Real processes on this machine, connected by Gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import several_processes
from helpers import TRAIN, command

from catdog_jax.commands import processes
from catdog_jax.errors import InputError
from catdog_jax.runs.results import load_run
from catdog_jax.training import hosts

QUICK_COMPILER = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(words: Sequence[str], devices: int, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=environment, **pipes)  # pyright: ignore[reportCallIssue]


def ends(process: subprocess.Popen[str], within: float = 200) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; a process that does not end is killed."""
    try:
        out, err = process.communicate(timeout=within)
    finally:
        process.kill()
    return process.returncode, out, err


def start_training(*arguments: str, out: Path, devices: int = 1) -> list[subprocess.Popen[str]]:
    """The command in two processes; the second one cannot see the run's folder."""
    where = "--coordinator", f"localhost:{free_port()}", "--processes", "2"
    return [
        start(
            command("train", *arguments, *where, "--process", str(process), *_run(out, process)),
            devices,
        )
        for process in (0, 1)
    ]


def _run(out: Path, process: int) -> tuple[str, str]:
    resumed = "--resume" if out.is_dir() else "--out"
    return resumed, str(out if process == 0 else "/nowhere" / out.relative_to("/"))


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 2])
def test_two_processes_give_the_history_of_one(each: int, tmp_path: Path) -> None:
    script = [sys.executable, several_processes.__file__]
    where = "2", f"localhost:{free_port()}"
    variables = {"XLA_FLAGS": QUICK_COMPILER}
    two = [
        start([*script, str(tmp_path / "two"), k, *where], each, **variables) for k in ("0", "1")
    ]
    one = start([*script, str(tmp_path / "one")], 2 * each, **variables)
    for process in (*two, one):
        code, _, said = ends(process, within=500)
        assert code == 0, said
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("two", "one"))
    assert found.keys() == set(several_processes.MODELS)
    for model, epochs in expected.items():
        assert len({loss for loss, *_ in epochs}) == len(epochs), f"{model} learns nothing"
        # Two hosts of two devices add the four gradients in another order than one host.
        np.testing.assert_allclose(found[model], epochs, rtol=10 ** (each - 6), err_msg=model)


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes_and_devices(tmp_path: Path) -> None:
    small = "model3", *TRAIN
    whole = start(command("train", *small, "--epochs", "5", "--out", str(tmp_path / "whole")), 1)
    run = tmp_path / "run"
    first, second = start_training(*small, "--epochs", "2", out=run, devices=2)
    (code, out, said), (other_code, other_out, _) = ends(first), ends(second)
    assert code == other_code == 0, said
    assert "Gloo" not in out
    assert not other_out, "only the first process speaks"
    for epochs, devices in (("3", 8), ("4", 1)):
        resumed = command("train", "--resume", str(run), "--epochs", epochs)
        assert ends(start(resumed, devices))[0] == 0
    first, second = start_training("--epochs", "5", out=run, devices=2)
    code, out, _ = ends(first)
    assert code == ends(second)[0] == 0
    assert "resuming after epoch 4" in out
    assert ends(whole)[0] == 0
    mixed, plain = (load_run(tmp_path / name) for name in ("run", "whole"))
    for name in ("loss", "val_loss"):
        found, expected = ([row[name] for row in one.history] for one in (mixed, plain))
        np.testing.assert_allclose(found, expected, 1e-4)
    assert mixed.metrics
    assert plain.metrics
    assert mixed.metrics["test"]["correct"] == plain.metrics["test"]["correct"]


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "how"), [(0, signal.SIGKILL), (1, signal.SIGTERM)])
def test_if_one_process_dies_the_other_ends_with_one_line(
    killed: int, how: signal.Signals, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    both = start_training("model3", *TRAIN, "--epochs", "100000", out=run)
    deadline = time.monotonic() + 200
    while not (run / "checkpoint" / "1").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    both[killed].send_signal(how)
    code, _, said = ends(both[1 - killed], within=60)
    ends(both[killed])
    assert load_run(run).history
    if killed == 0 and code == -signal.SIGABRT:
        return  # seldom JAX's own connection to process 0 notices first, and aborts at once
    assert code == 1
    assert f"process {1 - killed} ends because process {killed} of 2 has ended" in said
    assert said.count("error: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["--data", "sketches", "--image-size", "32", "--sizes", "48", "20", "8"], "other photos"),
        ([*TRAIN, "--learning-rate", "0.1"], r"other settings \(learning_rate\)"),
        ([*TRAIN, "--batch-size", "2"], r"other settings \(batch_size\)"),
        ([*TRAIN, "--epochs", "5"], r"other settings \(epochs\)"),
    ],
)
def test_what_is_wrong_with_one_process_ends_both(
    other: list[str], said: str, tmp_path: Path
) -> None:
    where = "--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process"
    both = [
        start(command("train", "model3", *data, "--out", str(tmp_path / "r"), *where, k), 1)
        for k, data in (("0", TRAIN), ("1", other))
    ]
    heard = ""
    for process in both:
        code, _, line = ends(process)
        assert code in (1, 2)
        heard += line
    assert re.search(f"process 1 has {said} than process 0|has ended", heard)
    assert not (tmp_path / "r").exists()


def test_a_port_in_use_and_a_host_that_does_not_exist_are_refused() -> None:
    with socket.create_server(("", 0)) as server:
        place = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="process 0 cannot use port"):
            processes.join(place, 2, 0)
    with pytest.raises(InputError, match=r"there is no host nosuch\.invalid"):
        processes.join("nosuch.invalid:1", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, 2, 0), "coordinator"),
        (("here", 2, 0), "--coordinator must be HOST:PORT, not here"),
        (("here:99999", 2, 0), "--coordinator must be HOST:PORT"),
        (("here:1", 2, 2), "--process must be from 0 to 1"),
        (("here:1", 0, 0), "--processes must be 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: tuple[str | None, int | None, int | None], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        processes.join(*arguments)


def test_a_process_joins_by_itself_only_where_the_cluster_started_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *_, **__: joined.append(True))
    processes.join(None, None, None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.join(None, None, None)
    assert not joined
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    processes.join(None, None, None)
    assert joined == [True]
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    processes.join(None, None, None)
    assert joined == [True, True]


def test_one_process_needs_no_other() -> None:
    assert not hosts.several()
    assert hosts.is_first()
    assert hosts.all_agree(True)
    assert hosts.from_first(max, 1, 2) == hosts.first_then_others(lambda: 2) == 2
    hosts.check_same("photos", "a")
