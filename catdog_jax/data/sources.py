"""Sources of photos, before decoding: folders and zips, and drawings made by a program."""

import functools
import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError
from . import decode, sketches
from .decode import Filled
from .download import fetch
from .listing import (
    OUTSIDE,
    SUFFIXES,
    Folder,
    Tree,
    also_there,
    list_tree,
    picture_kinds,
)
from .splits import SPLIT_NAMES, Indices, Labels, Sizes, UInt8Images

_FILTERED_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
_SKETCHES_SIZES = (1000, 200, 100)
# Usual names of the splits' folders, in any case, with or without "set".
_SPLIT_FOLDER = re.compile(
    r"(?P<train>train(ing)?)|(?P<validation>val(id(ation)?)?)|(?P<test>test(ing)?)"
)

_Pictures: TypeAlias = dict[str, Tree]


@dataclass(frozen=True)
class Photos:
    """The photos of a source.

    Attributes:
        class_names: sorted.
        names: of the photos.
        labels: of the photos.
        pools: photos the splits are drawn from: "all", or "train" and "validation" or "test".
        fill: decodes the photos with the given indices, in that order, into an array.
        passed_over: how many files of each kind were passed over.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: Labels
    pools: Mapping[str, Indices]
    fill: Callable[[Indices, UInt8Images], Filled]
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A source that exists.

    Attributes:
        identity: anything JSON can hold that changes when the photos change.
        photos: lists the photos, which may take a while; not called if they are in the cache.
        sizes: default sizes of the splits of a single pool; None for 70/20/10 %.
        passed_over: as in `Photos`.
    """

    identity: Any
    photos: Callable[[], Photos]
    sizes: Sizes | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)


def sketches_source(count: int | None) -> Source:
    """`count` drawings; by default as many as the default splits need."""
    count = count or sum(_SKETCHES_SIZES)
    sizes = _SKETCHES_SIZES if count == sum(_SKETCHES_SIZES) else None

    def fill(chosen: Indices, images: UInt8Images) -> Filled:
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


def filtered_zip(folder: Path) -> Path:
    """The post's zip in `folder`, where it is or would be."""
    return folder / _FILTERED_URL.rpartition("/")[2]


def download_filtered(folder: Path) -> Path:
    """The post's zip in `folder`, downloaded if it is missing."""
    return fetch(_FILTERED_URL, filtered_zip(folder), _check_every_entry)


def _check_every_entry(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")


def tree_source(root: Tree) -> Source:
    """The photos in a folder or a zip: a folder per class, or train/ and validation/ of those.

    Raises:
        InputError: the layout is another, or it cannot be listed.
    """
    try:
        listed, passed_over = list_tree(root)
        try:
            pools = _find_pools(listed)
        except InputError as error:
            raise InputError(f"{root} {error}{also_there(picture_kinds(passed_over))}") from error
        stamps = [
            [pool, [[name, *stamp(picture)] for name, picture in pictures.items()]]
            for pool, classes in pools.items()
            for pictures in classes.values()
        ]
    except OSError as error:
        raise InputError(f"{root} cannot be listed: {error}") from error
    taken = sum(len(pictures) for _, pictures in stamps)
    if outside := len(listed.below()) - taken:
        passed_over[OUTSIDE] = outside
    identity = [list(next(iter(pools.values()))), stamps]
    if isinstance(root, zipfile.Path):  # a zip's directory does not show damage
        identity.append(stamp(Path(str(root.root.filename))))
    photos = functools.partial(_tree_photos, pools, passed_over)
    return Source(identity, photos, passed_over=passed_over)


def pictures_in(root: Tree) -> dict[str, Tree]:
    """The pictures of a folder or a zip by their names in a split.

    Raises:
        InputError: the layout is another.
        OSError: it cannot be listed.
    """
    pools = _find_pools(list_tree(root)[0])
    return {
        name: picture
        for classes in pools.values()
        for pictures in classes.values()
        for name, picture in pictures.items()
    }


# The layout of folders. The messages of these errors begin with the name of the source.


def _find_pools(root: Folder) -> dict[str, dict[str, _Pictures]]:
    """The pictures of each class by name, under "all" or the names of given splits."""
    while len(root.folders) == 1 and not _split_folders(root):
        (only,) = root.folders.values()
        if not only.folders:
            break
        root = only  # the one folder that an archive wraps everything in
    splits = _split_folders(root)
    if not splits:
        classes = _classes(root, prefix="")
        _refuse_unnamed_splits(root)
        return {"all": classes}
    if "train" not in splits or len(splits) == 1:
        there, missing = next(iter(splits.values())), "validation" if "train" in splits else "train"
        raise InputError(
            f"holds {there}/ but no {missing}/: add it, or give a folder "
            "with one sub-folder per class, to be split by seed"
        )
    pools = {}
    for name in (name for name in SPLIT_NAMES if name in splits):
        folder, prefix = root.folders[splits[name]], f"{splits[name]}/"
        while len(folder.folders) == 1 and next(iter(folder.folders.values())).folders:
            ((inner, folder),) = folder.folders.items()  # training_set/training_set/cats
            prefix += f"{inner}/"
        pools[name] = _classes(folder, prefix)
        if pools[name].keys() != pools["train"].keys():
            raise InputError(
                f"must hold the same classes in {splits['train']}/ and {splits[name]}/, but "
                f"they hold {', '.join(pools['train'])} and {', '.join(pools[name])}"
            )
    return pools


def _split_folders(folder: Folder) -> dict[str, str]:
    """The names of folders named like a split, by split."""
    splits: dict[str, str] = {}
    for name in folder.folders:
        called = _SPLIT_FOLDER.fullmatch(re.sub("[ _-]?set$", "", name.lower()))
        if split := called and called.lastgroup:
            if split in splits:
                raise InputError(
                    f"holds {splits[split]}/ and {name}/, both the {split} split: merge them"
                )
            splits[split] = name
    return splits


def _refuse_unnamed_splits(root: Folder) -> None:
    """Refuse "classes" that contain the same classes: they are probably splits."""
    inside = [tuple(folder.folders) for folder in root.folders.values()]
    has_own = any(folder.pictures for folder in root.folders.values())
    if not has_own and len(set(inside)) == 1 and len(inside[0]) > 1:
        names = ", ".join(f"{name}/" for name in root.folders)
        raise InputError(
            f"holds {names} which all hold the folders {', '.join(inside[0])}; if they are splits, "
            "name them train, validation and test, else give a folder with one sub-folder per class"
        )


def _classes(folder: Folder, prefix: str) -> dict[str, _Pictures]:
    where = f" in {prefix}" if prefix else ""
    classes = {name: child.below(f"{prefix}{name}/") for name, child in folder.folders.items()}
    if len(classes) < 2:
        found = f"only one, {next(iter(classes))!r}" if classes else "none"
        raise InputError(
            f"must hold a sub-folder for each of two or more classes{where} "
            f"(or train/ and validation/ of those), but holds {found}"
        )
    for name, pictures in classes.items():
        if not pictures:
            raise InputError(
                f"holds no pictures ({' '.join(SUFFIXES)}) in the class folder "
                f"{prefix + name!r}: add some, or remove it"
            )
    return classes


def stamp(picture: Tree) -> tuple[int, ...]:
    """Numbers that change when the file or its permissions change."""
    if isinstance(picture, Path):
        try:
            status = picture.stat()
        except OSError:  # a broken link, which decoding will report
            status = picture.lstat()
        return status.st_size, status.st_mtime_ns, status.st_mode
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
        passed_over=passed_over,
    )
