"""How photos reach the devices: all at once, to stay there, or batch by batch, read ahead."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ..data.splits import Split
from .mesh import replicate, shard

Item = TypeVar("Item")

# Of a device's free memory; the rest is for weights and activations.
_PHOTOS_SHARE = 0.5
_READ_AHEAD = 2
_STEPS_AHEAD = 8


def fit_on_devices(splits: Iterable[Split]) -> bool:
    """Whether these photos take no more than half of the free memory of a GPU or TPU.

    On a CPU "the device" is the host, and convolutions in a scan are slow: there they never do.
    """
    if jax.default_backend() == "cpu":
        return False
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if not all({"bytes_limit", "bytes_in_use"} <= set(stat) for stat in stats):
        return False
    free = min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats)
    needed = sum(int(np.prod(split.images.shape)) * split.images.dtype.itemsize for split in splits)
    return needed <= _PHOTOS_SHARE * free


def on_every_device(split: Split, mesh: Mesh) -> PyTree:
    """All photos and labels of a split, on every device of the mesh."""
    return replicate({"image": np.asarray(split.images), "label": split.labels}, mesh)


def stream(batches: Iterable[Mapping[str, Any]], mesh: Mesh) -> Iterator[PyTree]:
    """The batches cut over the mesh, one by one; the next ones are read meanwhile."""
    for batch in prefetch(batches):
        yield shard(dict(batch), mesh)


def settled(results: Iterable[Item]) -> Iterator[Item]:
    """The same results, each waited for once a few more are being computed.

    XLA lets a CPU device take on 32 programs, in no fixed order; a loop that runs far ahead of two
    CPU devices can deadlock in the all-reduce, so there the loop is one step ahead, no more. On
    other devices it is so far ahead that they never wait for it, but batches do not pile up.
    """
    ahead = 1 if jax.default_backend() == "cpu" else _STEPS_AHEAD
    pending: deque[Item] = deque()
    for result in results:
        pending.append(result)
        if len(pending) > ahead:
            yield jax.block_until_ready(pending.popleft())
    yield from map(jax.block_until_ready, pending)


def prefetch(items: Iterable[Item], depth: int = _READ_AHEAD) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them taken ahead of the caller.

    `items` is gone through in another thread, which ends with this iterator. What it raises is
    raised here, in its place.
    """
    iterator, end = iter(items), object()
    reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead = deque(reader.submit(next, iterator, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(reader.submit(next, iterator, end))
            yield item  # pyright: ignore[reportReturnType]
    finally:
        reader.shutdown(cancel_futures=True)
