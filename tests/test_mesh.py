import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from catdog_jax.errors import InputError
from catdog_jax.training import mesh


@pytest.mark.parametrize(("batch_size", "count"), [(32, 4), (6, 3), (5, 1), (2, 2)])
def test_a_batch_is_cut_over_as_many_cpu_devices_as_divide_it(batch_size: int, count: int) -> None:
    assert jax.device_count() == 4
    placed = mesh.shard({"x": np.zeros((batch_size, 2))}, mesh.data_mesh(batch_size))
    assert {part.data.shape for part in placed["x"].addressable_shards} == {
        (batch_size // count, 2)
    }
    assert len(placed["x"].sharding.device_set) == count


def test_a_batch_that_leaves_accelerators_idle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert mesh.data_mesh(32).size == 4
    with pytest.raises(InputError, match=r"batch of 30 .* 4 devices; choose .* 28 or 32"):
        mesh.data_mesh(30)
    with pytest.raises(InputError, match="choose a batch size of 4"):
        mesh.data_mesh(3)


def test_a_few_images_are_padded_for_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mesh.even_batch(1) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [mesh.even_batch(n) for n in (1, 4, 30)] == [4, 4, 32]
    assert mesh.data_mesh(mesh.even_batch(1)).size == 4


def test_what_is_replicated_is_on_every_device() -> None:
    placed = mesh.replicate(np.arange(3), mesh.data_mesh(4))
    assert [part.data.tolist() for part in placed.addressable_shards] == [[0, 1, 2]] * 4


def test_programs_of_few_images_are_not_tuned_on_gpus() -> None:
    assert mesh._compiler_options("gpu", tuned=False) == {"xla_gpu_autotune_level": "0"}
    assert mesh._compiler_options("gpu", tuned=True) is None
    assert mesh._compiler_options("tpu", tuned=False) is None


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "_CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    mesh._knows_cpu_options.cache_clear()
    assert mesh.jit()(lambda x: x + 1)(1) == 2
    mesh._knows_cpu_options.cache_clear()


def printed_by(script: str, **variables: str) -> str:
    """What a process prints that has neither the tests' compile cache nor their devices."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_NUM_CPU_DEVICES")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", script]
    return subprocess.check_output(command, env=others | variables, text=True)


def test_each_cpu_core_is_a_device_and_programs_are_kept_for_the_next_process(
    tmp_path: Path,
) -> None:
    """The second process finds in the cache all that the first put there, and adds nothing."""
    script = (
        "from catdog_jax.training.mesh import set_up_jax; set_up_jax()\n"
        "import jax; jax.jit(lambda x: x + 41)(1); set_up_jax(); print(jax.device_count())"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kept = []
    for _ in range(2):
        assert int(printed_by(script, CATDOG_CACHE=str(tmp_path))) == min(cores or 1, 16)
        kept.append({path.name for path in (tmp_path / "programs").rglob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]


def test_cpu_cores_are_left_alone_once_jax_has_started() -> None:
    script = "import jax, catdog_jax; jax.devices(); catdog_jax.use_cpu_cores()"
    assert printed_by(f"{script}; print(jax.device_count())") == "1\n"


def test_an_existing_compilation_cache_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    try:
        mesh.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")  # pyright: ignore[reportAttributeAccessIssue]
        assert not (tmp_path / "programs").exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
