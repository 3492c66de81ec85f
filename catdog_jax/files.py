"""Files and folders: atomic writes, locks, hashes, so that nothing saved is lost."""

import hashlib
import logging
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pooch
from filelock import FileLock, Timeout

from .errors import InputError, first_line

_LOGGER = logging.getLogger(__name__)

FORGET_EVERY = 100
"""Call `forget_pages` after so many photos written to a memory map."""


def expanded(path: str | Path) -> Path:
    """`path` with `~` expanded to the user's home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user: a file whose name begins with ~
        return Path(path)


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where decoded photos, weights and compiled programs are kept.

    `chosen`, or `$CATDOG_CACHE`, or the user's cache folder.
    """
    return expanded(chosen or os.environ.get("CATDOG_CACHE") or pooch.os_cache("catdog_jax"))


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False, too, where asking fails (a name that is too long)."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises then


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be created ({first_line(error)}); choose another folder"
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def forget_pages(array: np.ndarray) -> None:
    """Release the memory pages of a memory-mapped array, written ones included.

    Mapped pages count as this process's memory until it ends. Released pages stay in the system's
    file cache, so reading them again is fast: releasing them after each batch of 32, a pass over
    3,000 photos took 35 ms instead of 25. Other arrays, and private maps, are left alone.
    """
    shared = isinstance(array, np.memmap) and array.mode != "c"
    if shared and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


@contextmanager
def written_whole(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a temporary file (UTF-8 text or binary) that replaces `path` once it is complete.

    If the body raises or the process is killed, the old file stays. If two processes write at once,
    the last one wins.

    Raises:
        InputError: `path` is a folder.
        FileNotFoundError: it is in a folder that does not exist.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        with unfinished.open(mode, encoding=encoding, newline=newline) as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def wait_for_lock(path: Path, work: str) -> Iterator[None]:
    """Hold the lock of `path`; if another process has it, say so and wait."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOGGER.warning("waiting for another process, which %s (%s)", work, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_empty(folder: Path) -> bool:
    """Whether `folder` is absent or holds only hidden files, such as this module's locks.

    Raises:
        InputError: it is not a folder, or cannot be listed.
    """
    try:
        return all(path.name.startswith(".") for path in folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); choose another") from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it; a killed process's lock is released.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written to.
    """
    lock = FileLock(folder / ".lock")
    make_folder(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by another run; wait for that one, or choose another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the body is done, then raise KeyboardInterrupt."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # others get no signals
    if not in_main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
