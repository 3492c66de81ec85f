"""The process's memory: how glibc's allocator is told what training needs, and the peak."""

import contextlib
import ctypes
import sys
from functools import cache
from typing import Any

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h
_HOLES = [2**power + 32 for power in range(27, 9, -1)]  # 1,024 bytes a thread would keep for itself
_LARGE = 2**20  # a hole of a megabyte is of use to a step
_fillings: list[int] = []  # addresses


@cache
def _glibc() -> Any:
    """The C library, with the types of what is called here, or None if it is not glibc."""
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes = libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


def share_one_arena() -> None:
    """Let all threads share one pool of memory, so that what a step frees is there for the next.

    Does nothing without glibc, as the others here.
    """
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)


def trim_memory() -> None:
    """Return to the system what is free now."""
    if libc := _glibc():
        while _fillings:
            libc.free(_fillings.pop())
        libc.malloc_trim(0)


def settle_memory() -> None:
    """Make the allocator fast for training. Called when programs have just been compiled.

    - What the compiler freed, a quarter of a gigabyte, is returned to the system.
    - What steps free is kept from now on. Otherwise it is returned each time, and the system clears
      it page by page when the next step needs it: a quarter of a step of model 3.
    - The compiler leaves up to 86,000 small holes in the heap. Each allocation of a step walked
      through lists of them, and locked out the other threads meanwhile: a step of model 3 on two
      cores took 118 instead of 97 ms, a fine-tuning step of MobileNetV2 496 instead of 356. So the
      holes are filled until `trim_memory`, which takes 20 to 230 ms. Their pages have gone back to
      the system before, but for those that they share with what is in use.
    """
    trim_memory()
    if libc := _glibc():
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        _fill_holes(libc)


def _fill_holes(libc: Any) -> None:
    end_of_heap, large = libc.sbrk(0), []
    for size in _HOLES:
        pieces = large if size >= _LARGE else _fillings
        # malloc takes the smallest hole that is large enough, and enlarges the heap if there is
        # none: at its end, so that this loop ends, too.
        while (piece := libc.malloc(size)) and piece + size <= end_of_heap:
            pieces.append(piece)
        libc.free(piece)
    for piece in large:
        libc.free(piece)


def peak_memory() -> dict[str, int]:
    """The most memory used so far, in bytes: `process`, and `device` where JAX counts it."""
    found = {}
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    of_devices = [device.memory_stats() or {} for device in jax.local_devices()]
    if peaks := [
        stats["peak_bytes_in_use"] for stats in of_devices if "peak_bytes_in_use" in stats
    ]:
        found["device"] = max(peaks)
    return found
