import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catdog_jax.training import mesh as parallel


@pytest.mark.parametrize("size", [1, 3, 4, 32])
def test_parts_give_the_whole(size: int) -> None:
    batch = {"x": np.arange(2.0 * size, dtype=np.float32).reshape(size, 2)}
    weight = jnp.array([1.0, 10.0])

    def rows(weight: Any, part: Any) -> Any:
        return part["x"] @ weight

    mapped = jax.jit(lambda w, b: parallel.map_batch(rows, w, b))
    summed = jax.jit(lambda w, b: parallel.sum_batch(lambda w, b: rows(w, b).sum(), w, b))
    placed = parallel.replicate(weight, batch), parallel.shard(batch)
    np.testing.assert_allclose(mapped(*placed), batch["x"] @ weight)
    np.testing.assert_allclose(summed(*placed), (batch["x"] @ weight).sum())


def test_a_batch_is_cut_over_as_many_devices_as_divide_it() -> None:
    assert jax.device_count() == 4
    for size, devices in ((32, 4), (6, 3), (5, 1), (2, 2)):
        assert len(parallel.shard(np.zeros(size)).sharding.device_set) == devices


def test_the_number_of_cpu_devices_is_left_alone_once_jax_has_started() -> None:
    before = jax.device_count()
    parallel.use_cpu_cores()
    assert jax.device_count() == before


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    parallel._compiler_options.cache_clear()
    assert parallel._compiler_options() == parallel._CPU_OPTIONS
    monkeypatch.setattr(parallel, "_CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    parallel._compiler_options.cache_clear()
    assert parallel._compiler_options() is None
    parallel._compiler_options.cache_clear()


def test_compiled_programs_are_kept_for_the_next_process(tmp_path: Path) -> None:
    """The second process finds in the cache all that the first put there, and adds nothing."""
    script = (
        "from catdog_jax.training.mesh import set_up_jax; set_up_jax()\n"
        "import jax; jax.jit(lambda x: x + 41)(1)"
    )
    variables = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    kept = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", script],
            env=variables | {"CATDOG_CACHE": str(tmp_path)},
            check=True,
        )
        kept.append({path.name for path in (tmp_path / "programs").rglob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]


def test_a_compilation_cache_that_jax_has_already_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    try:
        parallel.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")  # pyright: ignore[reportAttributeAccessIssue]
        assert not (tmp_path / "programs").exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
