import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from catdog_jax.data.load import Batches, Split
from catdog_jax.training import feed
from catdog_jax.training.feed import Resident, Shelf, prefetch, stream


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_what_is_read_ahead_comes_in_order_and_leaves_no_thread() -> None:
    assert list(prefetch(range(10))) == list(range(10))
    assert list(prefetch([])) == []
    assert not readers()


def test_no_more_is_read_ahead_than_asked_for() -> None:
    taken: list[int] = []
    ahead = prefetch((taken.append(i) or i for i in range(20)), depth=3)
    for item in range(5):
        assert next(ahead) == item
        for _ in range(200):
            if len(taken) == item + 4:
                break
            time.sleep(0.01)
        time.sleep(0.02)
        assert taken == list(range(item + 4))
    ahead.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_error_of_the_reader_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = prefetch(broken())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert not readers()


def test_leaving_early_ends_the_thread() -> None:
    for item in prefetch(iter(range(10**9))):
        assert readers()
        if item == 3:
            break
    gc.collect()
    assert not readers()


def test_only_batches_of_a_split_are_read_in_another_thread(drawings: Split) -> None:
    def threads() -> Iterator[dict[str, str]]:
        yield {"thread": threading.current_thread().name}

    assert next(stream(threads())) == {"thread": threading.current_thread().name}
    for batch, expected in zip(stream(drawings.batches(8)), drawings.batches(8), strict=True):
        np.testing.assert_array_equal(batch["image"], expected["image"])


def test_photos_go_to_the_devices_once_for_as_long_as_they_are_used(drawings: Split) -> None:
    shelf = Shelf(on_device=True)
    first, second = (shelf.place(drawings.shuffled(8, seed=0)(epoch)) for epoch in (0, 1))
    assert isinstance(first, Resident)
    assert isinstance(second, Resident)
    assert first.photos["image"] is second.photos["image"]
    assert len(first.photos["image"].devices()) == 4
    np.testing.assert_array_equal(first.photos["image"], drawings.images)
    order = np.random.default_rng((0, 1)).permutation(42)
    np.testing.assert_array_equal(second.rows.ravel(), [*order, *[-1] * 6])
    other = Split(drawings.images[:8], drawings.labels[:8], drawings.class_names, ())
    third = shelf.place(other.batches(8))
    assert isinstance(third, Resident)
    assert third.photos["image"].shape[0] == 8


def test_an_order_may_count_from_the_end_but_not_lie_outside(drawings: Split) -> None:
    placed = Shelf(on_device=True).place(Batches(drawings, np.array([-1, 0]), 2))
    assert isinstance(placed, Resident)
    assert placed.rows.tolist() == [[41, 0]]
    with pytest.raises(IndexError):
        Shelf(on_device=True).place(Batches(drawings, np.array([42]), 2))


@pytest.mark.parametrize(
    ("on_device", "spare", "resident"),
    [
        (None, 0, True),
        (None, -1, False),
        (True, -1, True),
        (False, 0, False),
    ],
)
def test_photos_stay_on_the_devices_where_they_take_half_of_the_free_memory_at_most(
    on_device: bool | None,
    spare: int,
    resident: bool,
    drawings: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = drawings.images.nbytes + drawings.labels.nbytes
    monkeypatch.setattr(feed, "free_bytes", lambda: 2 * needed + spare)
    placed = Shelf(on_device).place(drawings.batches(8))
    assert isinstance(placed, Resident) == resident


def test_a_cpu_streams_unless_told_otherwise(drawings: Split) -> None:
    assert feed.free_bytes() is None
    batches = drawings.batches(8)
    assert Shelf(None).place(batches) is batches


def test_free_memory_is_the_fullest_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(*stats: dict[str, int] | None) -> None:
        fakes = [SimpleNamespace(memory_stats=lambda stat=stat: stat) for stat in stats]
        monkeypatch.setattr(jax, "local_devices", lambda: fakes)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    empty, half = ({"bytes_limit": 100, "bytes_in_use": used} for used in (10, 50))
    devices(empty, half)
    assert feed.free_bytes() == 50
    for silent in (None, {}, {"bytes_in_use": 1}):
        devices(empty, silent)
        assert feed.free_bytes() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_training_from_a_large_file_takes_no_more_memory_than_from_a_small_one(
    tmp_path: Path,
) -> None:
    code = f"""
import numpy as np, catdog_jax as cd
from flax import nnx
from catdog_jax.data.splits import Split

class Linear(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    def __call__(self, images, keys=None):
        return self.linear(images[:, ::8, ::8].mean(axis=(1, 2)))

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

# Empty space on disk: it takes up none.
images = np.memmap({str(tmp_path / "images")!r}, np.uint8, "w+", shape=(25_000, 128, 128, 3))
split = Split(images, np.arange(25_000, dtype=np.int32) % 2, ("a", "b"), ())
seen = []
for _ in cd.fit(
    Linear(), split.shuffled(100, seed=0), split.batches(100), epochs=2,
    on_step=lambda epoch, sums: seen.append(resident()),
):
    seen.append(resident())
print(images.nbytes, seen[2], max(seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, early, most = map(int, done.stdout.split())
    assert size > 1.2e9
    assert most - early < size / 4  # what malloc keeps of a few batches for each thread
