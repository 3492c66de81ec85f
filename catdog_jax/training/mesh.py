"""How programs are compiled, and how a batch is spread over the devices.

One mesh axis, `data`: the cores of a laptop (as JAX CPU devices) and the GPUs or TPU cores of a
host are the same path. Before a jitted step `replicate` and `shard` place its arrays, so that it
is compiled once; inside it `map_batch` and `sum_batch` run a function on each device's part, and
`take` makes a batch of photos that are on every device.
"""

import contextlib
import ctypes
import hashlib
import os
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from ..cache import cache_folder

_MAX_CPU_DEVICES = 16

# jaxlib 0.10 to 0.12 hand convolutions on a CPU to a library (YNN) in which their gradients take up
# to three times as long as in XLA's own code. With this, only matrix products go there.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def jit(**options: Any) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator: `jax.jit(**options)`, compiled with what makes this platform fast.

    For whole programs: JAX takes no compiler options inside another `jax.jit`.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @cache  # not before the first call: asking for the platform starts JAX
        def jitted() -> Callable[Arguments, Result]:
            return jax.jit(function, compiler_options=_compiler_options(), **options)

        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return jitted()(*args, **kwargs)

        return call

    return decorate


@cache
def _compiler_options() -> dict[str, str] | None:
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS)()
    except jax.errors.JaxRuntimeError:  # an XLA that does not know the option
        return None
    return _CPU_OPTIONS


def set_up_jax() -> None:
    """What every run begins with: all CPU cores, and programs compiled once and kept."""
    use_cpu_cores()
    keep_compiled_programs()


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


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in the cache, for the next process.

    Where JAX has such a folder already (`JAX_COMPILATION_CACHE_DIR`), that one stays; where ours
    cannot be written to, nothing is kept. `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = cache_folder() / "programs" / _processor()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Building a model compiles many small programs: a second each time, all in all.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def give_back_freed_memory() -> None:
    """Give the system what this process has freed; where C's library is not glibc, do nothing.

    Once a program is compiled glibc keeps the compiler's memory, a quarter of a gigabyte, for it
    may be wanted again.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _processor() -> str:
    """A name for the processor's features, on Linux; the same for all processors elsewhere.

    A home folder may be shared by machines, and a program compiled for one processor may end in an
    illegal instruction on another.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def replicate(tree: PyTree, batch: PyTree) -> PyTree:
    """`tree` on every device that `batch` will be cut over; what is there already does not move."""
    sharding = NamedSharding(_mesh(batch), PartitionSpec())
    # To "move" model 4's 270 arrays to where they are took milliseconds in each step.
    return jax.tree.map(
        lambda leaf: (
            leaf if getattr(leaf, "sharding", None) == sharding else jax.device_put(leaf, sharding)
        ),
        tree,
    )


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
    return _on_all_devices(function, batch, PartitionSpec("data"))(replicated, batch)


def sum_batch(
    function: Callable[[PyTree, PyTree], Result], replicated: PyTree, batch: PyTree
) -> Result:
    """The sum of `function(replicated, part)` over parts of the batch along its first axis.

    For results that are sums over examples: gradients, losses, counts.
    """

    def on_device(replicated: PyTree, part: PyTree) -> PyTree:
        return lax.psum(function(replicated, part), "data")

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
    """As many devices as cut the batch evenly."""
    size = jax.tree.leaves(batch)[0].shape[0]
    count = max(n for n in range(1, jax.device_count() + 1) if size % n == 0)
    return Mesh(np.array(jax.devices()[:count]), ("data",))
