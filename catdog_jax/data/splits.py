"""Data sets in use: splits and their batches."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from types import EllipsisType
from typing import Any, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, Num, UInt8

from ..errors import InputError
from ..files import forget_pages

SPLIT_NAMES: tuple[str, str, str] = ("train", "validation", "test")
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 4096
"""Smallest and largest side of an image, in pixels."""
MOST_PHOTOS = 10**6
"""In one split: their names alone take 100 MB of memory."""

UInt8Images: TypeAlias = UInt8[np.ndarray, "images height width 3"]
Labels: TypeAlias = Int32[np.ndarray, " photos"]
SoftLabels: TypeAlias = Float[np.ndarray, "photos classes"]
Indices: TypeAlias = Int64[np.ndarray, " _chosen"]
Sizes: TypeAlias = tuple[int, int, int]


def checked_sizes(sizes: Any) -> Sizes:
    """The sizes of the three splits, as whole numbers in range.

    Raises:
        InputError: they are not.
    """
    try:
        train, validation, test = map(operator.index, sizes)
    except (TypeError, ValueError):
        train = validation = test = -1
    if min(train, validation) < 1 or test < 0 or max(train, validation, test) > MOST_PHOTOS:
        raise InputError(
            "sizes must be three whole numbers, of at least 1 photo to train on, 1 to validate on "
            f"and 0 to test on, and at most {MOST_PHOTOS}, not {sizes}"
        )
    return train, validation, test


class Batch(TypedDict):
    """A batch of fixed size; `mask` is False for photos that only fill it up."""

    image: Num[np.ndarray, "batch *pixels"]
    label: Num[np.ndarray, "batch ..."]
    mask: Bool[np.ndarray, " batch"]


class ImageView:
    """uint8[n, height, width, 3]: rows of a larger array, read when indexed.

    Like an array of these rows it can be indexed along its first axis and given to `np.asarray`; a
    memory-mapped array stays on disk.
    """

    def __init__(self, array: UInt8Images, index: Indices) -> None:
        self.array, self.index = array, index
        self.shape = (len(index), *array.shape[1:])
        self.dtype, self.ndim = array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | slice | EllipsisType | np.ndarray) -> np.ndarray:
        chosen = self.index[rows]
        images = np.array(self.array[chosen], copy=np.ndim(chosen) == 0 or None)
        forget_pages(self.array)
        return images

    def take(self, rows: Indices) -> "ImageView":
        """A view of the images at `rows`."""
        return ImageView(self.array, self.index[rows])

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __repr__(self) -> str:
        return f"ImageView({self.dtype}{list(self.shape)})"


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        images: `[n, height, width, channels]`, pixels 0…255; or features, `[n, features]`.
        labels: int32[n], indices into `class_names`; or the classes' probabilities, `[n, classes]`.
        class_names: in the order of the labels.
        names: the photos' names, relative to their source.
    """

    images: Num[np.ndarray, "n *pixels"] | ImageView
    labels: Labels | SoftLabels
    class_names: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        counts = ", ".join(f"{count} {name}" for name, count in class_counts(self).items())
        return (
            f"Split of {len(self)} images, {size} {self.images.dtype}:\n    {shorten(counts, 90)}"
        )

    def take(self, rows: Indices) -> "Split":
        """The photos at `rows`; those of a data set on disk stay there."""
        images = self.images
        chosen = images[rows] if isinstance(images, np.ndarray) else images.take(rows)
        names = tuple(self.names[row] for row in rows.tolist())
        return replace(self, images=chosen, labels=self.labels[rows], names=names)

    def batches(self, batch_size: int = 32) -> "Batches":
        """All batches in order; the last one is filled up."""
        return Batches(self, np.arange(len(self)), batch_size)

    def shuffled(self, batch_size: int = 32, *, seed: int) -> Callable[[int], "Batches"]:
        """A function from an epoch's number to its batches, shuffled anew for each epoch.

        The order is `np.random.default_rng((seed, epoch)).permutation(n)`.
        """

        def batches_of_epoch(epoch: int) -> Batches:
            order = np.random.default_rng((seed, epoch)).permutation(len(self))
            return Batches(self, order, batch_size)

        return batches_of_epoch


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a split in a fixed order, for any number of loops.

    A short last batch is filled up with the first photos, masked False: real
    photos, so that batch normalization sees the statistics of photos.

    Attributes:
        split: holds the photos.
        order: indices of the photos, in order.
        batch_size: of every batch.
        part: which photos of each batch are read; the others are for other processes.

    Raises:
        InputError: `batch_size` is not positive.
    """

    split: Split
    order: Indices
    batch_size: int
    part: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, not {self.batch_size}")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def rows(self) -> tuple[Int64[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
        """The photos of each batch, and which of them count."""
        shape = len(self), self.batch_size
        rows = np.resize(self.order, shape)
        return rows, np.arange(rows.size).reshape(shape) < len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        all_rows, masks = self.rows()
        for rows, mask in zip(all_rows[:, self.part], masks[:, self.part], strict=True):
            yield Batch(image=self.split.images[rows], label=self.split.labels[rows], mask=mask)
            if isinstance(self.split.images, np.ndarray):  # a view does this itself
                forget_pages(self.split.images)


@dataclass(frozen=True)
class Skipped:
    """A photo that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Shared:
    """A photo that is also in an earlier split: it looks the same.

    Attributes:
        split: validation or test.
        name: of the photo in it.
        other_split: the first split that has the photo.
        other_name: of the photo in that one.
    """

    split: str
    name: str
    other_split: str
    other_name: str


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, divided once into parts without overlap.

    Attributes:
        train: to train on.
        validation: to compare epochs by.
        test: to judge the final model by; may be empty if there are few photos.
        class_names: in the order of the labels.
        source: the source given to `load_data`.
        fingerprint: of the content of all photos, split or not.
        folder: of the decoded photos; itself a source for `load_data`.
        skipped: photos that could not be read.
        shared: photos in more than one split.
        passed_over: how many files of each kind were passed over.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    folder: Path | None = None
    skipped: tuple[Skipped, ...] = ()
    shared: tuple[Shared, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, name))} {name}" for name in SPLIT_NAMES)
        classes = shorten(", ".join(self.class_names), 80)
        return f"Splits of {self.source}: {sizes}\n    classes: {classes}"


def hard_labels(split: Split) -> Labels:
    """The class of each photo; of soft labels, the most probable one."""
    labels = split.labels.argmax(axis=1) if split.labels.ndim == 2 else split.labels
    return labels.astype(np.int32, copy=False)


def class_counts(split: Split) -> dict[str, int]:
    """The number of photos of each class."""
    counts = np.bincount(hard_labels(split).astype(int), minlength=len(split.class_names))
    return dict(zip(split.class_names, counts.tolist(), strict=True))


def majority_baseline(split: Split) -> float:
    """The accuracy of always predicting the largest class, in 0…1.

    Raises:
        InputError: the split is empty.
    """
    if len(split) == 0:
        raise InputError("an empty split has no majority class: give a split with photos")
    return max(class_counts(split).values()) / len(split)
