"""Prepared folders: meta.json, two arrays for each split, and SHA256SUMS of them all.

`sha256sum --check` reads the last, too.
"""

import dataclasses
import hashlib
import json
import operator
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import InputError
from ..files import FORGET_EVERY, forget_pages, sha256
from .sources import Photos
from .splits import SPLIT_NAMES, Indices, Shared, Sizes, Skipped, Split, Splits

# Part of every cache key: raise it when the same source would now give other arrays or files.
FORMAT = 3
_META, _SUMS = "meta.json", "SHA256SUMS"
_ARRAYS = tuple(f"{split}_{kind}.npy" for split in SPLIT_NAMES for kind in ("images", "labels"))
_DAMAGED = (
    "is missing or damaged: if the folder holds nothing but prepared data (meta.json, *.npy), "
    "delete the folder, and prepare the data again"
)


@dataclass(frozen=True)
class Meta:
    """What meta.json says, but for what only people read."""

    source: str
    image_size: int
    sizes: list[int] | None
    fingerprint: str
    class_names: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    skipped: tuple[Skipped, ...]
    shared: tuple[Shared, ...]


def is_prepared(path: Path) -> bool:
    """Whether `path` is a prepared folder, be it a damaged one."""
    try:
        return (path / _META).is_file() and any(path.glob("*_images.npy"))
    except OSError:  # a folder closed to this user, which listing it will report
        return False


def check_space(folder: Path, count: int, image_size: int) -> None:
    """Say how much room is needed before any is taken: taking it all would stop others, too."""
    needed = 2 * count * image_size**2 * 3  # decoded, then sorted into splits
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"preparing {count} photos takes {needed / 1e6:.0f} MB, but {folder} has "
            f"{free / 1e6:.0f} MB left: make room, or set cache_dir or CATDOG_CACHE to another"
        )


def write(
    folder: Path,
    photos: Photos,
    cut: Mapping[str, Indices],
    *,
    source: str,
    image_size: int,
    seed: int,
    sizes: Sizes | None,
) -> None:
    """Decode the photos of each split and write their arrays into `folder`.

    Its parent is for what is no longer needed then.

    Args:
      folder: empty; its name becomes the fingerprint.
      photos: of the source.
      cut: which of them go into which split, in what order.
      source: what was asked for, as are the following; kept to be compared and read.
      image_size: side of the images in pixels.
      seed: of the cut.
      sizes: of the splits, None where none were asked for.

    Raises:
      InputError: too few of the photos can be read.

    """
    chosen = np.concatenate(list(cut.values()))
    shape = (image_size, image_size, 3)
    decoded = _new_images(folder.parent / "decoded.npy", (len(chosen), *shape))
    failed = photos.fill(chosen, decoded)
    _check_not_most_failed(photos, chosen, failed, source)
    is_kept = ~np.isin(chosen, list(failed))
    names: dict[str, list[str]] = {}
    digests: dict[str, list[bytes]] = {}
    start = 0
    for split, indices in cut.items():
        rows = start + np.flatnonzero(is_kept[start : start + len(indices)])
        start += len(indices)
        kept = chosen[rows]
        _check_no_class_lost(split, photos, indices, kept, failed)
        images = _new_images(folder / f"{split}_images.npy", (len(rows), *shape))
        digests[split] = []
        for place, row in enumerate(rows):
            images[place] = decoded[row]
            digests[split].append(hashlib.sha256(images[place]).digest())
            if place % FORGET_EVERY == 0:
                forget_pages(decoded)
                forget_pages(images)
        images.flush()
        np.save(folder / f"{split}_labels.npy", photos.labels[kept])
        names[split] = [photos.names[index] for index in kept]
    meta = {
        "format": FORMAT,
        "source": source,
        "image_size": image_size,
        "seed": seed,
        "sizes": sizes,
        "fingerprint": folder.name,
        "class_names": photos.class_names,
        "skipped": [[photos.names[index], failed[index]] for index in sorted(failed)],
        "shared": [dataclasses.astuple(shared) for shared in _find_shared(names, digests)],
        "names": names,
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / _SUMS).write_text(sums, encoding="utf-8")
    for path in folder.iterdir():
        with path.open("r+b") as file:  # or a power failure could leave a whole folder of zeros
            os.fsync(file.fileno())


def _new_images(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Make an array of images to write to, its room on the disk taken.

    A disk that were full only later would kill who writes through a memory map, without a word.
    """
    images = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return images


def _find_shared(
    names: Mapping[str, list[str]], digests: Mapping[str, list[bytes]]
) -> Iterator[Shared]:
    seen: dict[bytes, tuple[str, str]] = {}
    for split in SPLIT_NAMES:
        for name, digest in zip(names[split], digests[split], strict=True):
            other_split, other_name = seen.setdefault(digest, (split, name))
            if other_split != split:
                yield Shared(split, name, other_split, other_name)


def _check_not_most_failed(
    photos: Photos, chosen: Indices, failed: Mapping[int, str], source: str
) -> None:
    if 2 * len(failed) > len(chosen):
        first = min(failed)
        raise InputError(
            f"{len(failed)} of the {len(chosen)} photos of {source} cannot be read, the "
            f"first of them {photos.names[first]!r} ({failed[first]}): replace them, or see "
            "whether this is the source you meant"
        )


def _check_no_class_lost(
    split: str, photos: Photos, indices: Indices, kept: Indices, failed: Mapping[int, str]
) -> None:
    lost = np.setdiff1d(photos.labels[indices], photos.labels[kept])
    if len(lost):
        members = indices[photos.labels[indices] == lost[0]]
        raise InputError(
            f"none of the {len(members)} photos of class {photos.class_names[lost[0]]!r} for "
            f"the {split} split could be read (the first, {photos.names[members[0]]}: "
            f"{failed[members[0]]}): replace them"
        )


def read_meta(folder: Path) -> Meta:
    """Read what a prepared folder holds.

    Raises:
      InputError: it cannot be read, or is of another format.

    """
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        version = meta["format"]
        if version == FORMAT:
            return Meta(
                source=str(meta["source"]),
                image_size=operator.index(meta["image_size"]),
                sizes=meta["sizes"],
                fingerprint=str(meta["fingerprint"]),
                class_names=_texts(meta["class_names"]),
                names={name: _texts(meta["names"][name]) for name in SPLIT_NAMES},
                skipped=tuple(Skipped(*_texts(entry)) for entry in meta["skipped"]),
                shared=tuple(Shared(*_texts(entry)) for entry in meta["shared"]),
            )
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{folder}: {_META} {_DAMAGED}") from error
    raise InputError(
        f"{folder} was prepared in format {version}, this version of catdog_jax reads "
        f"format {FORMAT}: prepare the data again"
    )


def open_splits(folder: Path, meta: Meta) -> Splits:
    """Open the arrays of a prepared folder, if they are as they were written.

    Raises:
      InputError: they are not.

    """
    _check_sums(folder)
    parts = {name: _open_split(folder, name, meta) for name in SPLIT_NAMES}
    return Splits(
        **parts,
        class_names=meta.class_names,
        source=meta.source,
        fingerprint=meta.fingerprint,
        folder=folder,
        skipped=meta.skipped,
        shared=meta.shared,
    )


def _check_sums(folder: Path) -> None:
    """Refuse a folder of which anything is not as it was written."""
    name = _SUMS
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
        for name in (_META, *_ARRAYS):
            if sha256(folder / name) != sums[name]:
                raise ValueError(name)  # noqa: TRY301
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{folder}: {name} {_DAMAGED}") from error


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(text) is str for text in value):
        raise TypeError("not a list of texts")
    return tuple(value)


def _open_split(folder: Path, name: str, meta: Meta) -> Split:
    images = open_memmap(folder / f"{name}_images.npy", "r")
    labels = open_memmap(folder / f"{name}_labels.npy", "r")
    return Split(images, labels, meta.class_names, meta.names[name])
