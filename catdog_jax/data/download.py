"""A file from the web, fetched once: under its name it is whole, and the same ever after."""

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from ..errors import InputError, first_line
from ..files import alone, sha256, written_whole

_TIMEOUT = 30  # seconds without a byte


def fetch(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """`path`, downloaded first where it is missing; of several processes, by one.

    It gets its name when all of it is there and `check` is content. What is first found there,
    downloaded or put there by hand, is recorded in a `.json` beside it with its SHA-256, since no
    publisher gives any: if the file changes later, it is refused.

    Args:
        url: where the file comes from.
        path: where it is kept.
        check: raises an error, any, at a file that is not whole or of another kind.

    Raises:
        InputError: the file cannot be had, is not what it should be, or has changed.
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
    _compare_with_record(url, path, check)
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
        Path(f"{path}.json").unlink(missing_ok=True)  # it told of a file that was deleted since
        part.replace(path)


def _compare_with_record(url: str, path: Path, check: Callable[[Path], object]) -> None:
    record = Path(f"{path}.json")
    found: dict[str, object] = {}
    try:
        found = {"url": url, "size": path.stat().st_size, "sha256": sha256(path)}
        if not record.is_file():
            flaw = _flaw(path, check)
        elif json.loads(record.read_bytes()) != found:
            flaw = f"is not the file that {record.name} beside it tells of"
        else:
            return
    except (OSError, ValueError) as error:
        flaw = f"or {record.name} beside it cannot be read ({_cause(error)})"
    if flaw:
        raise InputError(f"{path} {flaw}: delete it (and {record.name}) to have it downloaded")
    with contextlib.suppress(OSError), written_whole(record) as file:  # a read-only folder
        file.write(json.dumps(found, indent=2) + "\n")


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
