"""NumPy arrays as data: checked and wrapped as splits."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError
from .splits import SPLIT_NAMES, Labels, SoftLabels, Split, Splits

_LOGGER = logging.getLogger(__name__)

Arrays: TypeAlias = tuple[Any, Any]
"""Images `[n, height, width, channels]`, pixels 0…255, and labels: int `[n]`, or `[n, classes]`."""


def splits_from_arrays(
    train: Arrays,
    validation: Arrays,
    test: Arrays | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Splits:
    """A data set of NumPy arrays, of any size and number of classes.

    Args:
        train: images `[n, height, width, channels]`, pixels 0…255, and labels: int `[n]`, or
            probabilities `[n, classes]`.
        validation: as `train`.
        test: as `train`, or None.
        class_names: in the order of the labels; by default their numbers.

    Raises:
        InputError: shapes or labels do not fit each other.
    """
    given = {"train": train, "validation": validation, "test": test}
    arrays = {name: _checked(pair, name) for name, pair in given.items() if pair is not None}
    images, labels = arrays["train"]
    arrays.setdefault("test", (images[:0], labels[:0]))
    for name in ("train", "validation"):
        if not len(arrays[name][1]):
            raise InputError(f"{name} holds no images")
    shapes = {images.shape[1:] for images, _ in arrays.values()}
    if len(shapes) > 1:
        raise InputError(f"the images must be of one shape, not {' and '.join(map(str, shapes))}")
    numbers = max(_class_number(labels) for _, labels in arrays.values())
    names = tuple(map(str, range(numbers) if class_names is None else class_names))
    for name, (_, labels) in arrays.items():
        if labels.ndim == 2 and labels.shape[1] != len(names):
            raise InputError(
                f"{name} labels have {labels.shape[1]} columns for {len(names)} classes"
            )
        if labels.ndim == 1 and _class_number(labels) > len(names):
            raise InputError(f"{name} labels go to {labels.max()}, with {len(names)} class_names")
    digest = hashlib.sha256()
    for pair in arrays.values():
        for array in pair:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    splits = (
        Split(*arrays[name], names, tuple(f"{name}/{i}" for i in range(len(arrays[name][1]))))
        for name in SPLIT_NAMES
    )
    return Splits(*splits, class_names=names, source="arrays", fingerprint=digest.hexdigest())


def as_split(data: Split | Arrays, name: str = "data") -> Split:
    """`data` if it is a split, else a split of the two arrays; class names are their numbers.

    Errors call the arrays `name`.

    Raises:
        InputError: shapes or labels do not fit each other.
    """
    if isinstance(data, Split):
        return data
    images, labels = _checked(data, name)
    classes = tuple(map(str, range(_class_number(labels))))
    return Split(images, labels, classes, tuple(map(str, range(len(images)))))


def unlabelled(images: Any) -> Split:
    """A split of images without labels (all labels are 0).

    Raises:
        InputError: they are not images.
    """
    return as_split((images, np.zeros(len(images), np.int32)))


def _checked(pair: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        images, labels = map(np.asarray, pair)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be two arrays, (images, labels)") from error
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise InputError(
            f"{name} images must be numbers [n, height, width, channels], "
            f"not {images.dtype}{list(images.shape)}"
        )
    is_hard = labels.dtype.kind in "ui" and labels.ndim == 1
    if not is_hard and not (labels.dtype.kind == "f" and labels.ndim == 2):
        raise InputError(
            f"{name} labels must be whole numbers [n] or probabilities [n, classes], "
            f"not {labels.dtype}{list(labels.shape)}"
        )
    if len(images) != len(labels):
        raise InputError(f"{name} has {len(images)} images, but {len(labels)} labels")
    if images.dtype.kind == "f" and images.size:
        largest = images.max()
        if not np.isfinite(largest) or not np.isfinite(images.min()):
            raise InputError(f"{name} images must be finite")
        if 0 < largest <= 1:
            _LOGGER.warning("%s images are at most %g; models expect pixels 0…255", name, largest)
    if not (np.isfinite(labels) & (labels >= 0)).all():
        raise InputError(f"{name} labels must be 0 or more")
    return images, labels.astype(np.int32 if is_hard else np.float32)


def _class_number(labels: Labels | SoftLabels) -> int:
    return labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=-1)) + 1
