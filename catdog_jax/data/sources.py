"""Which photos there are, before any is decoded: in folders and zips, or drawn by a program."""

import contextlib
import functools
import hashlib
import os
import posixpath
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError, first_line
from ..files import expanded
from . import decode, sketches
from .download import fetch
from .splits import SPLIT_NAMES, Images, Indices, Labels, Sizes

_FILTERED_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
_SKETCHES_SIZES = (600, 168, 32)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
# A zip of pictures that is not suspected: photos are compressed already, and hardly shrink.
_BOMB_BYTES, _BOMB_RATIO, _DEEPEST = 10**9, 100, 30

# Folders and zips are read alike, through what these two have in common.
_Tree: TypeAlias = Path | zipfile.Path


@dataclass(frozen=True)
class Photos:
    """What a source holds.

    Attributes:
      class_names: sorted.
      names: of the photos.
      labels: of the photos.
      pools: which photos the splits are drawn from: "all", or "train", "validation" (and "test").
      fill: writes the photos with the given indices, in that order, into an array, and returns
        why some could not be, by index.
      read: where `fill` reads them, if they are files.

    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: Labels
    pools: Mapping[str, Indices]
    fill: Callable[[Indices, Images], dict[int, str]]
    read: decode.Reader | None = None


@dataclass(frozen=True)
class Source:
    """A source that was found.

    Attributes:
      identity: anything JSON can hold that changes when the photos change.
      photos: lists the photos, which may take a while: not called when the cache has them all.
      sizes: of the splits of a single pool; None for 70/20/10 %.
      is_encoded: whether reading them takes TensorFlow.

    """

    identity: Any
    photos: Callable[[], Photos]
    sizes: Sizes | None = None
    is_encoded: bool = True


def list_photos(path: str | Path) -> list[Path]:
    """Return the photo at `path`, or those in the folder `path` and below it, by name.

    A folder that cannot be listed stands for its photos, so that none is passed over in silence.

    Raises:
      InputError: nothing is there, or the folder holds no pictures.

    """
    path = expanded(path)
    try:
        is_folder = path.is_dir()
    except OSError:  # which reading it will report
        is_folder = False
    if not is_folder:
        return [path]
    photos: list[Path] = []

    def take_unlisted(error: OSError) -> None:  # reading it will say why it cannot be listed
        photos.append(Path(error.filename))

    for folder, folders, files in os.walk(path, onerror=take_unlisted):
        children = [Path(folder, name) for name in (*folders, *files)]
        photos += [child for child in children if _is_picture(child)]
    if not photos:
        raise InputError(f"{path} holds no pictures ({' '.join(_SUFFIXES)})")
    return sorted(photos)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def sketches_source(sizes: Sizes | None, image_size: int, seed: int) -> Source:
    """Return the drawings, as many as are asked for."""
    sizes = sizes or _SKETCHES_SIZES

    def fill(chosen: Indices, images: Images) -> dict[int, str]:
        for row, index in enumerate(chosen.tolist()):
            images[row] = sketches.draw_numbered(index, image_size, seed)
        return {}

    def photos() -> Photos:
        count = sum(sizes)
        return Photos(
            class_names=sketches.CLASS_NAMES,
            names=tuple(f"sketch.{index}" for index in range(count)),
            labels=sketches.labels_of(np.arange(count)),
            pools={"all": np.arange(count)},
            fill=fill,
        )

    # The program's text stands for its drawings, as far as they are its own: Pillow, which draws
    # the lines, and NumPy may round otherwise in another version.
    program = Path(sketches.__file__).read_bytes()
    identity = ["sketches", hashlib.sha256(program).hexdigest()]
    return Source(identity, photos, sizes, is_encoded=False)


def download_filtered(folder: Path) -> Path:
    """Return the blog's zip in `folder`, downloaded if need be."""
    path = folder / _FILTERED_URL.rpartition("/")[2]
    return fetch(_FILTERED_URL, path, _check_every_entry)


def _check_every_entry(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")


@contextlib.contextmanager
def open_tree(path: Path) -> Iterator[_Tree]:
    """Open a folder or a zip, which is closed again."""
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
    """Refuse a zip that is no honest one. Nothing is unpacked, so none could do harm by its paths.

    The sizes may be lies, but no more of an entry is read than it says.
    """
    unpacked = 0
    for entry in archive.infolist():
        parts = re.split(r"[/\\]", entry.filename)
        if ".." in parts or not parts[0] or re.fullmatch("[A-Za-z]:", parts[0]):
            raise InputError(
                f"{path} holds {entry.filename!r}, a path that leads out of the folder it would be "
                "unpacked to: if you trust it, unpack it yourself and give the folder"
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(
                f"{path} holds {entry.filename!r}, a link, and links in a zip are not followed: "
                "if you trust it, unpack it yourself and give the folder"
            )
        if len(parts) > _DEEPEST:
            raise InputError(f"{path} holds folders in folders, more than {_DEEPEST} deep")
        if entry.filename.lower().endswith(_SUFFIXES):
            unpacked += entry.file_size
    if unpacked > max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size):
        raise InputError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB of pictures, more than {_BOMB_RATIO} "
            "times its own size, which photos never do: if you trust it, unpack it yourself and "
            "give the folder"
        )


def tree_source(root: _Tree) -> Source:
    """Return the photos of an open folder or zip, a folder a class."""
    try:
        pools = _find_pools(root)
        stamps = {
            pool: [
                (name, picture_name, *stamp(picture))
                for name, pictures in classes.items()
                for picture_name, picture in pictures.items()
            ]
            for pool, classes in pools.items()
        }
    except OSError as error:
        raise InputError(f"{root} cannot be listed: {error}") from error
    return Source(stamps, functools.partial(_tree_photos, pools))


def _find_pools(root: _Tree) -> dict[str, dict[str, dict[str, _Tree]]]:
    """Return the pictures of each class by name, under "all" or the names of given splits."""
    folders = _folders(root)
    while len(folders) == 1 and not folders.keys() & set(SPLIT_NAMES):
        (only,) = folders.values()
        if not _folders(only):
            break
        root, folders = only, _folders(only)  # the one folder that an archive wraps everything in
    named = [name for name in SPLIT_NAMES if name in folders]
    if named:
        for name in ("train", "validation"):
            if name not in folders:
                raise InputError(
                    f"{root} holds {named[0]}/ but no {name}/: add it, or give a folder "
                    "with one sub-folder per class, to be split by seed"
                )
        pools = {name: _classes(folders[name]) for name in named}
        for name, classes in pools.items():
            if classes.keys() != pools["train"].keys():
                raise InputError(
                    f"{root}: train/ and {name}/ must hold the same classes, but they hold "
                    f"{', '.join(pools['train'])} and {', '.join(classes)}"
                )
        return pools
    return {"all": _classes(root)}


def _classes(folder: _Tree) -> dict[str, dict[str, _Tree]]:
    classes = {name: _pictures(child) for name, child in _folders(folder).items()}
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
                f"({' '.join(_SUFFIXES)}): add some, or remove it"
            )
    return classes


def _folders(folder: _Tree) -> dict[str, _Tree]:
    return {child.name: child for child in _visible(folder) if child.is_dir()}


def _pictures(folder: _Tree) -> dict[str, _Tree]:
    """Return the pictures in `folder` and below it, as Keras finds them, by path from there."""
    pictures: dict[str, _Tree] = {}
    unseen = [("", folder)]
    while unseen:
        prefix, tree = unseen.pop()
        for child in _visible(tree):
            # Also a folder of such a name, or a pipe: it passes for a picture, so it is said to be
            # none.
            if child.suffix.lower() in _SUFFIXES:
                pictures[prefix + child.name] = child
            elif child.is_dir() and not (isinstance(child, Path) and child.is_symlink()):
                unseen.append((f"{prefix}{child.name}/", child))
    return dict(sorted(pictures.items()))


def _visible(folder: _Tree) -> list[_Tree]:
    """Return what a folder holds, by name, less hidden files and those macOS adds to zips."""
    # A zip may hold a name twice, of which reading gives the last.
    children = {
        child.name: child
        for child in _children(folder)
        if not child.name.startswith(".") and child.name != "__MACOSX"
    }
    return [children[name] for name in sorted(children)]


def _children(folder: _Tree) -> Iterator[_Tree]:
    if isinstance(folder, Path):
        yield from folder.iterdir()
    else:
        for name in _names_by_folder(folder.root).get(folder.at.rstrip("/"), ()):
            yield zipfile.Path(folder.root, name)


@functools.lru_cache(maxsize=1)
def _names_by_folder(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """List a zip once, folders that are only implied included, as it is a `zipfile.Path`'s.

    `iterdir` goes through all names for each folder: for minutes, where there are many of both.
    """
    names: dict[str, list[str]] = {}
    for name in archive.namelist():
        names.setdefault(posixpath.dirname(name.rstrip("/")), []).append(name)
    return names


def stamp(picture: _Tree) -> tuple[int, int]:
    """Return two numbers that change when the file does."""
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


def _tree_photos(pools: Mapping[str, Mapping[str, Mapping[str, _Tree]]]) -> Photos:
    class_names = tuple(next(iter(pools.values())))
    files: list[_Tree] = []
    names: list[str] = []
    labels: list[int] = []
    indices: dict[str, Indices] = {}
    for pool, classes in pools.items():
        start = len(files)
        prefix = "" if pool == "all" else f"{pool}/"
        for label, class_name in enumerate(class_names):
            pictures = classes[class_name]
            files += pictures.values()
            names += [f"{prefix}{class_name}/{name}" for name in pictures]
            labels += [label] * len(pictures)
        indices[pool] = np.arange(start, len(files))
    read = functools.partial(decode.read_files, files)
    return Photos(
        class_names=class_names,
        names=tuple(names),
        labels=np.array(labels, np.int32),
        pools=indices,
        fill=functools.partial(decode.decode_all, read),
        read=read,
    )
