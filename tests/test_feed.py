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

from catdog_jax.data.arrays import as_split
from catdog_jax.data.splits import Split
from catdog_jax.training import feed
from catdog_jax.training.feed import prefetch, stream
from catdog_jax.training.mesh import data_mesh


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


def test_an_error_of_the_reader_is_raised_in_its_place() -> None:
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


def test_a_batch_is_cut_over_the_devices(drawings: Split) -> None:
    placed = list(stream(drawings.batches(8), data_mesh(8)))
    for batch, expected in zip(placed, drawings.batches(8), strict=True):
        assert len(batch["image"].sharding.device_set) == 4
        for name in ("image", "label", "mask"):
            np.testing.assert_array_equal(batch[name], expected[name])


def test_two_arrays_are_a_split() -> None:
    images = np.zeros((3, 4, 5, 3), np.float32)
    split = as_split((images, [2, 0, 1]))
    assert split.class_names == ("0", "1", "2")
    assert len(split) == 3
    assert as_split((images, np.eye(4)[:3])).class_names == ("0", "1", "2", "3")
    assert as_split(split) is split


def gpus(
    monkeypatch: pytest.MonkeyPatch, *stats: dict[str, int] | None, platform: str = "gpu"
) -> None:
    fakes = [SimpleNamespace(memory_stats=lambda stat=stat: stat) for stat in stats]
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_devices", lambda: fakes)


@pytest.mark.parametrize(("spare", "fit"), [(0, True), (-1, False)])
@pytest.mark.parametrize(("platform", "parts"), [("gpu", 2), ("tpu", 4)])
def test_photos_stay_on_devices_if_they_fill_at_most_half_the_free_memory(
    platform: str,
    parts: int,
    spare: int,
    fit: bool,
    drawings: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quarter of a TPU's, whose programs may keep them twice."""
    needed = 2 * np.asarray(drawings.images).nbytes  # for training and validation
    full = {"bytes_limit": parts * needed + spare + 10, "bytes_in_use": 10}
    gpus(monkeypatch, {"bytes_limit": 9 * needed, "bytes_in_use": 0}, full, platform=platform)
    assert feed.photos_fit_in_memory((drawings, drawings)) == fit


@pytest.mark.parametrize("silent", [None, {}, {"bytes_in_use": 1}])
def test_photos_are_streamed_if_the_free_memory_is_unknown(
    silent: dict[str, int] | None, drawings: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, {"bytes_limit": 10**12, "bytes_in_use": 0}, silent)
    assert not feed.photos_fit_in_memory([drawings])


def test_photos_are_streamed_on_a_cpu(drawings: Split) -> None:
    assert not feed.photos_fit_in_memory([drawings])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_training_from_a_large_file_takes_no_more_memory_than_from_a_small_one(
    tmp_path: Path,
) -> None:
    """Slow: two epochs over a file of more than a gigabyte."""
    code = f"""
import numpy as np, catdog_jax as cd
from flax import nnx
from catdog_jax.data.splits import Split

class Linear(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    def __call__(self, images):
        return self.linear(images[:, ::8, ::8].mean(axis=(1, 2)))

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

# A sparse file, which takes no space on disk.
images = np.memmap({str(tmp_path / "images")!r}, np.uint8, "w+", shape=(25_000, 128, 128, 3))
split = Split(images, np.arange(25_000, dtype=np.int32) % 2, ("a", "b"), ())
seen = []
for _ in cd.fit(
    Linear(), split, split, batch_size=100, epochs=2,
    on_step=lambda epoch, sums: seen.append(resident()),
):
    seen.append(resident())
print(images.nbytes, seen[2], max(seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, early, most = map(int, done.stdout.split())
    assert size > 1.2e9
    assert most - early < size / 4  # malloc keeps a few batches for each thread
