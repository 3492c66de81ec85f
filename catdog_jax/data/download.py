"""A file from the web, downloaded once: under its name it is whole."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from ..errors import InputError, first_line
from ..files import alone

_TIMEOUT = 30  # seconds without a byte


def fetch(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """`path`, downloaded first where it is missing; of several processes, by one.

    It gets its name when all of it is there and `check` is content: no publisher gives a hash.

    Args:
        url: where the file comes from.
        path: where it is kept.
        check: raises an error, any, at a file that is not whole or of another kind.

    Raises:
        InputError: the file cannot be had, or is not what it should be.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path, "downloads the same file"):
                if not path.is_file():  # else the process that was waited for has fetched it
                    _download(url, path, check)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{url} could not be downloaded to {path.parent} ({_cause(error)}): download it by "
            "other means and give its path"
        ) from error
    return path


def _download(url: str, path: Path, check: Callable[[Path], object]) -> None:
    pooch.get_logger().setLevel(logging.WARNING)
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)

        def close_later(response: Any, **_: Any) -> None:  # pooch leaves connections open
            stack.callback(response.close)

        download: Any = pooch.HTTPDownloader(
            progressbar=sys.stderr is not None and sys.stderr.isatty(),
            timeout=_TIMEOUT,
            headers={"Accept-Encoding": "identity"},  # so that the announced size is the file's
            hooks={"response": close_later},
        )
        part = Path(pooch.retrieve(url, None, path.name, unfinished, downloader=download))
        if flaw := _flaw(part, check):
            raise OSError(f"what came {flaw}")
        part.replace(path)


def _flaw(path: Path, check: Callable[[Path], object]) -> str | None:
    """What is wrong with a file, as the rest of a sentence about it."""
    try:
        check(path)
    except Exception as error:  # readers have many ways to say that a file is not theirs
        with path.open("rb") as file:
            start = file.read(1024).lower()
        if b"<html" in start or b"<!doctype html" in start:
            return "holds HTML, not a whole file of its kind"
        return f"holds no whole file of its kind ({_cause(error)})"
    return None


def _cause(error: BaseException) -> str:
    """What began it, in one line: requests and urllib3 wrap errors up in each other."""
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error).partition(" for url")[0]
