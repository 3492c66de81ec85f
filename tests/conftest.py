"""Fixtures, and what is set up before JAX and TensorFlow start.

Both are imported late: the process that only hands tests to others loads this file, too.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from catdog_jax.data.splits import Split

ROOT = Path(__file__).parent.parent

# Several devices, as on the machines the package is for; also in processes that tests start.
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
# TFDS is read in the tests' own process; few tests are about the separate one.
os.environ["CATDOG_DECODE_HERE"] = "1"
# One compile cache for all tests and the processes that they start, kept for the next time.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_configure(config: pytest.Config) -> None:
    """In a process that runs tests."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import jax

    from catdog_jax.data import quiet_tensorflow
    from catdog_jax.training.mesh import processor

    quiet_tensorflow.tensorflow()
    programs = str(ROOT / ".pytest_cache/programs" / processor())
    programs = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
    jax.config.update("jax_compilation_cache_dir", programs)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photos and weights; tests that need it are skipped without it."""
    folder = Path(os.environ.get("CATDOG_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real photos or weights: {folder} is absent (set CATDOG_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data go to a folder of the test run's own."""
    os.environ["CATDOG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of ten megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=10m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def short_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MobileNetV2 of three blocks: the same code, compiled in a tenth of the time."""
    from catdog_jax.models import mobilenet_v2

    monkeypatch.setattr(mobilenet_v2, "ROWS", mobilenet_v2.ROWS[:2])


@pytest.fixture(scope="session")
def drawings() -> "Split":
    """Forty-two drawings of 32×32 pixels: a batch of 32 and a short one."""
    from catdog_jax.data import sketches
    from catdog_jax.data.splits import Split

    images, labels = sketches.draw(42, 32, seed=3)
    return Split(images, labels, sketches.CLASS_NAMES, tuple(map(str, range(42))))


_PAGES = ("catdog_jax.runs.report.write_run_page", "catdog_jax.runs.series.write_comparison_page")


@pytest.fixture(scope="session", autouse=True)
def _no_pages() -> Iterator[None]:
    """Runs and series write NO report.html in the tests, except in those that ask for `pages`.

    A page takes a second, and most tests that train are about something else.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in _PAGES:
            patch.setattr(name, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def pages(_no_pages: None) -> Iterator[None]:
    """Runs and series of this module write report.html, as they do for users."""
    from catdog_jax.runs.comparison_page import write_comparison_page
    from catdog_jax.runs.run_page import write_run_page

    with pytest.MonkeyPatch.context() as patch:
        for name, write in zip(_PAGES, (write_run_page, write_comparison_page), strict=True):
            patch.setattr(name, write)
        yield
