"""Files: written whole or not at all, and by one run at a time, so that nothing saved is lost."""

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
"""Photos written through a map after which `forget_pages` is worth its call."""


def expanded(path: str | Path) -> Path:
    """Return `path` with the user's folder for its `~`, where there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a file whose name begins with ~
        return Path(path)


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where decoded photos, weights and compiled programs are kept.

    `chosen`, or `$CATDOG_CACHE`, or the user's cache folder.
    """
    return expanded(chosen or os.environ.get("CATDOG_CACHE") or pooch.os_cache("catdog_jax"))


def is_file(path: Path) -> bool:
    """Return whether a file is there; no, where that cannot be told (a name that is too long)."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises then


def make_folder(folder: Path) -> None:
    """Make `folder` if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made a folder ({first_line(error)}); choose another"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def forget_pages(array: np.ndarray) -> None:
    """Let go of the memory behind a memory-mapped array, what was written to it included.

    Pages of a map count as this process's memory until it ends. Once forgotten they stay in the
    system's file cache, so reading them again is fast: 3,000 photos took 35 ms instead of 25 when
    pages were forgotten after each batch of 32. Other arrays, and private maps, are left alone.
    """
    shared = isinstance(array, np.memmap) and array.mode != "c"
    if shared and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


@contextmanager
def written_whole(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A file to write, UTF-8 text or binary, which replaces `path` once it is complete.

    If the body raises or the process is killed, what was there stays. Of two processes that write
    at once the last one wins.
    """
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
def alone(path: Path, work: str) -> Iterator[None]:
    """Be the only process that makes `path`; where another does, say so and wait for it."""
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
    """Whether `folder` is absent, or holds nothing but hidden files, such as those of this module.

    Raises:
        InputError: it is no folder, or cannot be listed.
    """
    try:
        return all(path.name.startswith(".") for path in folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); choose another") from error


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it against other processes; a killed one lets go of it, too.

    Raises:
        InputError: another process holds it, or it cannot be written to.
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
    """Let Ctrl-C wait until the body is done, then raise KeyboardInterrupt."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # signals reach no other
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
