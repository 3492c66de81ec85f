from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catdog_jax import parallel


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
