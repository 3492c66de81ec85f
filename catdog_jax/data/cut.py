"""The cut into splits: by seed, without overlap; each photo's place follows from its content."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ..errors import InputError
from .splits import SPLIT_NAMES, Indices, Labels, Sizes

# The blog holds back one fifth of the validation batches, of 32 photos each, as the test set.
_BLOG_BATCH = 32
_BLOG_TEST_SHARE = 5
# Of a pool without sizes: where validation and test begin.
_SHARES = (0.7, 0.9)


def cut(
    pools: Mapping[str, Indices],
    labels: Labels,
    digests: Sequence[str],
    sizes: Sizes | None,
    seed: int,
    source: str | Path,
) -> dict[str, Indices]:
    """Which photos go into which split, in what order.

    A photo's draw is a hash of its content and the seed. Without sizes it alone decides on the
    split, so that photos added later move no other; with sizes, those of each class with the lowest
    draws are taken. Every beginning of a split has the proportions of the whole.

    Args:
        pools: indices of photos: "all", or "train", "validation" and perhaps "test".
        labels: of all photos.
        digests: of the content of all photos.
        sizes: of the splits; None for 70, 20 and 10 % of "all", or the given pools.
        seed: of the draws.
        source: named in errors.

    Raises:
        InputError: there are too few photos.
    """
    draws = np.array([_draw(seed, digest) for digest in digests])
    if "all" in pools and sizes is None:
        of_pool = np.searchsorted(_SHARES, draws[pools["all"]], side="right")
        parts = {name: pools["all"][of_pool == i] for i, name in enumerate(SPLIT_NAMES)}
        parts = {name: _balanced(part, labels, draws) for name, part in parts.items()}
    else:
        ordered = {name: _balanced(pool, labels, draws) for name, pool in pools.items()}
        parts = _cut_pool(ordered["all"], sizes) if "all" in pools else _cut_given(ordered, sizes)
    for name, size in zip(SPLIT_NAMES, sizes or (1, 1, 0), strict=True):
        if sizes and size > len(parts[name]):
            raise InputError(
                f"the {name} split was to hold {size} photos, but {source} has only "
                f"{len(parts[name])} left for it: give smaller sizes"
            )
        if len(parts[name]) < min(size, 1):
            raise InputError(
                f"{source} holds {len(labels)} photos, too few to leave any "
                f"for the {name} split: add photos, or give sizes"
            )
    return {
        name: part if sizes is None else part[:size]
        for (name, part), size in zip(parts.items(), sizes or (0, 0, 0), strict=True)
    }


def _draw(seed: int, digest: str) -> float:
    """A number in [0, 1)."""
    content = hashlib.sha256(f"{seed} {digest}".encode()).digest()
    return int.from_bytes(content[:6], "big") / 2**48


def _balanced(pool: Indices, labels: Labels, draws: Float64[np.ndarray, " n"]) -> Indices:
    """The pool by its draws, every beginning of it in the proportions of the whole."""
    rank = np.empty(len(pool))
    for label in np.unique(labels[pool]):
        members = np.flatnonzero(labels[pool] == label)
        members = members[np.argsort(draws[pool[members]], kind="stable")]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return pool[np.argsort(rank, kind="stable")]


def _cut_pool(pool: Indices, sizes: Sizes | None) -> dict[str, Indices]:
    assert sizes is not None
    train, validation, _ = sizes
    return dict(zip(SPLIT_NAMES, np.split(pool, [train, train + validation]), strict=True))


def _cut_given(pools: Mapping[str, Indices], sizes: Sizes | None) -> dict[str, Indices]:
    validation, test = pools["validation"], pools.get("test")
    if test is None:
        batches = -(-len(validation) // _BLOG_BATCH)
        size = sizes[2] if sizes else batches // _BLOG_TEST_SHARE * _BLOG_BATCH
        test, validation = validation[:size], validation[size:]
    return {"train": pools["train"], "validation": validation, "test": test}
