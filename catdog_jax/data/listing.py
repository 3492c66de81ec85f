"""Which pictures a folder or a zip holds: one listing for training and for prediction.

What is passed over is counted by kind, so that it can be said.
"""

import functools
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from ..errors import InputError
from ..files import expanded

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Pictures that are not read: strict data may hold none of them.
_OTHER_PICTURES = {
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".raw",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
}
_OTHER_PROGRAMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints", ".Trash")
_OUR_FIGURES = {"curves.png", "labels.png", "photos.png", "flips.png", "rotations.png"}
_LINKS = "links that lead nowhere or back"

Tree: TypeAlias = Path | zipfile.Path
"""Folders and zips are read alike, through what these two have in common."""


class Listing:
    """Goes through folders and counts, by kind, what it passes over."""

    def __init__(self) -> None:
        self.passed_over: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._known: dict[str, list[Tree]] = {}

    def folders(self, folder: Tree) -> dict[str, Tree]:
        """The folders in `folder`, by name."""
        return {child.name: child for child in self._children(folder) if child.is_dir()}

    def pictures(self, folder: Tree) -> dict[str, Tree]:
        """The pictures in `folder` and below it, by their path from there."""
        found: dict[str, Tree] = {}
        unseen = [("", folder)]
        while unseen:
            prefix, tree = unseen.pop()
            for child in self._children(tree):
                # Also a folder of such a name, or a pipe: it passes for a picture, so decoding
                # says that it is none.
                if child.suffix.lower() in SUFFIXES:
                    found[prefix + child.name] = child
                elif child.is_dir():
                    unseen.append((f"{prefix}{child.name}/", child))
                else:
                    self.passed_over[f"{child.suffix.lower() or 'nameless'} files"] += 1
        return dict(sorted(found.items()))

    def _children(self, folder: Tree) -> list[Tree]:
        """What a folder holds, by name, less what is hidden or not meant for us."""
        if str(folder) not in self._known:  # or it would be counted twice
            # A zip may hold a name twice, of which reading gives the last.
            children = {child.name: child for child in _all_children(folder)}
            self._known[str(folder)] = [
                child for _, child in sorted(children.items()) if not self._passes_over(child)
            ]
        return self._known[str(folder)]

    def _passes_over(self, child: Tree) -> bool:
        kind = None
        if child.name.startswith(_OTHER_PROGRAMS):
            kind = "folders of other programs"
        elif child.name.startswith("."):
            kind = "hidden files"
        elif isinstance(child, Path) and child.is_symlink() and not self._leads_on(child):
            kind = _LINKS
        elif isinstance(child, Path) and child.is_dir() and _is_ours(child):
            kind = "folders of our own runs"
        if kind:
            self.passed_over[kind] += 1
        return kind is not None

    def _leads_on(self, link: Path) -> bool:
        """Whether a link leads to a file, or to a folder that no link has led to, nor is above."""
        if not link.exists():
            return link.suffix.lower() in SUFFIXES  # a picture that cannot be read
        if not link.is_dir():
            return True
        target = os.path.realpath(link)
        above = os.path.realpath(link.parent)
        if target in self._seen or posixpath.commonpath([target, above]) == target:
            return False
        self._seen.add(target)
        return True


def picture_kinds(passed_over: Mapping[str, int]) -> dict[str, int]:
    """Of what was passed over, what may well be pictures: of other kinds, or behind a link."""
    pictures = {f"{suffix} files" for suffix in _OTHER_PICTURES} | {_LINKS}
    return {kind: count for kind, count in passed_over.items() if kind in pictures}


def list_photos(path: str | Path) -> list[Path]:
    """The photo at `path`, or those in the folder `path` and below it, by name.

    Raises:
        InputError: the folder cannot be listed, or holds no pictures.
    """
    path = expanded(path)
    try:
        if not path.is_dir():
            return [path]
        listing = Listing()
        photos = [Path(str(photo)) for photo in listing.pictures(path).values()]
    except OSError as error:
        raise InputError(f"{path} cannot be listed: {error}") from error
    if not photos:
        counts = "".join(f", but {n} {kind}" for kind, n in listing.passed_over.items())
        raise InputError(f"{path} holds no pictures ({' '.join(SUFFIXES)}){counts}")
    return photos


def _is_ours(folder: Path) -> bool:
    """Whether a run wrote `folder`, or it holds nothing but such folders, or decoded photos."""
    try:
        children = list(folder.iterdir())
    except OSError:  # listing it will say so
        return False
    names = {child.name for child in children}
    if "config.json" in names and names & {"history.csv", "checkpoint"}:
        return True
    if "meta.json" in names and any(name.endswith("images.npy") for name in names):
        return True
    inside = [child for child in children if child.is_dir() and not child.name.startswith(".")]
    pictures = [n for n in names - _OUR_FIGURES if Path(n).suffix.lower() in SUFFIXES]
    return bool(inside) and not pictures and all(map(_is_ours, inside))


def _all_children(folder: Tree) -> Iterator[Tree]:
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
