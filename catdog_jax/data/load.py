"""`load_data`: a source's photos, decoded once into the cache, cut into splits.

    source → decoded photos in the cache → cut by seed → splits

Photos are decoded in a process of its own: TensorFlow in the process that trains costs half a
gigabyte and slows a step of model 4 from 86 to 98 ms. A photo that crashes it ends only its own.
"""

import dataclasses
import hashlib
import json
import operator
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import cache_folder
from ..errors import InputError, first_line
from ..files import alone, expanded
from . import decode, decoded, tfds
from .cut import cut
from .listing import picture_kinds
from .sources import (
    Source,
    download_filtered,
    open_tree,
    sketches_source,
    tree_source,
)
from .splits import (
    LARGEST_IMAGE,
    SMALLEST_IMAGE,
    SPLIT_NAMES,
    ImageView,
    Shared,
    Sizes,
    Skipped,
    Split,
    Splits,
    checked_sizes,
)

SOURCES = ("cats_vs_dogs", "cats_and_dogs_filtered", "sketches")

DECODE_HERE = "CATDOG_DECODE_HERE"
"""Where this environment variable is set, photos are decoded in the process that asks for them."""
_GRACE = 5.0
"""Grace period (s) for the decoder after its parent exits."""


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

    The first call decodes all photos into the cache, later ones open what is there, whatever their
    seed and sizes; of two calls at once, one waits for the other. Photos that cannot be read are
    left out and listed in `Splits.skipped`, unless they are more than half.

    Photos that come as one pool are cut into 2000/808/192 (TFDS), 600/168/32 (sketches) or about
    70/20/10 % (a folder a class; a photo's split depends on the photo alone). Where there are
    train/ and validation/, the former is the training set, and the test set is held back from the
    latter as in the post (192 of 1000), unless there is a test/.

    Args:
        source: `"cats_vs_dogs"` (TFDS), `"cats_and_dogs_filtered"` (downloads the post's zip),
            `"sketches"` (drawn by a program), or a path to a folder or a zip with one folder a
            class, or with train/ and validation/ (and test/) of those; or to a folder of decoded
            photos (`Splits.folder`).
        image_size: side of the images in pixels, 32 to 4096; bilinear, aspect ratio not kept.
        data_dir: for `"cats_vs_dogs"` the TFDS folder, for `"cats_and_dogs_filtered"` the folder
            of the zip; both are downloaded into it where missing. Not used otherwise.
        seed: decides which photos go where, 0 or more.
        sizes: number of training, validation and test photos, instead of those above.
        cache_dir: where decoded photos are kept; `$CATDOG_CACHE`, or the user's cache folder.
        strict: refuse the data if a photo cannot be read, or if pictures of another kind or behind
            a link were passed over.

    Returns:
        The splits, images uint8[n, image_size, image_size, 3] and labels int32[n] by sorted class
        name.

    Raises:
        InputError: an argument is out of range, the source does not exist, cannot be downloaded,
            is not laid out as said above or is damaged, or the cache cannot be written.
    """
    size, seed = _whole("image_size", image_size), _whole("seed", seed)
    if not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
        raise InputError(f"image_size must be from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, not {size}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")
    sizes = None if sizes is None else checked_sizes(sizes)
    # A path is never a name: Path("sketches") is a folder.
    named = source if isinstance(source, str) and source in SOURCES else expanded(source).absolute()
    folder = None if data_dir is None else expanded(data_dir)
    cache = cache_folder(cache_dir)
    # The drawings are as many as are asked for.
    drawn = sum(sizes) if sizes and named == "sketches" else None
    found, passed_over = _find(_Request(named, size, folder, drawn, cache))
    splits = _cut(found, source, seed, sizes, passed_over)
    if strict:
        _refuse_left_out(splits)
    return splits


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be a whole number, not {value!r}") from error


def _refuse_left_out(splits: Splits) -> None:
    kinds = picture_kinds(splits.passed_over)
    if splits.skipped:
        first = splits.skipped[0]
        left_out = f"{len(splits.skipped)} of the photos of {splits.source} cannot be read, "
        left_out += f"the first of them {first.name!r} ({first.reason})"
    elif kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        left_out = f"{counted} in {splits.source} were passed over"
    else:
        return
    raise InputError(f"{left_out}: replace or remove them, or do not ask for strict")


@dataclass(frozen=True)
class _Request:
    """What says which photos are to be decoded, at which size, and where they are kept."""

    source: str | Path
    image_size: int
    data_dir: Path | None
    drawn: int | None
    cache: Path


def _find(request: _Request, *, here: bool = False) -> tuple[Path, Mapping[str, int]]:
    """The folder of the decoded photos, which are put there first if they are not there yet.

    Also gives what was passed over. `here`: decode in this process.
    """
    here = here or bool(os.environ.get(DECODE_HERE))
    if request.source == "cats_vs_dogs":
        source = tfds.source(request.data_dir, download=here)
        return (_cached(source, request, here=here) if source else _in_own_process(request)), {}
    if request.source == "sketches":
        return _cached(sketches_source(request.drawn), request, here=True), {}
    if request.source == "cats_and_dogs_filtered":
        path = download_filtered(request.data_dir or request.cache / "downloads")
    else:
        path = _existing(Path(request.source))
    if decoded.is_decoded(path):
        _check_size(path, request.image_size)
        return path, {}
    with open_tree(path) as root:
        source = tree_source(root)
        return _cached(source, request, here=here), source.passed_over


def _check_size(folder: Path, image_size: int) -> None:
    there = decoded.read(folder)[0].image_size
    if there != image_size:
        raise InputError(
            f"{folder} holds photos decoded at {there} pixels, not {image_size}: "
            "ask for that image_size, or give the photos as the source"
        )


def _existing(path: Path) -> Path:
    try:
        exists = path.exists()
    except OSError:  # no possible path: too long a name, say
        exists = False
    if not exists:
        raise InputError(
            f"{str(path)!r} is neither a known data set ({', '.join(SOURCES)}) "
            "nor an existing folder or zip: check the spelling"
        )
    return path


def _cached(source: Source, request: _Request, *, here: bool) -> Path:
    identity = [decoded.FORMAT, source.identity, request.image_size]
    folder = request.cache / "data" / _hash_of(identity)
    try:
        while folder.is_dir() and _is_mended(folder, source):
            folder = folder.with_name(_hash_of([folder.name, "mended"]))
        if folder.is_dir():
            return folder
        if not here:
            return _in_own_process(request)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder, "decodes the same photos"):
            if not folder.is_dir():  # else it was what we have waited for
                _decode(folder, source, request)
    except OSError as error:
        raise InputError(
            f"the cache folder {request.cache} cannot be written ({first_line(error)}): "
            "set cache_dir or CATDOG_CACHE to another"
        ) from error
    return folder


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _is_mended(folder: Path, source: Source) -> bool:
    """Whether a file can be read now that could not be when `folder` was made.

    It may look the same from outside: its permissions have changed, or its bytes within a zip.
    """
    meta, _ = decoded.read(folder)
    unread = {name for name, _, unread in meta.skipped if unread}
    if not unread:
        return False
    photos = source.photos()
    indices = [index for index, name in enumerate(photos.names) if name in unread]
    return photos.read is not None and any(True for _ in photos.read(indices, {}))


def _decode(folder: Path, source: Source, request: _Request) -> None:
    """Write the decoded photos, all of them or nothing."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        decoded.write(
            unfinished,
            source.photos(),
            source=str(request.source),
            image_size=request.image_size,
            sizes=source.sizes,
        )
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _cut(
    folder: Path,
    source: str | Path,
    seed: int,
    sizes: Sizes | None,
    passed_over: Mapping[str, int],
) -> Splits:
    """The splits of decoded photos."""
    meta, images = decoded.read(folder)
    there = np.array([bool(digest) for digest in meta.digests], bool)
    names, labels, pools = np.array(meta.names), np.array(meta.labels, np.int32), {}
    for pool in dict.fromkeys(meta.pools):
        pools[pool] = np.flatnonzero(there & (np.array(meta.pools) == pool))
    default = None if meta.sizes is None else checked_sizes(meta.sizes)
    parts = cut(pools, labels, meta.digests, sizes or default, seed, source)
    class_names = tuple(meta.class_names)
    splits = {
        name: Split(
            ImageView(images, index), labels[index], class_names, tuple(names[index].tolist())
        )
        for name, index in parts.items()
    }
    return Splits(
        **splits,
        class_names=class_names,
        source=str(source),
        fingerprint=meta.fingerprint,
        folder=folder,
        skipped=tuple(Skipped(name, reason) for name, reason, _ in meta.skipped),
        shared=_shared(meta, parts),
        passed_over=passed_over or meta.passed_over,
    )


def _shared(meta: decoded.Meta, parts: dict[str, Any]) -> tuple[Shared, ...]:
    split_of = {index: name for name in SPLIT_NAMES for index in parts[name].tolist()}
    shared = []
    for copies in meta.copies:
        used = [index for index in copies if index in split_of]
        used.sort(key=lambda index: SPLIT_NAMES.index(split_of[index]))
        for index in used[1:]:
            if split_of[index] != split_of[used[0]]:
                here, first = (split_of[index], meta.names[index]), used[0]
                shared.append(Shared(*here, split_of[first], meta.names[first]))
    return tuple(shared)


# Decoding in another process.


def _in_own_process(request: _Request) -> Path:
    """`_find` in a process that ends with its work."""
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    plain = {**dataclasses.asdict(request), "is_name": isinstance(request.source, str)}
    with subprocess.Popen(
        [*command, json.dumps(plain, default=str)],
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
    return Path(answer["folder"])


def _answer() -> None:
    """Be the other process: decode what is asked for and print where it is, or what is wrong."""
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    asked = json.loads(sys.argv[1])
    if not asked.pop("is_name"):
        asked["source"] = Path(asked["source"])
    asked["data_dir"] = asked["data_dir"] and Path(asked["data_dir"])
    request = _Request(**{**asked, "cache": Path(asked["cache"])})
    # TensorFlow's C++ grumbles at every photo that it cannot read; Python shows the progress.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        with decode.native_stderr_hidden():
            answer = {"folder": str(_find(request, here=True)[0])}
    except InputError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        answer = {"error": f"{request.source} could not be read ({why}): try with fewer photos"}
    except KeyboardInterrupt:  # Ctrl-C goes to both processes; the other one will say so
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_the_asker() -> None:
    """Wait until nobody waits for the answer any more, then end this process."""
    while os.read(0, 1):  # not through sys.stdin, which could not be closed meanwhile
        pass
    time.sleep(_GRACE)  # after Ctrl-C, to clear away what was half done
    os._exit(1)
