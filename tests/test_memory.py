"""What glibc's allocator is told."""

import ctypes
import subprocess
import sys

import pytest

# In a process of their own: the allocator's settings stay.
HOLES = """
import ctypes
from catdog_jax.training.memory import settle_memory, trim_memory

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
trim_memory()
print([place(2000) for _ in range(100)].count("small"))
"""


def test_settled_memory_has_no_small_holes_until_it_is_trimmed() -> None:
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    before, after, place_of_large, trimmed = done.stdout.split()
    assert int(before) > 0
    assert (int(after), place_of_large) == (0, "large")
    assert int(trimmed) > 0  # the holes are there again, for the next compilation
