"""How a batch is spread: over the devices, and on a CPU over microbatches.

One mesh axis, `data`: the cores of a laptop (as JAX CPU devices) and the GPUs or TPU cores of a
host are the same path. Arrays are placed before a jitted step (`replicate`, `shard`), so that it
is compiled once; inside it `map_batch` and `sum_batch` cut the batch.
"""

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

# On a CPU a whole batch's activations overflow the caches; those of two images do not.
CPU_MICROBATCH = 2

_MAX_CPU_DEVICES = 16

Result = TypeVar("Result")


def use_cpu_cores() -> None:
    """Let JAX see each CPU core (up to 16) as a device.

    Call it before JAX starts: later, or where `jax_num_cpu_devices` is set already, it does
    nothing. GPUs and TPUs are not concerned.
    """
    if jax.config.jax_num_cpu_devices != -1:  # pyright: ignore[reportAttributeAccessIssue]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Once it has devices JAX refuses to change their number; a caller's own choice then stands.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(cores or 1, _MAX_CPU_DEVICES))


def replicate(tree: PyTree, batch: PyTree) -> PyTree:
    """`tree` on every device that `batch` will be cut over; nothing moves if it is there."""
    return jax.device_put(tree, NamedSharding(_mesh(batch), PartitionSpec()))


def shard(batch: PyTree) -> PyTree:
    """`batch` cut over the devices along its first axis."""
    return jax.device_put(batch, NamedSharding(_mesh(batch), PartitionSpec("data")))


def take(replicated: PyTree, rows: Int[Array, " batch"]) -> PyTree:
    """The batch of these rows of arrays that every device has, cut over the devices."""
    # Each device then fetches its own part of the batch, and no other.
    rows = lax.with_sharding_constraint(rows, NamedSharding(_mesh(rows), PartitionSpec("data")))
    return jax.tree.map(lambda array: array[rows], replicated)


def map_batch(
    function: Callable[[PyTree, PyTree], Result], replicated: PyTree, batch: PyTree
) -> Result:
    """`function(replicated, batch)`, computed in parts along the batch's first axis.

    `function` must treat each example alone.
    """
    part = _microbatch_size(batch)

    def on_device(replicated: PyTree, shard: PyTree) -> PyTree:
        size = _batch_size(shard)
        if size <= part:
            return function(replicated, shard)
        parts = jax.tree.map(lambda x: x.reshape(size // part, part, *x.shape[1:]), shard)
        outputs = lax.map(lambda examples: function(replicated, examples), parts)
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), outputs)

    spec = PartitionSpec("data")
    return _on_all_devices(on_device, batch, spec)(replicated, batch)


def sum_batch(
    function: Callable[[PyTree, PyTree], Result], replicated: PyTree, batch: PyTree
) -> Result:
    """The sum of `function(replicated, part)` over parts of the batch along its first axis.

    For results that are sums over examples: gradients, losses, counts.
    """
    part = _microbatch_size(batch)

    def on_device(replicated: PyTree, shard: PyTree) -> PyTree:
        size = _batch_size(shard)
        if size <= part:
            return lax.psum(function(replicated, shard), "data")
        parts = jax.tree.map(lambda x: x.reshape(size // part, part, *x.shape[1:]), shard)
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, replicated, first)
        )

        def add(total: PyTree, examples: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, function(replicated, examples)), None

        return lax.psum(lax.scan(add, zeros, parts)[0], "data")

    return _on_all_devices(on_device, batch, PartitionSpec())(replicated, batch)


def _on_all_devices(
    function: Callable[[PyTree, PyTree], PyTree], batch: PyTree, out: PartitionSpec
) -> Callable[[PyTree, PyTree], PyTree]:
    return jax.shard_map(
        function,
        mesh=_mesh(batch),
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=out,
        check_vma=False,
    )


def _mesh(batch: PyTree) -> Mesh:
    return Mesh(np.array(jax.devices()[: _device_count(batch)]), ("data",))


def _device_count(batch: PyTree) -> int:
    """As many devices as cut the batch evenly."""
    size = _batch_size(batch)
    return max(n for n in range(1, jax.device_count() + 1) if size % n == 0)


def _microbatch_size(batch: PyTree) -> int:
    shard = _batch_size(batch) // _device_count(batch)
    if jax.default_backend() != "cpu":
        return shard
    return max(n for n in range(1, CPU_MICROBATCH + 1) if shard % n == 0)


def _batch_size(batch: PyTree) -> int:
    return jax.tree.leaves(batch)[0].shape[0]
