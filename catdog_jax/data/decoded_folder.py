"""The files of a decoded source: `images.npy`, and `meta.json` with everything known about them.

Such a folder is itself a source and can be copied to a machine without TensorFlow.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import InputError
from . import copies
from .decode import Filled
from .sources import Photos
from .splits import Sizes, UInt8Images

FORMAT = 6
"""Increase it when the same source would now give other pixels or files."""
_META, _IMAGES = "meta.json", "images.npy"
_START = b'{"format": '
_DAMAGED = (
    "is missing or damaged: if the folder holds nothing but decoded photos (meta.json, "
    "images.npy), delete the folder, and load the data again"
)


@dataclass(frozen=True)
class Meta:
    """The content of meta.json. All lists but `skipped` and `copies` have one entry per photo."""

    format: int
    source: str
    image_size: int
    sizes: Sequence[int] | None
    """Default sizes of the splits."""
    fingerprint: str
    class_names: Sequence[str]
    names: Sequence[str]
    labels: Sequence[int]
    pools: Sequence[str]
    digests: Sequence[str]
    """Of the encoded photo, 16 hexadecimal digits; empty if it could not be decoded."""
    skipped: Sequence[Any]
    """Name and reason."""
    copies: Sequence[Sequence[int]]
    """Groups of photos that look alike, see `catdog_jax.data.copies`."""
    passed_over: Mapping[str, int]


def is_decoded(path: Path) -> bool:
    """Whether `path` is such a folder, even a damaged one or one of an older format."""
    try:
        if not (path / _META).is_file():
            return False
        with (path / _META).open("rb") as file:
            return file.read(len(_START)) == _START or any(path.glob("*images.npy"))
    except OSError:  # unreadable folder: listing it will report that
        return False


def write(
    folder: Path, photos: Photos, *, source: str, image_size: int, sizes: Sizes | None
) -> None:
    """Decode all photos into the empty `folder`.

    Raises:
        InputError: the disk is too small, or too few of the photos can be read.
    """
    count = len(photos.names)
    _check_space(folder, count, image_size)
    images = _new_images(folder / _IMAGES, (count, image_size, image_size, 3))
    filled = photos.fill(np.arange(count), images)
    _check_failures(photos, filled, source)
    pools = [""] * count
    for name, indices in photos.pools.items():
        for index in indices.tolist():
            pools[index] = name
    digests = [digest.hex()[:16] for digest in filled.digests]
    content = hashlib.sha256()
    for pool, label, digest in zip(pools, photos.labels, filled.digests, strict=True):
        if digest:
            content.update(f"{pool} {label} {digest.hex()}\n".encode())
    meta = Meta(
        format=FORMAT,
        source=source,
        image_size=image_size,
        sizes=sizes,
        fingerprint=content.hexdigest(),
        class_names=photos.class_names,
        names=photos.names,
        labels=photos.labels.tolist(),
        pools=pools,
        digests=digests,
        skipped=[(photos.names[i], reason) for i, reason in sorted(filled.failed.items())],
        copies=copies.groups_alike(copies.thumbnails(images)),
        passed_over=dict(photos.passed_over),
    )
    images.flush()  # or a power failure could leave zeros
    with (folder / _META).open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(meta), file)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> tuple[Meta, UInt8Images]:
    """The meta data of such a folder, and its pixels, memory-mapped.

    Raises:
        InputError: it cannot be read, or has another format.
    """
    name, version = _META, None
    try:
        content: dict[str, Any] = json.loads((folder / _META).read_text("utf-8"))
        version = content["format"]
        if version == FORMAT:
            meta, name = Meta(**content), _IMAGES
            images = open_memmap(folder / _IMAGES, "r")
            counts = {len(meta.names), len(meta.labels), len(meta.pools), len(meta.digests)}
            shape = (len(meta.names), meta.image_size, meta.image_size, 3)
            if len(counts) > 1 or images.shape != shape or images.dtype != np.uint8:
                raise ValueError("the two do not fit")  # noqa: TRY301
            return meta, images
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{folder}: {name} {_DAMAGED}") from error
    raise InputError(
        f"{folder} was decoded in format {version}, this version of catdog_jax reads "
        f"format {FORMAT}: load the data again"
    )


def _check_space(folder: Path, count: int, image_size: int) -> None:
    needed, free = count * image_size**2 * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"decoding {count} photos takes {needed / 1e6:.0f} MB, but {folder.parent} has "
            f"{free / 1e6:.0f} MB left: make room, or set cache_dir or CATDOG_CACHE to another"
        )


def _new_images(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Reserve disk space now: a full disk would crash writes to the memory map with SIGBUS."""
    images = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return images


def _check_failures(photos: Photos, filled: Filled, source: str) -> None:
    failed, count = filled.failed, len(photos.names)
    if not count:
        raise InputError(f"{source} holds no photos")
    if 2 * len(failed) > count:
        first = min(failed)
        raise InputError(
            f"{len(failed)} of the {count} photos of {source} cannot be read, the first of them "
            f"{photos.names[first]!r} ({failed[first]}): replace them, or see whether this "
            "is the source you meant"
        )
    for pool, indices in photos.pools.items():
        for label, name in enumerate(photos.class_names):
            members = indices[photos.labels[indices] == label].tolist()
            if members and all(index in failed for index in members):
                where = source if pool == "all" else f"{pool}/ of {source}"
                raise InputError(
                    f"none of the {len(members)} photos of class {name!r} in {where} can be read "
                    f"(the first, {photos.names[members[0]]}: {failed[members[0]]}): "
                    "replace them"
                )
