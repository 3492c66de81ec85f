"""What glibc's allocator is told."""

import ctypes
import subprocess
import sys

import pytest

# In a process of their own: the allocator's settings stay.
HOLES = """
import ctypes
from catdog_jax.training.memory import settle_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.mallopt(-4, 0)  # M_MMAP_MAX: the large piece is in the heap as well
pieces = [libc.malloc(3000) for _ in range(20_000)]
large = libc.malloc(2**26)
end = libc.malloc(3000)
for piece in [*pieces[::2], large]:
    libc.free(piece)

def place(size):
    address = libc.malloc(size)
    return "small" if pieces[0] <= address < large else "large" if large <= address < end else "new"

before = [place(2000) for _ in range(100)]
settle_memory()
after = [place(2000) for _ in range(100)]
print(before.count("small"), after.count("small"), place(2**25))
"""


def test_settled_memory_has_no_small_holes_and_keeps_large_ones() -> None:
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    before, after, place_of_large = done.stdout.split()
    assert int(before) > 0
    assert (int(after), place_of_large) == (0, "large")


# As often as a series of runs would do it.
AGAIN = """
import resource
from catdog_jax.training.memory import settle_memory

settle_memory()
size = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
first = size()
for _ in range(20):
    settle_memory()
print(size() - first)
"""


def test_memory_settled_again_and_again_does_not_grow() -> None:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**27
