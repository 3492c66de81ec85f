"""Photos in, batches out: sources are decoded once to uint8 splits on disk, then memory-mapped.

    source -> which photos it holds -> one cut by seed -> decoding -> arrays in the cache -> batches

Photos are decoded in a process of its own, so a prepared folder serves a machine that has no
TensorFlow, and so does a cache hit, but for cats_vs_dogs: what TFDS holds, only TFDS can say.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import operator
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from ..cache import cache_folder
from ..errors import InputError, first_line
from ..files import expanded
from . import decode, prepared, tfds
from .cut import cut
from .sources import Source, download_filtered, list_photos, open_tree, sketches_source, tree_source
from .splits import (
    LARGEST_IMAGE,
    MOST_PHOTOS,
    SMALLEST_IMAGE,
    Batch,
    Batches,
    Shared,
    Sizes,
    Skipped,
    Split,
    Splits,
    class_counts,
    majority_baseline,
)

__all__ = [
    "LARGEST_IMAGE",
    "MOST_PHOTOS",
    "SMALLEST_IMAGE",
    "SOURCES",
    "Batch",
    "Batches",
    "Shared",
    "Skipped",
    "Split",
    "Splits",
    "class_counts",
    "list_photos",
    "load_data",
    "majority_baseline",
]

SOURCES = ("cats_vs_dogs", "cats_and_dogs_filtered", "sketches")

# Part of every name of a folder that is being made.
_UNFINISHED = ".preparing-"
# Seconds that the process that decodes goes on for after the one that asked it has ended.
_GRACE = 5.0

_LOGGER = logging.getLogger(__name__)


def load_data(
    source: str | Path,
    image_size: int = 160,
    data_dir: str | Path | None = None,
    seed: int = 0,
    *,
    sizes: tuple[int, int, int] | None = None,
    cache_dir: str | Path | None = None,
    strict: bool = False,
) -> Splits:
    """Load a data set, cut by `seed` into training, validation and test photos.

    The first call decodes the photos into the cache, later ones open what is there; of two calls at
    once, one waits for the other. Photos that cannot be read are left out and listed in
    `Splits.skipped`, unless they are more than half.

    Photos that come as one pool are cut into 2000/808/192 (TFDS), 600/168/32 (sketches) or
    70/20/10 % (a folder per class). Where there are train/ and validation/, the former is the
    training set, and the test set is held back from the latter as in the blog (192 of 1000),
    unless there is a test/. Every split, and every beginning of one, holds the classes in the
    proportions of its pool.

    Args:
      source: `"cats_vs_dogs"` (TFDS), `"cats_and_dogs_filtered"` (downloads the blog's zip),
        `"sketches"` (drawn by a program), or a path to a folder or a zip with one folder per
        class, or with train/ and validation/ (and test/) of those; or to a folder prepared by
        an earlier call (its cache entry), whose split by its own seed is kept.
      image_size: side of the images in pixels, 32 to 4096; bilinear, aspect ratio not kept.
      data_dir: for `"cats_vs_dogs"` the TFDS folder, for `"cats_and_dogs_filtered"` the folder
        of the zip; both are downloaded into it where missing. Not used otherwise.
      seed: decides which photos go where, 0 or more.
      sizes: number of training, validation and test photos, instead of those above.
      cache_dir: where prepared data are kept; `$CATDOG_CACHE`, or the user's cache folder.
      strict: refuse the data if a single photo of them cannot be read.

    Returns:
      The splits, images uint8[N, image_size, image_size, 3] and labels int32[N] by sorted class
      name.

    Raises:
      InputError: an argument is out of range, the source does not exist, cannot be downloaded,
        is not laid out as said above or is damaged, or the cache cannot be written.

    """
    folder = None if data_dir is None else expanded(data_dir)
    asked = _Request(source, image_size, folder, seed, sizes, cache_folder(cache_dir))
    splits = _load(_checked(asked))
    if strict and splits.skipped:
        first = splits.skipped[0]
        raise InputError(
            f"{len(splits.skipped)} of the photos of {source} cannot be read, the first of them "
            f"{first.name!r} ({first.reason}): replace or remove them, or do not ask for strict"
        )
    return splits


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_data` that say what the data are, and where they are kept."""

    source: str | Path
    image_size: int
    data_dir: Path | None
    seed: int
    sizes: Sizes | None
    cache: Path


def _checked(request: _Request) -> _Request:
    """Return the request with Python's own numbers, which JSON takes, if they are in range."""
    image_size = _whole("image_size", request.image_size)
    if not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
        raise InputError(
            f"image_size must be from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, not {image_size}"
        )
    seed = _whole("seed", request.seed)
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")
    sizes = None if request.sizes is None else _checked_sizes(request.sizes)
    return dataclasses.replace(request, image_size=image_size, seed=seed, sizes=sizes)


def _checked_sizes(given: Sequence[int]) -> Sizes:
    sizes = tuple(_whole("sizes", size) for size in given)
    if len(sizes) != 3 or min(sizes[:2]) < 1 or sizes[2] < 0 or max(sizes) > MOST_PHOTOS:
        raise InputError(
            "sizes must be at least 1 training, 1 validation and 0 test photos, and at most "
            f"{MOST_PHOTOS} of each, not {sizes}"
        )
    return sizes


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be given in whole numbers, not {value!r}") from error


def _load(request: _Request) -> Splits:
    # A path is never a name: Path("sketches") is a folder.
    if request.source == "cats_vs_dogs":
        if not decode.tensorflow_is_imported():  # TFDS cannot even be asked without
            return _load_in_own_process(request)
        return _load_cached(tfds.source(request.data_dir), request)
    if request.source == "sketches":
        source = sketches_source(request.sizes, request.image_size, request.seed)
        return _load_cached(source, request)
    if request.source == "cats_and_dogs_filtered":
        path = download_filtered(request.data_dir or request.cache / "downloads")
    else:
        path = _existing_path(request.source)
    if prepared.is_prepared(path):
        return _load_prepared(path, request)
    with open_tree(path) as root:
        return _load_cached(tree_source(root), request)


def _existing_path(source: str | Path) -> Path:
    path = expanded(source)
    try:
        exists = path.exists()
    except OSError:  # no possible path: too long a name, say
        exists = False
    if not exists:
        raise InputError(
            f"{str(source)!r} is neither a known data set ({', '.join(SOURCES)}) "
            "nor an existing folder or zip: check the spelling"
        )
    return path


def _load_prepared(folder: Path, request: _Request) -> Splits:
    """Open a prepared folder that was given as the source, if it is what was asked for."""
    meta = prepared.read_meta(folder)
    if meta.image_size != request.image_size:
        raise InputError(
            f"{folder} was prepared with image_size {meta.image_size}, "
            f"not {request.image_size}: ask for that, or give the photos as the source"
        )
    if request.sizes is not None and meta.sizes != list(request.sizes):
        raise InputError(
            f"{folder} was split when it was prepared, with sizes {meta.sizes or 'by default'}, "
            f"not {list(request.sizes)}: leave sizes out, or give the photos as the source"
        )
    return prepared.open_splits(folder, meta)


# Decoding in another process.


def _load_in_own_process(request: _Request) -> Splits:
    """Call `load_data` in a process that ends with its work, and open what it has prepared.

    TensorFlow gives nothing back: after decoding, half a gigabyte stayed and a step of model 4 took
    98 ms instead of 86, to the end of the process. And a photo that crashes it ends only its own.
    """
    asked = dataclasses.asdict(request)
    if request.source not in SOURCES:  # there, Path("sketches") would have become a name
        asked["source"] = expanded(request.source).absolute()
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    with subprocess.Popen(
        [*command, json.dumps(asked, default=str)],
        stdin=subprocess.PIPE,  # which closes when this process ends, however it does
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode or not lines:
        killed = " (killed, perhaps for want of memory)" if process.returncode == -9 else ""
        raise InputError(
            f"the process that was to read {request.source} ended with {process.returncode}"
            f"{killed}: try again, or with fewer photos"
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise InputError(answer["error"])
    folder = Path(answer["folder"])
    return _open_cached(folder, request)


def _answer() -> None:
    """Be the other process: prepare what is asked for and print where it is, or what is wrong."""
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    asked = json.loads(sys.argv[1])
    sizes, cache_dir = asked.pop("sizes"), asked.pop("cache")
    # TensorFlow's C++ grumbles at every photo that it cannot read; Python shows the progress.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        with decode.native_stderr_hidden():
            decode.tensorflow()
            splits = load_data(**asked, sizes=sizes and tuple(sizes), cache_dir=cache_dir)
        answer = {"folder": str(splits.folder)}
    except InputError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        answer = {"error": f"{asked['source']} could not be read ({why}): try with fewer photos"}
    except KeyboardInterrupt:  # Ctrl-C goes to both processes; the other one will say so
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_the_asker() -> None:
    """Wait until nobody waits for the answer any more, then end this process."""
    while os.read(0, 1):  # not through sys.stdin, which could not be closed meanwhile
        pass
    time.sleep(_GRACE)  # after Ctrl-C, to clear away what was half done
    os._exit(1)


# The cache: <cache>/data/<key>/, a prepared folder.


def _load_cached(source: Source, request: _Request) -> Splits:
    """Open the prepared data in the cache, where they are put first if they are not there."""
    asked = [prepared.FORMAT, source.identity, request.image_size, request.seed, request.sizes]
    folder = request.cache / "data" / _hash_of(asked)
    try:
        while folder.is_dir() and _is_mended(folder, source):
            # Other photos want another fingerprint; and who uses the old ones keeps them.
            folder = folder.with_name(_hash_of([folder.name, "mended"]))
        if not folder.is_dir():
            # That process, not this one, takes the lock.
            if source.is_encoded and not decode.tensorflow_is_imported():
                return _load_in_own_process(request)
            with _alone(folder):
                if not folder.is_dir():  # else it was what we have waited for
                    _prepare(folder, source, request)
    except OSError as error:
        raise InputError(
            f"the cache folder {request.cache} cannot be written ({first_line(error)}): "
            "set cache_dir or CATDOG_CACHE to another"
        ) from error
    return _open_cached(folder, request)


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _is_mended(folder: Path, source: Source) -> bool:
    """Whether a photo can be read now that could not when `folder` was prepared.

    Such a photo may look the same from outside: its permissions have changed, or its bytes within
    a zip. What was read but could not be decoded looks different when it is.
    """
    skipped = prepared.read_meta(folder).skipped
    unreadable = {photo.name for photo in skipped if decode.is_unreadable(photo.reason)}
    if not unreadable:
        return False
    photos = source.photos()
    indices = [index for index, name in enumerate(photos.names) if name in unreadable]
    return photos.read is not None and any(True for _ in photos.read(indices, {}))


def _open_cached(folder: Path, request: _Request) -> Splits:
    # The same photos may have been prepared under another name.
    splits = prepared.open_splits(folder, prepared.read_meta(folder))
    return dataclasses.replace(splits, source=str(request.source))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only process that prepares `folder`, and clear away what dead ones left half done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        _LOGGER.warning("waiting for another process, which prepares the same data (%s)", folder)
        lock.acquire()
    try:
        for leftover in folder.parent.glob(f"{_UNFINISHED}*"):
            prepared = folder.with_name(leftover.name.split("-")[1])
            makers = lock if prepared == folder else _lock(prepared)
            # A living maker holds its lock: filelock.Timeout. Or it was another user's.
            with contextlib.suppress(OSError), makers.acquire(blocking=False):
                shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder.with_name(f".{folder.name}.lock"))


def _prepare(folder: Path, source: Source, request: _Request) -> None:
    """Decode the photos and write their arrays, all of them or nothing."""
    photos = source.photos()
    parts = cut(photos, request.sizes or source.sizes, request.seed, request.source)
    prepared.check_space(folder.parent, sum(map(len, parts.values())), request.image_size)
    prefix = f"{_UNFINISHED}{folder.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        prepared.write(
            unfinished,
            photos,
            parts,
            source=str(request.source),
            image_size=request.image_size,
            seed=request.seed,
            sizes=request.sizes,
        )
        unfinished.rename(folder)
