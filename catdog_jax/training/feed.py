"""How photos reach the devices: all at once to stay there, or streamed with read-ahead."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ..data.splits import Batches, Split
from . import hosts
from .mesh import own_part, replicate, shard

Item = TypeVar("Item")

# Of a device's free memory; the rest is left for weights and activations. A TPU's program may keep
# photos a second time, as planes whose rows are padded to multiples of 128 pixels.
_PHOTOS_SHARE = 0.5
_PHOTOS_SHARE_TPU = 0.25
_READ_AHEAD = 2
_STEPS_AHEAD = 8


def photos_fit_in_memory(splits: Iterable[Split]) -> bool:
    """Whether these photos fit into half of the free memory of a GPU, or a quarter of a TPU's.

    Never on a CPU: its memory is the host's, and convolutions in a scan are slow there.
    """
    if jax.default_backend() == "cpu":
        return False
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    known = all({"bytes_limit", "bytes_in_use"} <= set(stat) for stat in stats)
    free = min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats) if known else 0
    needed = sum(int(np.prod(split.images.shape)) * split.images.dtype.itemsize for split in splits)
    share = _PHOTOS_SHARE_TPU if jax.default_backend() == "tpu" else _PHOTOS_SHARE
    return hosts.all_agree(needed <= share * free)


def on_every_device(split: Split, mesh: Mesh) -> PyTree:
    """All photos and labels of a split, on every device of the mesh."""
    return replicate({"image": np.asarray(split.images), "label": split.labels}, mesh)


def stream(batches: Batches, mesh: Mesh) -> Iterator[PyTree]:
    """The batches, sharded over the mesh; the next ones are read meanwhile.

    Each process reads only what its own devices need.
    """
    for batch in prefetch(replace(batches, part=own_part(batches.batch_size, mesh))):
        yield shard(dict(batch), mesh)


def limit_dispatch(results: Iterable[Item]) -> Iterator[Item]:
    """Yield each result when it is ready, with only a few more dispatched ahead.

    XLA lets a CPU device queue 32 programs and run them in any order, so a loop far ahead of two
    CPU devices can deadlock in the all-reduce: there it stays one step ahead. Elsewhere it stays
    far enough ahead that devices never wait, without batches piling up.
    """
    ahead = 1 if jax.default_backend() == "cpu" else _STEPS_AHEAD
    pending: deque[Item] = deque()
    for result in results:
        pending.append(result)
        if len(pending) > ahead:
            yield jax.block_until_ready(pending.popleft())
    yield from map(jax.block_until_ready, pending)


def prefetch(items: Iterable[Item], depth: int = _READ_AHEAD) -> Iterator[Item]:
    """The same items in order, read up to `depth` ahead of the caller.

    Another thread iterates over `items` and ends with this iterator. Its errors are raised here.
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
