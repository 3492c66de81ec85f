"""How photos reach the devices: all at once, to stay there, or batch by batch, read ahead."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int32, PyTree

from .mesh import replicate

Batch = Mapping[str, Any]
Item = TypeVar("Item")

# Of a device's free memory; the rest is for weights and activations.
_PHOTOS_SHARE = 0.5
_READ_AHEAD = 2


@runtime_checkable
class Rows(Protocol):
    """Batches of a split's photos in a certain order, as `Split.batches` and `shuffled` give."""

    split: Any
    """Has `images`, uint8 `[photos, height, width, 3]`, and `labels`, int32 `[photos]`."""
    order: Any
    batch_size: int

    def __iter__(self) -> Iterator[Any]:
        """The same batches, read from the host's memory or disk."""
        ...


@dataclass(frozen=True)
class Resident:
    """Batches whose photos are on the devices, so that one program goes through all of them."""

    photos: PyTree
    """`image` uint8 `[photos, height, width, 3]` and `label` int32 `[photos]`, on every device."""
    rows: Int32[np.ndarray, "steps batch"]
    """Which photos are a step's batch; -1 is padding."""


class Shelf:
    """Keeps the photos of one split on the devices for as long as batches of it are asked for.

    Args:
        on_device: True to keep them there, False to leave them where they are, None to keep them
            on an accelerator with memory to spare.
    """

    def __init__(self, on_device: bool | None) -> None:
        self._on_device = on_device
        self._split: Any = None
        self._photos: PyTree = None

    def place(self, batches: Iterable[Batch]) -> Resident | Iterable[Batch]:
        """`batches` over photos kept on the devices, or `batches` itself.

        Itself: where it is no `Rows` or is empty, where `on_device` is False, and where that is
        None and the photos would not fit or JAX runs on a CPU. The photos of another split, kept
        before, are let go. A split's arrays must not change while it is used.
        """
        if self._on_device is False or not isinstance(batches, Rows) or not len(batches.order):
            return batches
        rows = _rows(batches)
        if batches.split is not self._split:
            self._photos = None  # first: both splits might not fit
            self._split = batches.split
            photos = {"image": batches.split.images, "label": batches.split.labels}
            if self._on_device or _fit(photos):
                self._photos = replicate(photos, rows[0])
        return batches if self._photos is None else Resident(self._photos, rows)


def free_bytes() -> int | None:
    """Free memory of the fullest device; None on a CPU or where the platform does not tell.

    On a CPU "the device" is the host, and the convolutions of models 1 to 3 are slow in a scan.
    """
    if jax.default_backend() == "cpu":
        return None
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if not all({"bytes_limit", "bytes_in_use"} <= set(stat) for stat in stats):
        return None
    return min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats)


def stream(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches one by one; photos of a split are read ahead, off the disk.

    Only those: another iterable may not bear to be gone through in another thread.
    """
    return prefetch(batches) if isinstance(batches, Rows) else iter(batches)


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


def _rows(batches: Rows) -> Int32[np.ndarray, "steps batch"]:
    size = batches.batch_size
    # By way of the photos' numbers: an order may count from the end, and must not lie outside.
    order = np.arange(len(batches.split.labels), dtype=np.int32)[batches.order]
    steps = -(-len(order) // size)
    return np.pad(order, (0, steps * size - len(order)), constant_values=-1).reshape(steps, size)


def _fit(photos: Mapping[str, Any]) -> bool:
    free = free_bytes()
    needed = sum(array.nbytes for array in photos.values())
    return free is not None and needed <= _PHOTOS_SHARE * free
