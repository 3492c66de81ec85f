import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from catdog_jax.errors import InputError
from catdog_jax.files import (
    forget_pages,
    is_empty,
    is_file,
    lock_folder,
    uninterrupted,
    written_whole,
)


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("old")
    with written_whole(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    error: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "history.csv"
    path.write_text("old")

    def fail() -> None:
        with written_whole(path) as file:
            file.write("ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"),
        written_whole(tmp_path / "gone" / "file.csv"),
    ):
        pass


def test_two_processes_can_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    code = (
        "import sys; from pathlib import Path; from catdog_jax.files import written_whole\n"
        "with written_whole(Path(sys.argv[1]), 'wb') as file:\n"
        "    file.write(b'theirs'); print('writing', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with written_whole(path) as file:
            file.write("ours")
        assert path.read_text() == "ours"
        other.communicate("\n")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_locked_until_the_process_that_holds_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from catdog_jax.files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = r"run is in use by another run; wait for that one"
        with pytest.raises(InputError, match=message), lock_folder(folder):
            pass
        holder.send_signal(signal.SIGKILL)
    with lock_folder(folder):
        assert is_empty(folder)  # but for the lock


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        message = r"cannot be created \(.*\); choose another folder"
        with pytest.raises(InputError, match=message), lock_folder(folder):
            pass
    with pytest.raises(InputError, match=r"file cannot be listed \(Not a directory\)"):
        is_empty(tmp_path / "file")


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    # Mounted read-only: permissions do not bind root, as whom tests often run.
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with (
            pytest.raises(InputError, match=r"cannot be written to \(Read-only"),
            lock_folder(tmp_path),
        ):
            pass
        message = r"run cannot be created \(Read-only file system\); choose another folder"
        with pytest.raises(InputError, match=message), lock_folder(tmp_path / "run"):
            pass
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_impossible_path_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_file(tmp_path / "file")
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("x" * 5000)):
        assert not is_file(path)


def test_ctrl_c_waits_until_the_body_is_done() -> None:
    done = []

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.append(True)

    def write() -> None:
        with uninterrupted():
            press()

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done
    with pytest.raises(KeyboardInterrupt):  # at once, as before
        press()
    assert len(done) == 1


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_the_body_raises_is_raised() -> None:
    with pytest.raises(OSError, match="full"), uninterrupted():
        raise OSError("full")


def test_in_another_thread_the_body_just_runs() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_forgotten_pages_are_released_but_not_lost(tmp_path: Path) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))

    array = np.memmap(tmp_path / "array", np.uint8, "w+", shape=(64, 1 << 20))
    before = resident()
    array[:] = np.arange(64, dtype=np.uint8)[:, None]  # not flushed
    full = resident()
    forget_pages(array)
    forgotten = resident()
    assert full - before > 60 * 1024
    assert forgotten - before < 4 * 1024
    assert (array == np.arange(64)[:, None]).all()


def test_pages_that_no_file_holds_are_not_forgotten(tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((3, 10_000)))
    own = np.ones((3, 10_000))
    private = np.load(tmp_path / "zeros.npy", mmap_mode="c")
    private[:] = 1
    for array in (own, private):
        forget_pages(array)
        forget_pages(array[1:])
        assert (array == 1).all()
