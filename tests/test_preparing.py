"""Real processes that decode the same photos at once, or are killed meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from photo_files import color, write_classes

from catdog_jax.data import decoded_cache
from catdog_jax.data.load import load_data

LIMIT = 120
"""Seconds before a process is killed, so that a failing test does not hang."""
# Draws argv[1] pictures, prints before and after writing, and waits for a line before the final
# rename.
PAUSING = """
import sys
from catdog_jax.data import decoded_folder
from catdog_jax.data.load import load_data

def pausing(*arguments, write=decoded_folder.write, **asked):
    print("preparing", flush=True)
    write(*arguments, **asked)
    print("written", flush=True)
    sys.stdin.readline()

decoded_folder.write = pausing
loaded = load_data("sketches", 32, sizes=(int(sys.argv[1]), 4, 2))
print(loaded.folder, loaded.train.images[:].sum(), flush=True)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/data"


@pytest.fixture
def start():
    """Starts processes that run code, and ends those that still do."""
    with contextlib.ExitStack() as stack:

        def start(code, *arguments, **options):
            process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                **options,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            watch = threading.Timer(LIMIT, process.kill)  # which ends whoever reads from it, too
            stack.callback(watch.cancel)
            watch.start()
            return process

        yield start


def unfinished_in(cache):
    return list(cache.glob(".*.unfinished"))


def finish(process):
    """Let a pausing process go on; return what it found."""
    output, errors = process.communicate("\n")
    assert process.returncode == 0, errors
    return output.splitlines()


def test_one_waits_for_the_other(cache, start):
    first = start(PAUSING, 6)
    assert [first.stdout.readline(), first.stdout.readline()] == ["preparing\n", "written\n"]
    second = start(PAUSING, 6)
    assert "waiting for another process" in second.stderr.readline()
    assert len(unfinished_in(cache)) == 1
    (found,) = finish(first)
    assert finish(second) == [found]  # it has prepared nothing itself
    assert unfinished_in(cache) == []


def test_the_waiting_process_takes_over_when_the_other_is_killed(cache, start):
    first = start(PAUSING, 6)
    assert [first.stdout.readline(), first.stdout.readline()] == ["preparing\n", "written\n"]
    second = start(PAUSING, 6)
    assert "waiting for another process" in second.stderr.readline()
    assert len(unfinished_in(cache)) == 1
    first.kill()
    assert [second.stdout.readline(), second.stdout.readline()] == ["preparing\n", "written\n"]
    (found,) = finish(second)
    assert found.startswith(str(cache))
    assert unfinished_in(cache) == []


def test_only_the_leftovers_of_dead_processes_are_deleted(cache, start):
    dead, living = start(PAUSING, 6), start(PAUSING, 7)
    for process in (dead, living):
        assert [process.stdout.readline(), process.stdout.readline()][1] == "written\n"
    dead.kill()
    dead.wait()
    assert len(unfinished_in(cache)) == 2
    third = start(PAUSING, 8)
    assert [third.stdout.readline(), third.stdout.readline()][1] == "written\n"
    assert len(unfinished_in(cache)) == 2  # of the living one and its own
    found = finish(third) + finish(living)
    assert len(set(found)) == 2
    assert unfinished_in(cache) == []


@pytest.mark.slow
def test_two_processes_decode_the_same_photos_after_one_was_killed(
    cache, start, tmp_path, monkeypatch
):
    """Slow: several processes import TensorFlow. The tests above check the locks themselves."""
    monkeypatch.delenv(decoded_cache.DECODE_HERE)
    folder = write_classes(tmp_path / "photos", cat=250, dog=250)
    code = "import sys; from catdog_jax.data.load import load_data; load_data(sys.argv[1], 32)"
    killed = start(code, folder, start_new_session=True)  # with the process that decodes for it
    while not unfinished_in(cache):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(unfinished_in(cache)) == 1
    both = [start(code, folder) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    (folder,) = [path for path in cache.iterdir() if path.suffix != ".lock"]
    loaded = load_data(folder, 32)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 500
    for image, name in zip(loaded.train.images, loaded.train.names, strict=True):
        assert (image == color(name)).all()


def test_a_disk_that_fills_up_ends_in_one_line(small_disk, start):
    # As if others had filled the disk after the check.
    code = """
import sys
from catdog_jax.data import decoded_folder
from catdog_jax.data.load import InputError, load_data

decoded_folder._check_space = lambda *arguments: None
try:
    load_data("sketches", 128, sizes=(300, 4, 0), cache_dir=sys.argv[1])
except InputError as error:
    print(error)
"""
    process = start(code, small_disk)
    output, errors = process.communicate()
    assert process.returncode == 0, (process.returncode, errors)  # SIGBUS, through a memory map
    (line,) = output.splitlines()
    assert f"{small_disk} cannot be written (No space left on device)" in line
    assert unfinished_in(small_disk / "data") == []


ANSWERING = """
import sys, time
from catdog_jax.errors import InputError
from catdog_jax.data import own_process

def decode():
    print("asked", file=sys.stderr, flush=True)
    {}

sys.modules["a_module"], own_process._GRACE = sys.modules["__main__"], 0.1
own_process._answer()
"""
ASKED = json.dumps(["a_module", "decode", {}, "photos"])


def test_the_process_that_decodes_does_not_outlive_its_parent(start):
    process = start(ANSWERING.format("time.sleep(600)"), ASKED)
    assert process.stderr.readline() == "asked\n"
    process.stdin.close()  # which the system does for a process that was killed
    assert process.wait(LIMIT / 2) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("MemoryError()", "photos could not be read (MemoryError: "),
        ("OSError(5, 'Input/output error')", "photos could not be read (OSError: "),
        ("InputError('10 of the 10 photos')", "10 of the 10 photos"),
    ],
)
def test_the_process_that_decodes_answers_with_its_error(start, error, said):
    process = start(ANSWERING.format(f"raise {error}"), ASKED)
    output, _ = process.communicate()
    (answer,) = json.loads(output).values()
    assert answer.startswith(said)
