"""Files from the web, downloaded once; a file with its final name is complete."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from ..errors import InputError, first_line
from ..files import wait_for_lock

_TIMEOUT = 30  # seconds without a byte


def fetch(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """`path`, downloaded first if it is missing; if several processes want it, one downloads.

    The file gets its name once it is complete and passes `check`: no publisher gives a hash.

    Args:
        url: of the file.
        path: where to keep it.
        check: raises any error for a file that is incomplete or of another kind.

    Raises:
        InputError: the file cannot be downloaded, or is not what it should be.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with wait_for_lock(path, "downloads the same file"):
                if not path.is_file():  # else another process has just downloaded it
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
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)

        def close_later(response: Any, **_: Any) -> None:  # pooch leaves connections open
            stack.callback(response.close)

        download: Any = pooch.HTTPDownloader(
            progressbar=sys.stderr is not None and sys.stderr.isatty(),
            timeout=_TIMEOUT,
            headers={
                "Accept-Encoding": "identity"
            },  # so that the announced size is that of the file
            hooks={"response": close_later},
        )
        part = Path(pooch.retrieve(url, None, path.name, unfinished, downloader=download))
        if flaw := _flaw(part, check):
            raise OSError(f"what came {flaw}")
        part.replace(path)


def _flaw(path: Path, check: Callable[[Path], object]) -> str | None:
    """What is wrong with a file, as the end of a sentence, or None."""
    try:
        check(path)
    except Exception as error:  # readers raise all kinds of errors
        with path.open("rb") as file:
            start = file.read(1024).lower()
        if b"<html" in start or b"<!doctype html" in start:
            return "holds HTML, not a whole file of its kind"
        return f"holds no whole file of its kind ({_cause(error)})"
    return None


def _cause(error: BaseException) -> str:
    """The first error of a chain, in one line: requests and urllib3 wrap errors repeatedly."""
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error).partition(" for url")[0]
