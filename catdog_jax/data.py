"""Photos in, batches out: sources are decoded once to uint8 splits on disk, then memory-mapped.

    source -> which photos it holds -> one cut by seed -> decoding -> arrays in the cache -> batches

Photos are decoded in a process of its own, so a prepared folder (or a cache hit) serves a machine
that has no TensorFlow.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import filelock
import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from numpy.lib.format import open_memmap

from . import decode, sketches
from .cache import cache_folder
from .download import fetch
from .errors import InputError, first_line
from .files import expanded

SOURCES = ("cats_vs_dogs", "cats_and_dogs_filtered", "sketches")

_FILTERED_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
# Where tensorflow-datasets gets cats_vs_dogs from.
_TFDS_HOST = "https://download.microsoft.com"
# The blog's split of cats_and_dogs_filtered: 2,000 in train/; 26 and 6 of the 32 batches of
# validation/, the last of which is not full.
_TFDS_SIZES = (2000, 808, 192)
_SKETCHES_SIZES = (600, 168, 32)
# The blog holds back one fifth of the validation batches, of 32 photos each, as the test set.
_BLOG_BATCH = 32
_BLOG_TEST_SHARE = 5
_SMALLEST_IMAGE = 32
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLIT_NAMES = ("train", "validation", "test")
# A zip of pictures that is not suspected: photos are compressed already, and hardly shrink.
_BOMB_BYTES, _BOMB_RATIO, _DEEPEST = 10**9, 100, 100
_META = "meta.json"
_UNFINISHED = ".preparing-"
# Part of every cache key: raise it when the same source would now give other arrays or files.
_FORMAT = 2
_DAMAGED = "is missing or damaged: delete the folder and prepare the data again"

_Images: TypeAlias = UInt8[np.ndarray, "n height width 3"]
_Labels: TypeAlias = Int32[np.ndarray, " n"]
_Indices: TypeAlias = Int64[np.ndarray, " n"]
_Sizes: TypeAlias = tuple[int, int, int]
# Folders and zips are read alike, through what these two have in common.
_Tree: TypeAlias = Path | zipfile.Path


_LOGGER = logging.getLogger(__name__)


# What the rest of the package sees.


class Batch(TypedDict):
    """A batch of fixed size; where `mask` is False the image is black padding, its label 0."""

    image: UInt8[np.ndarray, "batch height width 3"]
    label: Int32[np.ndarray, " batch"]
    mask: Bool[np.ndarray, " batch"]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
      images: uint8[N, H, W, 3], memory-mapped.
      labels: int32[N], indices into `class_names`.
      class_names: the classes in the order of their labels.
      names: the N photos' names, relative to their source.

    """

    images: _Images
    labels: _Labels
    class_names: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int = 32) -> "Batches":
        """Return all batches in order; the last one is padded."""
        return Batches(self, np.arange(len(self)), batch_size)

    def shuffled(self, batch_size: int = 32, *, seed: int) -> Callable[[int], "Batches"]:
        """Return a function from an epoch's number to its batches, in an order of its own.

        The order is `np.random.default_rng((seed, epoch)).permutation(N)`.
        """

        def batches_of_epoch(epoch: int) -> Batches:
            order = np.random.default_rng((seed, epoch)).permutation(len(self))
            return Batches(self, order, batch_size)

        return batches_of_epoch


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a split in a fixed order; every loop over them starts anew.

    Attributes:
      split: where the photos are.
      order: which photos, in which order.
      batch_size: of every batch; the last one is padded to it.

    Raises:
      InputError: `batch_size` is not positive.

    """

    split: Split
    order: _Indices
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, not {self.batch_size}")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.order), self.batch_size):
            yield self._batch(self.order[start : start + self.batch_size])

    def _batch(self, rows: _Indices) -> Batch:
        count = len(rows)
        image = np.zeros((self.batch_size, *self.split.images.shape[1:]), np.uint8)
        label = np.zeros(self.batch_size, np.int32)
        image[:count] = self.split.images[rows]
        label[:count] = self.split.labels[rows]
        return Batch(image=image, label=label, mask=np.arange(self.batch_size) < count)


@dataclass(frozen=True)
class Skipped:
    """A photo that could not be read or decoded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Shared:
    """A photo that is in an earlier split, too: the same pixels, by SHA-256, once it is decoded.

    So a copy is found in whatever kind of file it is, and in every source.

    Attributes:
      split: validation or test.
      name: of the photo there.
      other_split: the first split that has it.
      other_name: of the photo there.

    """

    split: str
    name: str
    other_split: str
    other_name: str


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, cut once into parts without overlap.

    Attributes:
      train: what models learn from.
      validation: what epochs are compared on.
      test: what the final model is judged by; may be empty where there are few photos.
      class_names: the classes in the order of their labels.
      source: what was asked of `load_data`.
      fingerprint: changes with what was read and how.
      folder: where the prepared arrays are; itself a source for `load_data`.
      skipped: photos that could not be read.
      shared: photos that are in more than one split.

    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    folder: Path
    skipped: tuple[Skipped, ...]
    shared: tuple[Shared, ...]


def class_counts(split: Split) -> dict[str, int]:
    """Return how many photos of each class a split holds."""
    counts = np.bincount(split.labels, minlength=len(split.class_names))
    return dict(zip(split.class_names, counts.tolist(), strict=True))


def majority_baseline(split: Split) -> float:
    """Return the accuracy of always naming the split's largest class, in 0..1.

    Raises:
      InputError: the split is empty.

    """
    if len(split) == 0:
        raise InputError("an empty split has no majority class: give a split that holds photos")
    return max(class_counts(split).values()) / len(split)


def list_photos(path: str | Path) -> list[Path]:
    """Return the photo at `path`, or those in the folder `path` and below it, by name.

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
    photos = sorted(
        child
        for child in path.rglob("*")
        if child.suffix.lower() in _SUFFIXES and not child.name.startswith(".")
    )
    if not photos:
        raise InputError(f"{path} holds no pictures ({' '.join(_SUFFIXES)})")
    return photos


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
      image_size: side of the images in pixels, 32 or more; bilinear, aspect ratio not kept.
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
    request = _Request(source, image_size, folder, seed, sizes, cache_folder(cache_dir))
    _check_request(request)
    splits = _load(request)
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
    sizes: _Sizes | None
    cache: Path


def _check_request(request: _Request) -> None:
    if request.image_size < _SMALLEST_IMAGE:
        raise InputError(f"image_size must be {_SMALLEST_IMAGE} or more, not {request.image_size}")
    if request.seed < 0:
        raise InputError(f"seed must be 0 or more, not {request.seed}")
    if request.sizes is not None and (min(request.sizes[:2]) < 1 or request.sizes[2] < 0):
        raise InputError(
            f"sizes must be at least 1 training, 1 validation and 0 test photos, "
            f"not {request.sizes}"
        )


def _load(request: _Request) -> Splits:
    # A path is never a name: Path("sketches") is a folder.
    if request.source == "cats_vs_dogs":
        if not decode.tensorflow_is_imported():  # TFDS cannot even be asked without
            return _load_in_own_process(request)
        return _load_cached(_tfds_source(request.data_dir), request)
    if request.source == "sketches":
        return _load_cached(_sketches_source(request), request)
    if request.source == "cats_and_dogs_filtered":
        path = _download_filtered(request.data_dir or request.cache / "downloads")
    else:
        path = _existing_path(request.source)
    if _is_prepared(path):
        return _load_prepared(path, request)
    with _open_tree(path) as root:
        return _load_cached(_tree_source(root), request)


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


def _is_prepared(path: Path) -> bool:
    try:
        return (path / _META).is_file()
    except OSError:  # a folder closed to this user, which listing it will report
        return False


# Sources: which photos there are, before any is decoded.


@dataclass(frozen=True)
class _Photos:
    """What a source holds.

    Attributes:
      class_names: sorted.
      names: of the photos.
      labels: of the photos.
      pools: which photos the splits are drawn from: "all", or "train", "validation" (and "test").
      fill: writes the photos with the given indices, in that order, into an array, and returns
        why some could not be, by index.

    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: _Labels
    pools: Mapping[str, _Indices]
    fill: Callable[[_Indices, _Images], dict[int, str]]


@dataclass(frozen=True)
class _Source:
    """A source that was found.

    Attributes:
      identity: anything JSON can hold that changes when the photos change.
      photos: lists the photos, which may take a while: not called when the cache has them.
      sizes: of the splits of a single pool; None for 70/20/10 %.
      is_encoded: whether reading them takes TensorFlow.

    """

    identity: Any
    photos: Callable[[], _Photos]
    sizes: _Sizes | None = None
    is_encoded: bool = True


def _sketches_source(request: _Request) -> _Source:
    sizes = request.sizes or _SKETCHES_SIZES

    def photos() -> _Photos:
        drawn, labels = sketches.draw(sum(sizes), request.image_size, request.seed)

        def fill(chosen: _Indices, images: _Images) -> dict[int, str]:
            np.take(drawn, chosen, axis=0, out=images, mode="clip")
            return {}

        return _Photos(
            class_names=sketches.CLASS_NAMES,
            names=tuple(f"sketch.{index}" for index in range(len(labels))),
            labels=labels,
            pools={"all": np.arange(len(labels))},
            fill=fill,
        )

    # The program's text stands for its drawings: there is no version to forget to raise.
    program = Path(sketches.__file__).read_bytes()
    identity = ["sketches", hashlib.sha256(program).hexdigest()]
    return _Source(identity, photos, sizes, is_encoded=False)


def _tfds_source(data_dir: Path | None) -> _Source:
    builder = _tfds_builder(data_dir)
    count = builder.info.splits["train"].num_examples
    identity = [builder.name, str(builder.version), count]
    return _Source(identity, functools.partial(_tfds_photos, builder), _TFDS_SIZES)


def _tfds_builder(data_dir: Path | None) -> Any:
    """Return the TFDS builder of cats_vs_dogs, its photos downloaded if need be."""
    tfds = decode.tensorflow_datasets()
    try:
        builder = tfds.builder("cats_vs_dogs", data_dir=data_dir)
        if not builder.is_prepared():
            _check_tfds_host()
            builder.download_and_prepare()
    except Exception as error:  # TFDS documents none of what it raises
        place = data_dir or "the default folder of TFDS"
        raise InputError(
            f"cats_vs_dogs could be neither opened in {place} nor downloaded to it "
            f"({first_line(error)}): give the data_dir that holds it, or go online"
        ) from error
    return builder


def _check_tfds_host() -> None:
    """Fail at once when offline: TFDS itself would retry for minutes."""
    try:
        urllib.request.urlopen(_TFDS_HOST, timeout=20).close()
    except urllib.error.HTTPError as answer:  # any answer will do
        answer.close()


def _tfds_photos(builder: Any) -> _Photos:
    tf, tfds = decode.tensorflow(), decode.tensorflow_datasets()
    columns = tfds.decode.PartialDecoding({"label": True, "image/filename": True})
    try:
        records = list(_tfds_records(builder, columns).batch(1024).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise InputError(
            f"cats_vs_dogs in {builder.data_dir} is damaged ({decode.op_reason(error)}): "
            "delete that folder to download it again"
        ) from error
    labels = np.concatenate([record["label"] for record in records]).astype(np.int32)
    names = np.concatenate([record["image/filename"] for record in records])
    return _Photos(
        # TFDS says cat and dog; they are the classes of the other sources, in the same order.
        class_names=sketches.CLASS_NAMES,
        names=tuple(name.decode() for name in names),
        labels=labels,
        pools={"all": np.arange(len(labels))},
        fill=functools.partial(decode.decode_all, functools.partial(_read_tfds, builder)),
    )


def _tfds_records(builder: Any, decoders: Any) -> Any:
    """Return the examples as a `tf.data.Dataset`, always in the same order."""
    tfds = decode.tensorflow_datasets()
    # Autocaching would keep what is read once in memory.
    config = tfds.ReadConfig(try_autocache=False)
    return builder.as_dataset(
        split="train", decoders=decoders, read_config=config, shuffle_files=False
    )


def _read_tfds(
    builder: Any, wanted: Collection[int], failed: dict[int, str]
) -> Iterator[tuple[int, bytes]]:
    del failed  # listing the photos has read every record
    if not wanted:
        return
    tf, tfds = decode.tensorflow(), decode.tensorflow_datasets()
    is_wanted = np.zeros(max(wanted) + 1, np.bool_)
    is_wanted[list(wanted)] = True
    is_wanted = tf.constant(is_wanted)
    records = _tfds_records(builder, {"image": tfds.decode.SkipDecoding()})
    numbered = records.take(len(is_wanted)).enumerate()
    for index, record in numbered.filter(lambda index, _: is_wanted[index]).as_numpy_iterator():
        yield int(index), record["image"]


def _download_filtered(folder: Path) -> Path:
    path = folder / _FILTERED_URL.rpartition("/")[2]
    return fetch(_FILTERED_URL, path, _check_every_entry)


def _check_every_entry(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")


@contextlib.contextmanager
def _open_tree(path: Path) -> Iterator[_Tree]:
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


def _tree_source(root: _Tree) -> _Source:
    try:
        pools = _find_pools(root)
        stamps = {
            pool: [
                (name, picture.name, *_stamp(picture))
                for name, pictures in classes.items()
                for picture in pictures
            ]
            for pool, classes in pools.items()
        }
    except OSError as error:
        raise InputError(f"{root} cannot be listed: {error}") from error
    return _Source(stamps, functools.partial(_tree_photos, pools))


def _find_pools(root: _Tree) -> dict[str, dict[str, list[_Tree]]]:
    """Return the pictures of each class, under "all" or under the names of given splits."""
    folders = _folders(root)
    while len(folders) == 1 and not folders.keys() & set(_SPLIT_NAMES):
        (only,) = folders.values()
        if not _folders(only):
            break
        root, folders = only, _folders(only)  # the one folder that an archive wraps everything in
    named = [name for name in _SPLIT_NAMES if name in folders]
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


def _classes(folder: _Tree) -> dict[str, list[_Tree]]:
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


def _pictures(folder: _Tree) -> list[_Tree]:
    # Also a folder of such a name, or a pipe: it passes for a picture, so it is said to be none.
    return [child for child in _visible(folder) if child.suffix.lower() in _SUFFIXES]


def _visible(folder: _Tree) -> list[_Tree]:
    """Return what a folder holds, by name, less hidden files and those macOS adds to zips."""
    # A zip may hold a name twice, of which reading gives the last.
    children = {
        child.name: child
        for child in folder.iterdir()
        if not child.name.startswith(".") and child.name != "__MACOSX"
    }
    return [children[name] for name in sorted(children)]


def _stamp(picture: _Tree) -> tuple[int, int]:
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


def _tree_photos(pools: Mapping[str, Mapping[str, list[_Tree]]]) -> _Photos:
    class_names = tuple(next(iter(pools.values())))
    files: list[_Tree] = []
    names: list[str] = []
    labels: list[int] = []
    indices: dict[str, _Indices] = {}
    for pool, classes in pools.items():
        start = len(files)
        prefix = "" if pool == "all" else f"{pool}/"
        for label, class_name in enumerate(class_names):
            pictures = classes[class_name]
            files += pictures
            names += [f"{prefix}{class_name}/{picture.name}" for picture in pictures]
            labels += [label] * len(pictures)
        indices[pool] = np.arange(start, len(files))
    return _Photos(
        class_names=class_names,
        names=tuple(names),
        labels=np.array(labels, np.int32),
        pools=indices,
        fill=functools.partial(decode.decode_all, functools.partial(decode.read_files, files)),
    )


# The split: once, by seed, no overlap.


def _cut(photos: _Photos, source: _Source, request: _Request) -> dict[str, _Indices]:
    """Return which photos go into which split, in what order."""
    ordered = {
        name: pool[_balanced_order(photos.labels[pool], request.seed)]
        for name, pool in photos.pools.items()
    }
    if "all" in ordered:
        pools, sizes = _cut_one_pool(ordered["all"], request.sizes or source.sizes)
    else:
        pools, sizes = _cut_given_pools(ordered, request.sizes)
    for name, size in zip(_SPLIT_NAMES, sizes, strict=True):
        if size > len(pools[name]):
            raise InputError(
                f"the {name} split was to hold {size} photos, but {request.source} has only "
                f"{len(pools[name])} left for it: give smaller sizes"
            )
        if size == 0 and name != "test":
            raise InputError(
                f"{request.source} holds {len(photos.names)} photos, too few to leave any "
                f"for the {name} split: add photos, or give sizes"
            )
    return {name: pools[name][:size] for name, size in zip(_SPLIT_NAMES, sizes, strict=True)}


def _balanced_order(labels: _Labels, seed: int) -> _Indices:
    """Return a random order, every beginning of which has the proportions of the whole."""
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(rank, kind="stable")


def _cut_one_pool(pool: _Indices, sizes: _Sizes | None) -> tuple[dict[str, _Indices], _Sizes]:
    if sizes is None:
        validation, test = len(pool) // 5, len(pool) // 10
        sizes = (len(pool) - validation - test, validation, test)
    train, validation, _ = sizes
    parts = np.split(pool, [train, train + validation])
    return dict(zip(_SPLIT_NAMES, parts, strict=True)), sizes


def _cut_given_pools(
    pools: Mapping[str, _Indices], sizes: _Sizes | None
) -> tuple[dict[str, _Indices], _Sizes]:
    train, validation, test = pools["train"], pools["validation"], pools.get("test")
    if test is None:
        batches = -(-len(validation) // _BLOG_BATCH)
        size = sizes[2] if sizes else batches // _BLOG_TEST_SHARE * _BLOG_BATCH
        test, validation = validation[:size], validation[size:]
    parts = {"train": train, "validation": validation, "test": test}
    return parts, sizes or (len(train), len(validation), len(test))


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
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        output, _ = process.communicate()
    lines = output.splitlines()
    if process.returncode or not lines:
        raise InputError(
            f"the process that was to read {request.source} ended with {process.returncode} "
            "(-9: killed, perhaps for want of memory): try again, or with fewer photos"
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise InputError(answer["error"])
    folder = Path(answer["folder"])
    return _open_cached(folder, request)


def _answer() -> None:
    """Be the other process: prepare what is asked for and print where it is, or what is wrong."""
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
    except KeyboardInterrupt:  # Ctrl-C goes to both processes; the other one will say so
        sys.exit(130)
    print(json.dumps(answer))


# The cache: <cache>/data/<key>/ with meta.json and two arrays for each split.


def _load_cached(source: _Source, request: _Request) -> Splits:
    """Open the prepared data in the cache, where they are put first if they are not there."""
    asked = [_FORMAT, source.identity, request.image_size, request.seed, request.sizes]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    folder = request.cache / "data" / key
    if not folder.is_dir():
        # That process, not this one, takes the lock.
        if source.is_encoded and not decode.tensorflow_is_imported():
            return _load_in_own_process(request)
        try:
            with _alone(folder):
                if not folder.is_dir():  # else it was what we have waited for
                    _prepare(folder, source, request)
        except OSError as error:
            raise InputError(
                f"the cache folder {request.cache} cannot be written ({first_line(error)}): "
                "set cache_dir or CATDOG_CACHE to another"
            ) from error
    return _open_cached(folder, request)


def _open_cached(folder: Path, request: _Request) -> Splits:
    # The same photos may have been prepared under another name.
    splits = _open_prepared(folder, _read_meta(folder))
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


def _prepare(folder: Path, source: _Source, request: _Request) -> None:
    """Decode the photos and write their arrays, all of them or nothing."""
    photos = source.photos()
    cut = _cut(photos, source, request)
    _check_space(folder.parent, sum(map(len, cut.values())), request.image_size)
    prefix = f"{_UNFINISHED}{folder.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        _write_prepared(unfinished, photos, cut, request)
        unfinished.rename(folder)


def _check_space(folder: Path, count: int, image_size: int) -> None:
    # Arrays are written through memory maps, and a full disk kills such a process without a word.
    needed = 2 * count * image_size**2 * 3  # decoded, then sorted into splits
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"preparing {count} photos takes {needed / 1e6:.0f} MB, but {folder} has "
            f"{free / 1e6:.0f} MB left: make room, or set cache_dir or CATDOG_CACHE to another"
        )


def _write_prepared(
    folder: Path, photos: _Photos, cut: Mapping[str, _Indices], request: _Request
) -> None:
    chosen = np.concatenate(list(cut.values()))
    shape = (request.image_size, request.image_size, 3)
    decoded = open_memmap(folder.parent / "decoded.npy", "w+", np.uint8, (len(chosen), *shape))
    failed = photos.fill(chosen, decoded)
    _check_not_most_failed(photos, chosen, failed, request)
    is_kept = ~np.isin(chosen, list(failed))
    names: dict[str, list[str]] = {}
    digests: dict[str, list[bytes]] = {}
    start = 0
    for split, indices in cut.items():
        rows = start + np.flatnonzero(is_kept[start : start + len(indices)])
        start += len(indices)
        kept = chosen[rows]
        _check_no_class_lost(split, photos, indices, kept, failed)
        images = open_memmap(folder / f"{split}_images.npy", "w+", np.uint8, (len(rows), *shape))
        np.take(decoded, rows, axis=0, out=images, mode="clip")  # "raise" would copy all first
        np.save(folder / f"{split}_labels.npy", photos.labels[kept])
        names[split] = [photos.names[index] for index in kept]
        digests[split] = [hashlib.sha256(decoded[row]).digest() for row in rows]
    meta = {
        "format": _FORMAT,
        "source": str(request.source),
        "image_size": request.image_size,
        "seed": request.seed,
        "sizes": request.sizes,
        "fingerprint": folder.name,
        "class_names": photos.class_names,
        "skipped": [[photos.names[index], failed[index]] for index in sorted(failed)],
        "shared": [dataclasses.astuple(shared) for shared in _find_shared(names, digests)],
        "names": names,
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def _find_shared(
    names: Mapping[str, list[str]], digests: Mapping[str, list[bytes]]
) -> Iterator[Shared]:
    seen: dict[bytes, tuple[str, str]] = {}
    for split in _SPLIT_NAMES:
        for name, digest in zip(names[split], digests[split], strict=True):
            other_split, other_name = seen.setdefault(digest, (split, name))
            if other_split != split:
                yield Shared(split, name, other_split, other_name)


def _check_not_most_failed(
    photos: _Photos, chosen: _Indices, failed: Mapping[int, str], request: _Request
) -> None:
    if 2 * len(failed) > len(chosen):
        first = min(failed)
        raise InputError(
            f"{len(failed)} of the {len(chosen)} photos of {request.source} cannot be read, the "
            f"first of them {photos.names[first]!r} ({failed[first]}): replace them, or see "
            "whether this is the source you meant"
        )


def _check_no_class_lost(
    split: str, photos: _Photos, indices: _Indices, kept: _Indices, failed: Mapping[int, str]
) -> None:
    lost = np.setdiff1d(photos.labels[indices], photos.labels[kept])
    if len(lost):
        members = indices[photos.labels[indices] == lost[0]]
        raise InputError(
            f"none of the {len(members)} photos of class {photos.class_names[lost[0]]!r} for "
            f"the {split} split could be read (the first, {photos.names[members[0]]}: "
            f"{failed[members[0]]}): replace them"
        )


def _load_prepared(folder: Path, request: _Request) -> Splits:
    """Open a prepared folder that was given as the source, if it is what was asked for."""
    meta = _read_meta(folder)
    splits = _open_prepared(folder, meta)
    if meta["image_size"] != request.image_size:
        raise InputError(
            f"{folder} was prepared with image_size {meta['image_size']}, "
            f"not {request.image_size}: ask for that, or give the photos as the source"
        )
    if request.sizes is not None and meta["sizes"] != list(request.sizes):
        raise InputError(
            f"{folder} was split when it was prepared, with sizes {meta['sizes'] or 'by default'}, "
            f"not {list(request.sizes)}: leave sizes out, or give the photos as the source"
        )
    return splits


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        version = meta["format"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{folder}: {_META} {_DAMAGED}") from error
    if version != _FORMAT:
        raise InputError(
            f"{folder} was prepared in format {version}, this version of catdog_jax reads "
            f"format {_FORMAT}: prepare the data again"
        )
    return meta


def _open_prepared(folder: Path, meta: Mapping[str, Any]) -> Splits:
    try:
        class_names = _texts(meta["class_names"])
        if len(set(class_names)) < len(class_names):
            raise ValueError(class_names)  # noqa: TRY301
        parts = {name: _open_split(folder, name, meta, class_names) for name in _SPLIT_NAMES}
        return Splits(
            **parts,
            class_names=class_names,
            source=str(meta["source"]),
            fingerprint=str(meta["fingerprint"]),
            folder=folder,
            skipped=tuple(Skipped(*_texts(entry)) for entry in meta["skipped"]),
            shared=tuple(Shared(*_texts(entry)) for entry in meta["shared"]),
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: {_META} {_DAMAGED}") from error


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(text) is str for text in value):
        raise TypeError("not a list of texts")
    return tuple(value)


def _open_split(
    folder: Path, name: str, meta: Mapping[str, Any], class_names: tuple[str, ...]
) -> Split:
    names = _texts(meta["names"][name])
    side = meta["image_size"]
    images = _open_array(folder / f"{name}_images.npy", np.uint8, (len(names), side, side, 3))
    labels = _open_array(folder / f"{name}_labels.npy", np.int32, (len(names),))
    if np.any((labels < 0) | (labels >= len(class_names))):
        raise InputError(f"{folder}: {name}_labels.npy {_DAMAGED}")
    return Split(images, labels, class_names, names)


def _open_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> Any:
    try:
        array = open_memmap(path, "r")
    except Exception as error:  # of a damaged header NumPy raises whatever it stumbles over
        raise InputError(f"{path.parent}: {path.name} {_DAMAGED}") from error
    if array.dtype != dtype or array.shape != shape:
        raise InputError(
            f"{path} holds {array.dtype}{list(array.shape)}, not {np.dtype(dtype)}{list(shape)}: "
            "delete the folder and prepare the data again"
        )
    return array
