"""Which photos there are, before any is decoded: in folders and zips, or drawn by a program."""

import contextlib
import functools
import hashlib
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError, first_line
from . import decode, sketches
from .decode import Filled, Reader
from .download import fetch
from .listing import SUFFIXES, Listing, Tree
from .splits import SPLIT_NAMES, Images, Indices, Labels, Sizes

_FILTERED_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
_SKETCHES_SIZES = (600, 168, 32)
# A zip of pictures that is not suspected: photos are compressed already, and hardly shrink.
_BOMB_BYTES, _BOMB_RATIO = 10**9, 100
# What people call the splits' folders, in any case.
_CALLED = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_set", "validation_set"), "validation"),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}

_Pictures: TypeAlias = dict[str, Tree]


@dataclass(frozen=True)
class Photos:
    """What a source holds.

    Attributes:
        class_names: sorted.
        names: of the photos.
        labels: of the photos.
        pools: which photos the splits are drawn from: "all", or "train", "validation" (and "test").
        fill: writes the photos with the given indices, in that order, into an array.
        read: where `fill` reads them, if they are files.
        passed_over: how many files of each kind were not taken for photos.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: Labels
    pools: Mapping[str, Indices]
    fill: Callable[[Indices, Images], Filled]
    read: Reader | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A source that was found.

    Attributes:
        identity: anything JSON can hold that changes when the photos change.
        photos: lists the photos, which may take a while: not called when the cache has them all.
        sizes: of the splits of a single pool; None for 70/20/10 %.
        passed_over: as in `Photos`, now.
    """

    identity: Any
    photos: Callable[[], Photos]
    sizes: Sizes | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)


def sketches_source(count: int | None) -> Source:
    """`count` drawings, by default enough for the default splits."""
    count = count or sum(_SKETCHES_SIZES)
    sizes = _SKETCHES_SIZES if count == sum(_SKETCHES_SIZES) else None

    def fill(chosen: Indices, images: Images) -> Filled:
        digests = []
        for row, index in enumerate(chosen.tolist()):
            images[row] = sketches.draw_numbered(index, images.shape[1], 0)
            digests.append(hashlib.sha256(f"sketch {sketches.EDITION} {index}".encode()).digest())
        return Filled({}, digests)

    def photos() -> Photos:
        return Photos(
            class_names=sketches.CLASS_NAMES,
            names=tuple(f"sketch.{index}" for index in range(count)),
            labels=sketches.labels_of(np.arange(count)),
            pools={"all": np.arange(count)},
            fill=fill,
        )

    return Source(["sketches", sketches.EDITION, count], photos, sizes)


def download_filtered(folder: Path) -> Path:
    """The post's zip in `folder`, downloaded if need be."""
    path = folder / _FILTERED_URL.rpartition("/")[2]
    return fetch(_FILTERED_URL, path, _check_every_entry)


def _check_every_entry(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")


@contextlib.contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """Open a folder or a zip, which is closed again.

    Raises:
        InputError: it is neither, or its entries lead out of it.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():  # opening a pipe would wait for its writer
        raise InputError(f"{path} is a pipe or a device: give a folder or a zip")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of damaged zips the module raises whatever it stumbles over
        raise InputError(
            f"{path} is neither a folder nor a zip that can be opened ({first_line(error)}): "
            "if it was downloaded, delete it and download it again"
        ) from error
    with archive:
        _check_archive(archive, path)
        yield zipfile.Path(archive)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip that is no honest one. Nothing is unpacked, so no path could do harm."""
    unpacked = 0
    for entry in archive.infolist():
        parts = re.split(r"[/\\]", entry.filename)
        leads_out = ".." in parts or not parts[0] or re.fullmatch("[A-Za-z]:", parts[0])
        if leads_out or stat.S_ISLNK(entry.external_attr >> 16):
            what = "a path that leads out of its folder" if leads_out else "a link"
            raise InputError(
                f"{path} holds {entry.filename!r}, {what}: if you trust it, unpack it yourself and "
                "give the folder"
            )
        if entry.filename.lower().endswith(SUFFIXES):
            unpacked += entry.file_size
    if unpacked > max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size):
        raise InputError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB of pictures, more than {_BOMB_RATIO} "
            "times its size: if you trust it, unpack it yourself and give the folder"
        )


def tree_source(root: Tree) -> Source:
    """The photos in a folder or a zip: a folder a class, or train/ and validation/ of those.

    Raises:
        InputError: it is laid out otherwise, or cannot be listed.
    """
    listing = Listing()
    try:
        pools = _find_pools(root, listing)
        stamps = [
            [pool, [[name, *stamp(picture)] for name, picture in pictures.items()]]
            for pool, classes in pools.items()
            for pictures in classes.values()
        ]
    except OSError as error:
        raise InputError(f"{root} cannot be listed: {error}") from error
    identity = [list(next(iter(pools.values()))), stamps]
    photos = functools.partial(_tree_photos, pools, dict(listing.passed_over))
    return Source(identity, photos, passed_over=dict(listing.passed_over))


def _find_pools(root: Tree, listing: Listing) -> dict[str, dict[str, _Pictures]]:
    """The pictures of each class by name, under "all" or the names of given splits."""
    folders = listing.folders(root)
    while len(folders) == 1 and not _split_folders(folders):
        (only,) = folders.values()
        inside = listing.folders(only)
        if not inside:
            break
        root, folders = only, inside  # the one folder that an archive wraps everything in
    splits = _split_folders(folders)
    if not splits:
        _refuse_unnamed_splits(root, folders, listing)
        return {"all": _classes(root, listing, prefix="")}
    if "validation" not in splits and "test" in splits:
        splits["validation"] = splits.pop("test")  # and the test set is held back from it
    for name in ("train", "validation"):
        if name not in splits:
            there = next(iter(splits.values())).name
            raise InputError(
                f"{root} holds {there}/ but no {name}/: add it, or give a folder "
                "with one sub-folder per class, to be split by seed"
            )
    pools = {}
    for name in (name for name in SPLIT_NAMES if name in splits):
        folder = splits[name]
        prefix = f"{folder.name}/"
        while list(inside := listing.folders(folder)) == [folder.name]:
            folder = inside[folder.name]  # doubled, as some archives unpack
        pools[name] = _classes(folder, listing, prefix)
        if pools[name].keys() != pools["train"].keys():
            raise InputError(
                f"{root}: {splits['train'].name}/ and {prefix} must hold the same classes, but "
                f"they hold {', '.join(pools['train'])} and {', '.join(pools[name])}"
            )
    return pools


def _split_folders(folders: Mapping[str, Tree]) -> dict[str, Tree]:
    """The folders that are called as a split is, by the split's name."""
    splits: dict[str, Tree] = {}
    for name, folder in folders.items():
        split = _CALLED.get(name.lower())
        if split in splits:
            raise InputError(
                f"{name}/ and {splits[split].name}/ are both the {split} split: merge them"
            )
        if split:
            splits[split] = folder
    return splits


def _refuse_unnamed_splits(root: Tree, folders: Mapping[str, Tree], listing: Listing) -> None:
    inside = [tuple(listing.folders(folder)) for folder in folders.values()]
    if len(inside) > 1 and len(set(inside)) == 1 and len(inside[0]) > 1:
        names = ", ".join(f"{name}/" for name in folders)
        raise InputError(
            f"{root}: {names} all hold the folders {', '.join(inside[0])}; if they are splits, "
            "name them train, validation and test, else give a folder with one sub-folder per class"
        )


def _classes(folder: Tree, listing: Listing, prefix: str) -> dict[str, _Pictures]:
    classes = {
        name: {
            f"{prefix}{name}/{path}": picture for path, picture in listing.pictures(child).items()
        }
        for name, child in listing.folders(folder).items()
    }
    if len(classes) < 2:
        found = f"only one, {next(iter(classes))!r}" if classes else "none"
        raise InputError(
            f"{folder} must hold a sub-folder for each of two or more classes "
            f"(or train/ and validation/ of those), but holds {found}"
        )
    for name, pictures in classes.items():
        if not pictures:
            raise InputError(
                f"class folder {name!r} in {folder} holds no pictures "
                f"({' '.join(SUFFIXES)}): add some, or remove it"
            )
    return classes


def stamp(picture: Tree) -> tuple[int, int]:
    """Two numbers that change when the file does."""
    if isinstance(picture, Path):
        try:
            status = picture.stat()
        except OSError:  # a link to nowhere, which decoding will report
            status = picture.lstat()
        return status.st_size, status.st_mtime_ns
    if picture.is_dir():
        return 0, 0
    entry = picture.root.getinfo(picture.at)
    return entry.file_size, entry.CRC


def _tree_photos(
    pools: Mapping[str, Mapping[str, _Pictures]], passed_over: Mapping[str, int]
) -> Photos:
    files: list[Tree] = []
    names: list[str] = []
    labels: list[int] = []
    indices: dict[str, Indices] = {}
    for pool, classes in pools.items():
        start = len(files)
        for label, pictures in enumerate(classes.values()):
            files += pictures.values()
            names += pictures
            labels += [label] * len(pictures)
        indices[pool] = np.arange(start, len(files))
    read = functools.partial(decode.read_files, files)
    return Photos(
        class_names=tuple(next(iter(pools.values()))),
        names=tuple(names),
        labels=np.array(labels, np.int32),
        pools=indices,
        fill=functools.partial(decode.decode_all, read),
        read=read,
        passed_over=passed_over,
    )
