import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from catdog_jax.data import decode, sketches
from catdog_jax.data.load import Split
from catdog_jax.models import mobilenet_v2
from catdog_jax.training.mesh import processor

# Where TensorFlow is imported photos are decoded in this process, not in one of their own for each
# of the tests, most of which are about something else.
decode.tensorflow()
os.environ["CATDOG_DECODE_HERE"] = "1"

# Before JAX starts, here and in the processes that tests start: several devices, as on the machines
# the package is for.
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
jax.config.update("jax_num_cpu_devices", 4)

# One compile cache for the tests, their processes and those they start: many train the same nets.
# The next run of the tests finds it, too.
ROOT = Path(__file__).parent.parent
_PROGRAMS = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache/programs" / processor())
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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
    monkeypatch.setattr(mobilenet_v2, "STAGES", mobilenet_v2.STAGES[:2])


@pytest.fixture(scope="session")
def drawings() -> Split:
    """Forty-two drawings of 32×32 pixels: a batch of 32 and a short one."""
    images, labels = sketches.draw(42, 32, seed=3)
    return Split(images, labels, sketches.CLASS_NAMES, tuple(map(str, np.arange(42))))
