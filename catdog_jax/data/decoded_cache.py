"""The cache of decoded photos: one folder for each source and size, decoded once."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import InputError, first_line
from ..files import cache_folder, is_file, wait_for_lock
from . import decoded_folder, own_process, tfds
from .listing import open_tree
from .sources import Source, download_filtered, filtered_zip, sketches_source, tree_source

SOURCES = ("cats_vs_dogs", "cats_and_dogs_filtered", "sketches")
DECODE_HERE = "CATDOG_DECODE_HERE"
"""Environment variable: if set, TFDS is read in the calling process."""


@dataclass(frozen=True)
class Request:
    """Which photos to decode, at which size, and where to keep them."""

    source: str
    """One of `SOURCES`, or an absolute path."""
    image_size: int
    data_dir: str | None
    sketch_count: int | None
    """How many sketches."""
    cache: str


def decoded_photos(request: Request, *, here: bool = False) -> tuple[Path, Mapping[str, int]]:
    """The folder of the photos, decoded first if need be; and what was passed over.

    `here`: read TFDS in this process.
    """
    data_dir = Path(request.data_dir) if request.data_dir else None
    if request.source == "cats_vs_dogs":
        here = here or bool(os.environ.get(DECODE_HERE))
        source = tfds.source(data_dir, download=here)
        if source and (here or _folder(source, request).is_dir()):
            return _cached(source, request), {}
        return _in_own_process(request), {}
    if request.source == "sketches":
        return _cached(sketches_source(request.sketch_count), request), {}
    if request.source == "cats_and_dogs_filtered":
        path = download_filtered(data_dir or _downloads(request.cache))
    else:
        path = Path(request.source)
    if decoded_folder.is_decoded(path):
        _check_size(path, request.image_size)
        return path, {}
    with open_tree(path) as root:
        source = tree_source(root)
        return _cached(source, request), source.passed_over


def is_here(source: str, data_dir: Path | None) -> bool:
    """Whether a source's photos are on this machine, so that nothing would be downloaded."""
    if source == "cats_vs_dogs":
        return tfds.source(data_dir, download=False) is not None
    if source == "cats_and_dogs_filtered":
        return is_file(filtered_zip(data_dir or _downloads(cache_folder())))
    return source == "sketches" or os.path.exists(source)  # noqa: PTH110 - Path.exists may raise


def _downloads(cache: str | Path) -> Path:
    return Path(cache, "downloads")


def _in_own_process(request: Request) -> Path:
    asked = dataclasses.asdict(request)
    return Path(own_process.call(__name__, "decode_in_this_process", asked, reads=request.source))


def decode_in_this_process(**request: Any) -> str:
    """`decoded_photos`, called in the process that reads TFDS."""
    return str(decoded_photos(Request(**request), here=True)[0])


def _check_size(folder: Path, image_size: int) -> None:
    there = decoded_folder.read(folder)[0].image_size
    if there != image_size:
        raise InputError(
            f"{folder} holds photos decoded at {there} pixels, not {image_size}: "
            "ask for that image_size, or give the photos as the source"
        )


def _folder(source: Source, request: Request) -> Path:
    identity = [decoded_folder.FORMAT, source.identity, request.image_size]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Path(request.cache, "data", digest[:16])


def _cached(source: Source, request: Request) -> Path:
    folder = _folder(source, request)
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(folder.parent)
        with wait_for_lock(folder, "decodes the same photos"):
            if not folder.is_dir():  # else another process has just decoded it
                _decode(folder, source, request)
    except OSError as error:
        raise InputError(
            f"the cache folder {request.cache} cannot be written ({first_line(error)}): "
            "set cache_dir or CATDOG_CACHE to another"
        ) from error
    return folder


def _clear_away(cache: Path) -> None:
    """Delete unfinished folders of killed processes: those whose lock is free."""
    for leftover in cache.glob(".*.unfinished"):
        lock = FileLock(leftover.with_suffix(".lock"))
        with contextlib.suppress(OSError), lock.acquire(blocking=False):
            shutil.rmtree(leftover, ignore_errors=True)


def _decode(folder: Path, source: Source, request: Request) -> None:
    """Write all the decoded photos, or nothing."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process killed while we waited
    unfinished.mkdir()
    try:
        decoded_folder.write(
            unfinished,
            source.photos(),
            source=request.source,
            image_size=request.image_size,
            sizes=source.sizes,
        )
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
