"""Photos that look alike: copies in another size or encoding, which hashes of bytes or pixels miss.

Each photo becomes a grey thumbnail of 16×16, less its mean and scaled to length one. The product of
two is their correlation; copies are the pairs where it is above `ALIKE`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ..files import forget_pages
from .splits import ImageView, Split

ALIKE = 0.97
"""Among 21,000 photos of cats and dogs, copies had 0.995 and more, other pairs 0.93 and less."""

_SIDE = 16
_ROWS = 256  # photos at once


def thumbnails(images: np.ndarray | ImageView) -> Float32[np.ndarray, "n pixels"]:
    """A vector of length one for each photo; zero for one of an even grey."""
    vectors = np.zeros((len(images), _SIDE**2), np.float32)
    for start in range(0, len(images), _ROWS):
        vectors[start : start + _ROWS] = _thumbnails(np.asarray(images[start : start + _ROWS]))
        if isinstance(images, np.ndarray):  # a view does this itself
            forget_pages(images)
    return vectors


def groups_alike(photos: Float32[np.ndarray, "n pixels"]) -> list[list[int]]:
    """Groups of photos that look alike, by index, in the order of their first.

    20,000 photos take some seconds; the time grows with the square.
    """
    from scipy.sparse import coo_array  # a tenth of a second that decoded photos do without
    from scipy.sparse.csgraph import connected_components

    group_of = np.arange(len(photos))
    for start, correlations in _correlations(photos):
        alike = np.triu(correlations > ALIKE, 1)
        if alike.any():  # connected at once: there may be millions of pairs
            ends = tuple(group_of[start + part] for part in np.nonzero(alike))
            graph = coo_array((np.ones(len(ends[0])), ends), shape=(len(photos),) * 2)
            group_of = connected_components(graph, directed=False)[1][group_of]
    members: dict[int, list[int]] = {}
    for index, group in enumerate(group_of.tolist()):
        members.setdefault(group, []).append(index)
    return [group for group in members.values() if len(group) > 1]


class Copy(NamedTuple):
    """A photo that looks like one of another split, by name."""

    name: str
    original: str
    correlation: float


def without_copies(split: Split, of: Sequence[Split]) -> tuple[Split, list[Copy]]:
    """`split` without the photos that look like one in `of`, and what was left out.

    A photo's original is the one that it is most like.
    """
    names = [name for other in of for name in other.names]
    seen = np.concatenate([thumbnails(other.images) for other in of])
    photos, copies = thumbnails(split.images), {}
    for start, correlations in _correlations(photos, seen):
        for row, other in enumerate(correlations.argmax(axis=1).tolist()):
            if (correlation := float(correlations[row, other])) > ALIKE:
                index = start + row
                copies[index] = Copy(split.names[index], names[other], correlation)
    return split.take(np.setdiff1d(np.arange(len(split)), [*copies])), [*copies.values()]


def _correlations(
    photos: Float32[np.ndarray, "n pixels"], others: Float32[np.ndarray, "m pixels"] | None = None
) -> Iterator[tuple[int, Float32[np.ndarray, "rows columns"]]]:
    """Blocks of rows: the first photo's index, and the correlations of each with all `others`.

    Without `others`, with the photos from the first on: no pair is computed twice.
    """
    for start in range(0, len(photos), _ROWS):
        yield (
            start,
            photos[start : start + _ROWS] @ (photos[start:] if others is None else others).T,
        )


def _thumbnails(images: np.ndarray) -> Float32[np.ndarray, "n pixels"]:
    count, height, width, channels = images.shape
    # Means over the cells of a grid, as products of matrices: sums along the axes take ten times
    # as long.
    rows = images.reshape(count * height, width * channels).astype(np.float32)
    columns = rows @ np.repeat(_cells(width), channels, axis=0)
    cells = _cells(height).T @ columns.reshape(count, height, _SIDE)
    vectors = cells.reshape(count, -1) / channels
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # At a contrast below one grey level there is nothing to compare.
    return vectors / np.where(lengths > _SIDE, lengths, np.inf)


def _cells(size: int) -> Float32[np.ndarray, "size cells"]:
    """The share of each of `size` pixels in the mean of each cell."""
    pixels, edges = np.arange(size)[:, None], np.linspace(0, size, _SIDE + 1)
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return (overlap.clip(0) * (_SIDE / size)).astype(np.float32)
