"""Which photo goes into which split: by seed, without overlap, each by its own content."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from ..errors import InputError
from .splits import SPLIT_NAMES, Indices, Labels, Sizes

# The post holds back one fifth of the validation batches, of 32 photos each, as the test set.
_POST_BATCH = 32
_POST_TEST_SHARE = 5
# Draws at which validation and test begin: in a single pool (70, 20, 10 %), and in train/.
_BOUNDS, _TRAIN_BOUNDS = (0.7, 0.9), (0.8, 1.0)

_Draws: TypeAlias = Float64[np.ndarray, " photos"]


def split_indices(
    pools: Mapping[str, Indices],
    labels: Labels,
    digests: Sequence[str],
    sizes: Sizes | None,
    seed: int,
    source: str | Path,
) -> dict[str, Indices]:
    """The photos of each split, in order.

    A photo's draw is a hash of its content and the seed. Without sizes the draw alone decides the
    split, so that photos added later do not move others. With sizes, the photos of each class with
    the lowest draws are taken. Any prefix of a split has the class proportions of the whole.

    Args:
        pools: indices of photos: "all", or "train" and "validation" or "test" or both.
        labels: of all photos.
        digests: hashes of the content of all photos.
        sizes: of the splits; None for 70, 20 and 10 % of "all", or the given pools. A missing
            validation set is a fifth of "train", a missing test set a fifth of the batches of 32
            of "validation", as in the post.
        seed: of the draws.
        source: named in errors.

    Raises:
        InputError: there are too few photos.
    """
    draws = np.array([_draw(seed, digest) for digest in digests])
    if "all" not in pools:
        parts = _from_given_splits(pools, labels, draws, sizes)
    elif sizes is None:
        parts = _by_shares(pools["all"], labels, draws, _BOUNDS)
    else:
        pieces = np.split(_balanced(pools["all"], labels, draws), np.cumsum(sizes[:2]))
        parts = dict(zip(SPLIT_NAMES, pieces, strict=True))
    for name, size in zip(SPLIT_NAMES, sizes or (1, 1, 0), strict=True):
        if sizes and size > len(parts[name]):
            raise InputError(
                f"the {name} split was to hold {size} photos, but {source} has only "
                f"{len(parts[name])} left for it: give smaller sizes"
            )
        if len(parts[name]) < size:
            raise InputError(
                f"{source} holds {sum(map(len, pools.values()))} photos, too few to leave any "
                f"for the {name} split: add photos, or give sizes"
            )
        parts[name] = parts[name][: size if sizes else None]
    return parts


def _draw(seed: int, digest: str) -> float:
    """A number in [0, 1)."""
    content = hashlib.sha256(f"{seed} {digest}".encode()).digest()
    return int.from_bytes(content[:6], "big") / 2**48


def _balanced(pool: Indices, labels: Labels, draws: _Draws) -> Indices:
    """The pool sorted by draw, with the class proportions of the whole in any prefix."""
    rank = np.empty(len(pool))
    for label in np.unique(labels[pool]):
        members = np.flatnonzero(labels[pool] == label)
        members = members[np.argsort(draws[pool[members]], kind="stable")]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return pool[np.argsort(rank, kind="stable")]


def _by_shares(
    pool: Indices, labels: Labels, draws: _Draws, bounds: tuple[float, float]
) -> dict[str, Indices]:
    """Split by each photo's own draw.

    If by chance train or validation gets no photo of a small class, it gets the one with the
    nearest draw (and its copies), until photos added later fill the gap.
    """
    labels_in, draws_in = labels[pool], draws[pool]
    split = np.searchsorted(bounds, draws_in, side="right")
    for label in np.unique(labels_in):
        members = labels_in == label
        if not (members & (split == 0)).any():
            split[members & (draws_in == draws_in[members].min())] = 0
        if not (members & (split == 1)).any() and len(np.unique(draws_in[members])) > 1:
            in_test = members & (split == 2)
            lent = draws_in[in_test].min() if in_test.any() else draws_in[members].max()
            split[members & (draws_in == lent)] = 1
    return {
        name: _balanced(pool[split == number], labels, draws)
        for number, name in enumerate(SPLIT_NAMES)
    }


def _from_given_splits(
    pools: Mapping[str, Indices], labels: Labels, draws: _Draws, sizes: Sizes | None
) -> dict[str, Indices]:
    """The given pools; a missing split is held back from one of them."""
    parts = {name: _balanced(pool, labels, draws) for name, pool in pools.items()}
    if "validation" not in parts and sizes:
        parts["validation"], parts["train"] = np.split(parts["train"], [sizes[1]])
    elif "validation" not in parts:
        parts |= _by_shares(pools["train"], labels, draws, _TRAIN_BOUNDS) | {"test": parts["test"]}
    elif "test" not in parts:
        batches = -(-len(parts["validation"]) // _POST_BATCH)
        held_back = sizes[2] if sizes else batches // _POST_TEST_SHARE * _POST_BATCH
        parts["test"], parts["validation"] = np.split(parts["validation"], [held_back])
    return parts
