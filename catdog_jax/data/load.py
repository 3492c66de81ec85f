"""`load_data`: source → decoded photos in the cache → splits by seed."""

import logging
import operator
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import cache_folder, expanded
from . import decoded_folder
from .decoded_cache import SOURCES, Request, decoded_photos
from .listing import picture_kinds
from .splits import (
    LARGEST_IMAGE,
    SMALLEST_IMAGE,
    SPLIT_NAMES,
    ImageView,
    Indices,
    Shared,
    Sizes,
    Skipped,
    Split,
    Splits,
    UInt8Images,
    checked_sizes,
    class_counts,
)
from .splitting import split_indices

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
    """Load a data set, split by `seed` into training, validation and test photos.

    The first call decodes all photos into the cache; later calls with any seed and sizes only open
    them (another number of drawings is drawn anew). Photos that cannot be read are left out and
    listed in `Splits.skipped`; it is an error if they are more than half.

    A single pool of photos is split into 2000/808/192 (TFDS), 1000/200/100 (sketches) or about
    70/20/10 % (a folder per class; the split of a photo depends on its content and the seed, not on
    other photos). With train/ and validation/ but no test/, the test set is held back from
    validation/ as in the post (192 of 1000). With train/ and test/ only, a fifth of train/ becomes
    the validation set.

    Args:
        source: `"cats_vs_dogs"` (TFDS), `"cats_and_dogs_filtered"` (downloads the post's zip),
            `"sketches"` (drawn by a program), or a path to a folder or a zip with one folder
            per class, or with train/ and validation/ (and test/) of those; or to a folder of
            decoded photos (`Splits.folder`).
        image_size: side of the images in pixels, 32 to 4096; bilinear, aspect ratio not kept.
        data_dir: for `"cats_vs_dogs"` the TFDS folder, for `"cats_and_dogs_filtered"` the folder
            of the zip; missing files are downloaded into it. Not used otherwise.
        seed: decides which photos go into which split, 0 or more.
        sizes: number of training, validation and test photos, instead of the above.
        cache_dir: where to keep decoded photos; by default `$CATDOG_CACHE`, or the user's cache.
        strict: raise an error if a photo cannot be read, or if pictures of unsupported formats or
            behind broken links were passed over.

    Returns:
        The splits, images uint8[n, image_size, image_size, 3] and labels int32[n] by sorted class
        name.

    Raises:
        InputError: an argument is out of range; the source does not exist, cannot be downloaded,
            has another layout or is damaged; or the cache cannot be written.
    """
    size, seed = _whole("image_size", image_size), _whole("seed", seed)
    if not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
        raise InputError(f"image_size must be from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, not {size}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")
    sizes = None if sizes is None else checked_sizes(sizes)
    # A path is never a name: Path("sketches") is a folder.
    is_name = isinstance(source, str) and source in SOURCES
    request = Request(
        source=str(source if is_name else _existing(source)),
        image_size=size,
        data_dir=None if data_dir is None else str(expanded(data_dir)),
        sketch_count=sum(sizes) if sizes and is_name else None,
        cache=str(cache_folder(cache_dir)),
    )
    folder, passed_over = decoded_photos(request)
    splits = _make_splits(folder, source, seed, sizes, passed_over)
    if strict:
        _refuse_left_out(splits)
    if sizes is None:
        _warn_of_gaps(splits)
    return splits


def unused_photos(splits: Splits) -> Split:
    """The photos of a data set that are in none of its splits."""
    if splits.folder is None:  # arrays
        return splits.test.take(np.arange(0))
    meta, images = decoded_folder.read(splits.folder)
    used = {name for part in SPLIT_NAMES for name in getattr(splits, part).names}
    photos = zip(meta.names, meta.digests, strict=True)
    rest = np.array(
        [i for i, (name, there) in enumerate(photos) if there and name not in used], int
    )
    return _split(meta, images, rest)


def _existing(source: str | Path) -> Path:
    path = expanded(source).absolute()
    try:
        exists = path.exists()
    except OSError:  # not a possible path, for example too long
        exists = False
    if not exists:
        raise InputError(
            f"{str(source)!r} is neither a known data set ({', '.join(SOURCES)}) "
            "nor an existing folder or zip: check the spelling"
        )
    return path


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


def _warn_of_gaps(splits: Splits) -> None:
    for name in SPLIT_NAMES:
        split = getattr(splits, name)
        missing = [class_name for class_name, n in class_counts(split).items() if not n]
        if missing:
            what = (
                f"has no photos of {shorten(', '.join(missing), 60)}" if len(split) else "is empty"
            )
            _LOGGER.warning(
                "the %s split of %s %s: add photos, or give sizes", name, splits.source, what
            )


def _make_splits(
    folder: Path,
    source: str | Path,
    seed: int,
    sizes: Sizes | None,
    passed_over: Mapping[str, int],
) -> Splits:
    """The splits of the decoded photos in `folder`."""
    meta, images = decoded_folder.read(folder)
    there = np.array([bool(digest) for digest in meta.digests], bool)
    labels, pools = np.array(meta.labels, np.int32), {}
    for pool in dict.fromkeys(meta.pools):
        pools[pool] = np.flatnonzero(there & (np.array(meta.pools) == pool))
    default = None if meta.sizes is None else checked_sizes(meta.sizes)
    parts = split_indices(pools, labels, meta.digests, sizes or default, seed, source)
    return Splits(
        **{name: _split(meta, images, index) for name, index in parts.items()},
        class_names=tuple(meta.class_names),
        source=str(source),
        fingerprint=meta.fingerprint,
        folder=folder,
        skipped=tuple(Skipped(*photo) for photo in meta.skipped),
        shared=_shared(meta, parts),
        passed_over=passed_over or meta.passed_over,
    )


def _split(meta: decoded_folder.Meta, images: UInt8Images, index: Indices) -> Split:
    chosen: list[int] = index.tolist()
    return Split(
        images=ImageView(images, index),
        labels=np.array([meta.labels[i] for i in chosen], np.int32),
        class_names=tuple(meta.class_names),
        names=tuple(meta.names[i] for i in chosen),
    )


def _shared(meta: decoded_folder.Meta, parts: dict[str, Any]) -> tuple[Shared, ...]:
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
