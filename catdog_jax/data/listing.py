"""The pictures in a folder or a zip, and counts of the other files by kind.

Used for data sets and for the folders given to `predict`.
"""

import contextlib
import functools
import glob
import logging
import os
import posixpath
import re
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..errors import InputError, first_line
from ..files import expanded

_LOGGER = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
OUTSIDE = "pictures outside the class folders"
_LINKS = "links that lead nowhere or back"
_HIDDEN = "hidden files"
_OTHER_PROGRAMS = "folders of other programs"
_OUR_RUNS = "folders of our own runs"
# Picture formats that are not read, such as camera raw.
_OTHER_PICTURES = re.compile(
    r"\.(hei[cf]|hif|avif|jxl|jp2|j2k|jpe|raw|dng|cr[23]|nef|arw|orf|rw2|raf|pef|psd|xcf|tga|svg|"
    r"p[bgp]m|ico|exr) files"
)
_SERVICE = re.compile(
    r"__MACOSX|\.ipynb_checkpoints|\.Trash.*|@eaDir|\$RECYCLE\.BIN", re.IGNORECASE
)
# Files by which this package's own output is recognized.
_OF_RUNS = (
    {"config.json", "history.csv"},
    {"config.json", "checkpoint"},
    {"summary.json", "summary.md"},
)
_OUTPUTS = (*_OF_RUNS, {"labels.png", "photos.png"}, {"meta.json", "images.npy"})

Tree: TypeAlias = Path | zipfile.Path
"""A file or a folder, on disk or in a zip."""


@contextlib.contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """Open a folder or a zip; the zip is closed afterwards.

    Raises:
        InputError: it is neither.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():  # opening a pipe would block
        raise InputError(f"{path} is a pipe or a device: give a folder or a zip")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # damaged zips raise errors of many types
        raise InputError(
            f"{path} is neither a folder nor a zip that can be opened ({first_line(error)}): "
            "if it was downloaded, delete it and download it again"
        ) from error
    with archive:
        yield zipfile.Path(archive)


@dataclass
class Folder:
    """A listed folder: its pictures and its folders by name, sorted."""

    pictures: dict[str, Tree] = field(default_factory=dict)
    folders: "dict[str, Folder]" = field(default_factory=dict)
    holds_runs: bool = False

    def below(self, prefix: str = "") -> dict[str, Tree]:
        """All pictures here and below, by their path from here, sorted."""
        found: dict[str, Tree] = {}
        unseen = [(prefix, self)]
        while unseen:
            prefix, folder = unseen.pop()
            found |= {prefix + name: file for name, file in folder.pictures.items()}
            unseen += [(f"{prefix}{name}/", inner) for name, inner in folder.folders.items()]
        return dict(sorted(found.items()))


def list_tree(root: Tree) -> tuple[Folder, Counter[str]]:
    """List a folder or a zip and count the files passed over; no photo is read.

    Linked folders are followed once, and last, so that pictures are listed where they really are.

    Raises:
        OSError: a folder cannot be listed.
    """
    top, passed_over, seen = Folder(), Counter[str](), set[str]()
    queue, links = deque([(root, top, top)]), deque[tuple[Tree, Folder]]()
    entered: list[tuple[Tree, Folder, Folder]] = []
    while queue or links:
        if not queue:
            tree, parent = links.popleft()
            if _place(tree) in seen:
                passed_over[_LINKS] += 1
                continue
            parent.folders[tree.name] = Folder()
            parent.folders = dict(sorted(parent.folders.items()))
            queue.append((tree, parent.folders[tree.name], parent))
        tree, folder, parent = queue.popleft()
        entered.append((tree, folder, parent))
        seen.add(_place(tree))
        for name, child in _children(tree).items():
            if kind := _passed_over(child):
                passed_over[kind] += 1
                folder.holds_runs |= kind == _OUR_RUNS
            elif not child.is_dir():
                folder.pictures[name] = child
            elif _is_link(child):
                links.append((child, folder))
            else:
                folder.folders[name] = Folder()
                queue.append((child, folder.folders[name], folder))
    # A folder of nothing but our runs is no class.
    for tree, folder, parent in reversed(entered[1:]):
        if folder.holds_runs and not folder.pictures and not folder.folders:
            del parent.folders[tree.name]
            parent.holds_runs = True
    return top, passed_over


def picture_kinds(passed_over: Mapping[str, int]) -> dict[str, int]:
    """The kinds that are, or may be, pictures: `strict` refuses data with any of them."""
    return {
        kind: count
        for kind, count in passed_over.items()
        if kind in (_LINKS, OUTSIDE) or _OTHER_PICTURES.fullmatch(kind)
    }


def also_there(passed_over: Mapping[str, int]) -> str:
    """The end of an error message: `; passed over: 3 .heic files`."""
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
    return f"; passed over: {counts}" if counts else ""


def list_photos(path: str | Path) -> list[Path]:
    """The photo at `path`, or those in the folder `path` and below it, by name.

    A path that does not exist and has a `*`, `?` or `[` in it is a pattern for several.

    Raises:
        InputError: the folder cannot be listed, holds no pictures, or is a run; nothing fits the
            pattern; it is no path.
    """
    if str(path).lower().startswith(("http:", "https:")):
        raise InputError(f"{path}: web addresses are not read; download the photo first")
    if not str(path).strip():
        raise InputError("the name of a photo is empty")
    path = expanded(path)
    try:
        if is_run(path):
            raise InputError(
                f"{path} holds runs, not photos; to use a run's model, write --run RUN"
            )
        if not path.is_dir():
            return [path] if path.exists() or not glob.has_magic(str(path)) else _matching(path)
        folder, passed_over = list_tree(path)
    except OSError as error:
        raise InputError(f"{path} cannot be listed: {error}") from error
    photos = [Path(str(photo)) for photo in folder.below().values()]
    if not photos:
        kinds = " ".join(SUFFIXES)
        raise InputError(f"{path} holds no pictures ({kinds}){also_there(passed_over)}")
    if kinds := picture_kinds(passed_over):
        _LOGGER.warning("%s%s", path, also_there(kinds))
    return photos


def is_run(path: Path) -> bool:
    """Whether it is the folder of a run or of a series of runs."""
    return path.is_dir() and any(files <= _children(path).keys() for files in _OF_RUNS)


def _matching(pattern: Path) -> list[Path]:
    found = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 (absolute)
    if not found:
        raise InputError(f"no file fits {pattern}")
    return [photo for one in found for photo in list_photos(one)]


def _passed_over(child: Tree) -> str | None:
    """The kind of a child that is passed over; None for pictures and folders to enter."""
    if _SERVICE.fullmatch(child.name):
        return _OTHER_PROGRAMS
    if child.name.startswith("."):
        return _HIDDEN
    if child.is_dir():
        return _OUR_RUNS if _is_ours(child) else None
    if _is_picture(child.name):  # even a broken link or a pipe: reading it reports why
        return None
    if _is_link(child) and not child.exists():
        return _LINKS
    suffix = Path(child.name).suffix.lower()
    return f"{suffix} files" if suffix else "files without an ending"


def _is_ours(folder: Tree) -> bool:
    try:
        names = _children(folder).keys()
    except OSError:  # listing it reports that
        return False
    # A run that has just begun holds only its lock.
    return names == {".lock"} or any(files <= names for files in _OUTPUTS)


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _place(folder: Tree) -> str:
    return os.path.realpath(folder) if isinstance(folder, Path) else str(folder)


def _is_link(file: Tree) -> bool:
    return isinstance(file, Path) and file.is_symlink()


def _children(folder: Tree) -> dict[str, Tree]:
    """A folder's children by name, sorted. If a zip has a name twice, the last one counts."""
    children = {}
    if isinstance(folder, Path):
        children = {child.name: child for child in folder.iterdir()}
    else:
        for name in _names_by_folder(folder.root).get(folder.at.rstrip("/"), ()):
            children[posixpath.basename(name.rstrip("/"))] = zipfile.Path(folder.root, name)
    return dict(sorted(children.items()))


@functools.lru_cache(maxsize=1)
def _names_by_folder(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """List a zip once, implied folders included: `iterdir` scans all of it for each folder."""
    names: dict[str, list[str]] = {}
    for name in archive.namelist():
        names.setdefault(posixpath.dirname(name.rstrip("/")), []).append(name)
    return names
