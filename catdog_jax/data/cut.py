"""The cut into splits: once, by seed, without overlap."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError
from .sources import Photos
from .splits import SPLIT_NAMES, Indices, Labels, Sizes

# The blog holds back one fifth of the validation batches, of 32 photos each, as the test set.
_BLOG_BATCH = 32
_BLOG_TEST_SHARE = 5


def cut(photos: Photos, sizes: Sizes | None, seed: int, source: str | Path) -> dict[str, Indices]:
    """Return which photos go into which split, in what order.

    Raises:
      InputError: there are too few for these sizes, which names `source`.

    """
    ordered = {
        name: pool[_balanced_order(photos.labels[pool], seed)]
        for name, pool in photos.pools.items()
    }
    if "all" in ordered:
        pools, sizes = _cut_one_pool(ordered["all"], sizes)
    else:
        pools, sizes = _cut_given_pools(ordered, sizes)
    for name, size in zip(SPLIT_NAMES, sizes, strict=True):
        if size > len(pools[name]):
            raise InputError(
                f"the {name} split was to hold {size} photos, but {source} has only "
                f"{len(pools[name])} left for it: give smaller sizes"
            )
        if size == 0 and name != "test":
            raise InputError(
                f"{source} holds {len(photos.names)} photos, too few to leave any "
                f"for the {name} split: add photos, or give sizes"
            )
    return {name: pools[name][:size] for name, size in zip(SPLIT_NAMES, sizes, strict=True)}


def _balanced_order(labels: Labels, seed: int) -> Indices:
    """Return a random order, every beginning of which has the proportions of the whole."""
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(rank, kind="stable")


def _cut_one_pool(pool: Indices, sizes: Sizes | None) -> tuple[dict[str, Indices], Sizes]:
    if sizes is None:
        validation, test = len(pool) // 5, len(pool) // 10
        sizes = (len(pool) - validation - test, validation, test)
    train, validation, _ = sizes
    parts = np.split(pool, [train, train + validation])
    return dict(zip(SPLIT_NAMES, parts, strict=True)), sizes


def _cut_given_pools(
    pools: Mapping[str, Indices], sizes: Sizes | None
) -> tuple[dict[str, Indices], Sizes]:
    train, validation, test = pools["train"], pools["validation"], pools.get("test")
    if test is None:
        batches = -(-len(validation) // _BLOG_BATCH)
        size = sizes[2] if sizes else batches // _BLOG_TEST_SHARE * _BLOG_BATCH
        test, validation = validation[:size], validation[size:]
    parts = {"train": train, "validation": validation, "test": test}
    return parts, sizes or (len(train), len(validation), len(test))
