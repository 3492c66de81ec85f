"""A data set as it is used: its parts, and their photos batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from ..errors import InputError
from ..files import forget_pages

SPLIT_NAMES = ("train", "validation", "test")
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 4096
"""Least and most pixels of an image's side."""
MOST_PHOTOS = 10**6
"""Of one split: their names alone take 100 MB of memory."""

Images: TypeAlias = UInt8[np.ndarray, "n height width 3"]
Labels: TypeAlias = Int32[np.ndarray, " n"]
Indices: TypeAlias = Int64[np.ndarray, " n"]
Sizes: TypeAlias = tuple[int, int, int]


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

    images: Images
    labels: Labels
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
    order: Indices
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, not {self.batch_size}")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.order), self.batch_size):
            yield self._batch(self.order[start : start + self.batch_size])
            forget_pages(self.split.images)

    def _batch(self, rows: Indices) -> Batch:
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
      source: what was asked of `load_data`; of a prepared folder, when it was prepared.
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
