"""A file from the web, fetched once: under its name it is whole, and the same ever after."""

import base64
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from ..errors import InputError, first_line
from ..files import written_whole

_LOGGER = logging.getLogger(__name__)
_PATIENCE = 30  # seconds without a byte


def fetch(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """Return `path`, downloaded first where it is missing; of several processes, by one.

    It gets its name when all of it is there and `check` is content, so what breaks off leaves
    nothing under that name, nor does what is not of the MD5 that Google's storage announces. What
    is first found there, downloaded or put there by hand, is recorded in a `.json` beside it with
    its SHA-256, since no publisher gives any: if the file changes later, it is refused.

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
            with _alone(path):
                if not path.is_file():  # else the process that was waited for has fetched it
                    _download(url, path, check)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{url} could not be downloaded to {path.parent} ({_reason(error)}): download it by "
            "other means and give its path"
        ) from error
    _compare_with_record(url, path, check)
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only process that downloads `path`, and say so where that takes waiting."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOGGER.warning("waiting for another process, which downloads the same file (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(url: str, path: Path, check: Callable[[Path], object]) -> None:
    import requests  # here, since it takes a while and is seldom needed

    part = Path(f"{path}.part")
    as_it_is = {"Accept-Encoding": "identity"}  # so that the announced size is the file's
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with (
            requests.get(url, headers=as_it_is, stream=True, timeout=_PATIENCE) as response,
            part.open("wb") as file,
        ):
            response.raise_for_status()
            announced = int(response.headers.get("Content-Length", 0))
            # disable=None: no progress unless on a terminal.
            with tqdm(
                desc=path.name, total=announced, unit="B", unit_scale=True, disable=None
            ) as progress:
                for piece in response.iter_content(2**16):
                    md5.update(piece)
                    progress.update(file.write(piece))
            announced_md5 = re.search("md5=([^, ]*)", response.headers.get("x-goog-hash", ""))
        size = part.stat().st_size
        if announced and size != announced:
            raise OSError(f"{size} bytes came, {announced} were announced")
        if announced_md5 and announced_md5[1] != base64.b64encode(md5.digest()).decode():
            raise OSError("what came is not of the MD5 that was announced")
        if flaw := _flaw(part, check):
            raise OSError(f"what came {flaw}")
        Path(f"{path}.json").unlink(missing_ok=True)  # it told of a file that was deleted since
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _compare_with_record(url: str, path: Path, check: Callable[[Path], object]) -> None:
    record = Path(f"{path}.json")
    found: dict[str, object] = {}
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = {"url": url, "size": path.stat().st_size, "sha256": digest}
        if not record.is_file():
            flaw = _flaw(path, check)
        elif json.loads(record.read_bytes()) != found:
            flaw = f"is not the file that {record.name} beside it tells of"
        else:
            return
    except (OSError, ValueError) as error:
        flaw = f"or {record.name} beside it cannot be read ({_reason(error)})"
    if flaw:
        raise InputError(f"{path} {flaw}: delete it (and {record.name}) to have it downloaded")
    # Where the folder cannot be written, nothing is recorded and the file taken as it is.
    with contextlib.suppress(OSError), FileLock(f"{path}.lock"), written_whole(record) as file:
        file.write(json.dumps(found, indent=1) + "\n")


def _flaw(path: Path, check: Callable[[Path], object]) -> str | None:
    """What is wrong with a file, as the rest of a sentence about it."""
    try:
        check(path)
    except Exception as error:  # readers have many ways to say that a file is not theirs
        with path.open("rb") as file:
            start = file.read(1024).lower()
        if b"<html" in start or b"<!doctype html" in start:
            return "holds HTML, not a whole file of its kind"
        return f"holds no whole file of its kind ({_reason(error)})"
    return None


def _reason(error: BaseException) -> str:
    """What began it, in one line: requests and urllib3 wrap errors up in each other."""
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error).partition(" for url")[0]
