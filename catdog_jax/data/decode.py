"""Many encoded photos → uint8 pixels of one size, on all cores."""

import hashlib
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from ..cores import usable_cores
from ..errors import first_line
from ..files import FORGET_EVERY, forget_pages
from .photo import READ_ERRORS, decode_bytes, read_bytes

_AHEAD = 32  # photos that are read before they are decoded
_MAX_THREADS = 16  # each may hold the largest photo, 0.7 GB


class Filled(NamedTuple):
    """The outcome of decoding, by row in the array of images."""

    failed: dict[int, str]
    """Rows that could not be decoded, and why."""
    digests: list[bytes]
    """SHA-256 of each encoded photo; empty if it failed."""


Reader: TypeAlias = Callable[[Collection[int], dict[int, str]], Iterator[tuple[int, bytes]]]
"""Yields (index, encoded photo) for the given indices in any order; why photos cannot be read goes
into the given dict."""


def decode_all(
    read: Reader, wanted: Int64[np.ndarray, " n"], images: UInt8[np.ndarray, "n height width 3"]
) -> Filled:
    """Decode the photos that `read` yields, `wanted[row]` into `images[row]`."""
    row_of = {index: row for row, index in enumerate(wanted.tolist())}
    unread: dict[int, str] = {}
    filled = Filled({}, [b""] * len(wanted))

    def decode(row: int, encoded: bytes) -> None:
        try:
            images[row] = decode_bytes(encoded, images.shape[1])
        except ValueError as error:
            filled.failed[row] = first_line(error)
        else:
            filled.digests[row] = hashlib.sha256(encoded).digest()

    # disable=None: progress only on a terminal.
    progress = tqdm(total=len(row_of), desc="decoding", unit="photo", disable=None)
    # `photo` silences Pillow for each photo, which threads undo for each other.
    quiet = warnings.catch_warnings(action="ignore")
    threads = min(usable_cores(), _MAX_THREADS)
    with quiet, progress, ThreadPoolExecutor(threads) as pool:
        at_work: deque[Future[None]] = deque()

        def finish_one() -> None:
            at_work.popleft().result()
            progress.update()
            if progress.n % FORGET_EVERY == 0:
                forget_pages(images)

        for index, encoded in read(row_of.keys(), unread):
            at_work.append(pool.submit(decode, row_of[index], encoded))
            if len(at_work) == _AHEAD:
                finish_one()
        while at_work:
            finish_one()
    filled.failed.update({row_of[index]: flaw for index, flaw in unread.items()})
    return filled


def read_files(
    files: list[Path | zipfile.Path], wanted: Collection[int], failed: dict[int, str]
) -> Iterator[tuple[int, bytes]]:
    """A `Reader` of files in a folder or a zip."""
    for index in sorted(wanted):  # sorted by name, roughly the order on disk
        try:
            encoded = read_bytes(files[index])
        except READ_ERRORS as error:
            failed[index] = f"cannot be read: {first_line(error)}"
        else:
            yield index, encoded
