"""The devices as a mesh of one axis, `data`, and how programs are compiled for them.

Batches are sharded over the mesh along their first axis, everything else is replicated (`shard`,
`replicate`), and `jit` partitions programs accordingly. CPU cores (as JAX devices), GPUs and TPU
cores all take the same path.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..cores import usable_cores
from ..errors import InputError
from ..files import cache_folder
from ..models.ops import platform
from . import hosts
from .memory import share_one_arena

_MAX_CPU_DEVICES = 16
_CACHE_BYTES = 2**30  # least recently used programs are deleted first

# jaxlib 0.10 to 0.12 leave CPU convolutions to a library (YNN) whose gradients take up to three
# times as long as XLA's own. This option sends it matrix products only.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_UNTUNED = {"xla_gpu_autotune_level": "0"}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def jit(
    *, tuned: bool = True, **options: Any
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator: `jax.jit(**options)` with what the mesh's platform needs.

    On CPUs that is a compiler option, and so only for whole programs (JAX refuses compiler options
    inside another `jax.jit`). On GPUs and TPUs, products of float32 arrays are computed in float32:
    JAX's default there rounds their factors to TF32 or bfloat16, and the same run would have
    another history. `jax_default_matmul_precision`, if it is set, overrides this.

    For GPUs, XLA times several algorithms for each convolution, which takes longer than the rest of
    compiling: on an H200, 10 of 12 s for heat maps of MobileNetV2. With `tuned=False` it does not,
    and the program is slower: for few images.

    The function has a `lower`, as that of `jax.jit`.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @cache
        def jitted(platform: str) -> Any:
            chosen = _compiler_options(platform, tuned=tuned)
            return jax.jit(function, compiler_options=chosen, **options)

        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            on = platform()  # not before: asking starts JAX
            with _float32_products(on):
                return jitted(on)(*args, **kwargs)

        def lower(*args: Arguments.args, **kwargs: Arguments.kwargs) -> jax.stages.Lowered:
            on = platform()
            with _float32_products(on):
                return jitted(on).lower(*args, **kwargs)

        vars(call)["lower"] = lower
        return call

    return decorate


def _float32_products(platform: str) -> contextlib.AbstractContextManager[Any]:
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if platform == "cpu" or chosen is not None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")


def _compiler_options(platform: str, *, tuned: bool) -> dict[str, str] | None:
    if platform == "cpu":
        return _CPU_OPTIONS if _knows_cpu_options() else None
    return _UNTUNED if platform == "gpu" and not tuned else None


@cache
def _knows_cpu_options() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def set_up_jax() -> None:
    """For the command line: use all CPU cores, and keep compiled programs."""
    use_cpu_cores()
    keep_compiled_programs()


def use_cpu_cores() -> None:
    """Let JAX see each CPU core (up to 16) as a device.

    Call it before JAX starts; afterwards, or if `jax_num_cpu_devices` is already set, it does
    nothing to JAX. It does not affect GPUs and TPUs.
    """
    share_one_arena()
    if jax.config.jax_num_cpu_devices != -1:  # pyright: ignore[reportAttributeAccessIssue]
        return
    # JAX refuses once it has devices; the caller's choice then stands.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(usable_cores(), _MAX_CPU_DEVICES))


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in the cache for the next process.

    A folder that JAX already has (`JAX_COMPILATION_CACHE_DIR`) is used instead. If ours cannot be
    written to, nothing is kept. `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = cache_folder() / "programs" / processor()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        # Building a model compiles many small programs, a second in total.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def processor() -> str:
    """A name for the processor's features on Linux; elsewhere always the same.

    Machines may share a home folder, and a program compiled for one processor can crash with an
    illegal instruction on another.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def data_mesh(batch_size: int) -> Mesh:
    """A mesh of all devices; on CPUs, of the largest number that divides `batch_size`.

    Raises:
        InputError: the number of GPUs, TPU cores or processes does not divide `batch_size`.
    """
    devices = hosts.devices()
    processes = len({device.process_index for device in devices})
    if jax.default_backend() == "cpu":
        each = len(devices) // processes
        fitting = [n for n in range(1, each + 1) if batch_size % (n * processes) == 0]
        devices = [one for i, one in enumerate(devices) if i % each < max(fitting, default=1)]
    if batch_size % len(devices):
        below = batch_size // len(devices) * len(devices)
        sizes = " or ".join(str(size) for size in (below, below + len(devices)) if size)
        raise InputError(
            f"a batch of {batch_size} cannot be cut evenly over {len(devices)} devices; "
            f"choose a batch size of {sizes}"
        )
    return Mesh(np.array(devices), ("data",))


def even_batch(images: int) -> int:
    """The smallest batch of at least so many images that `data_mesh` can cut evenly."""
    devices = hosts.devices()
    on_cpu = jax.default_backend() == "cpu"
    parts = len({device.process_index for device in devices}) if on_cpu else len(devices)
    return -(-images // parts) * parts


def own_part(batch_size: int, mesh: Mesh) -> slice:
    """Which images of each batch this process reads: those of its devices."""
    each = batch_size // mesh.size
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """`tree`, the same in all processes, on every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(lambda leaf: _on_all_hosts(leaf, everywhere), tree)


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
    """The batch whose `own_part` in each process is `batch`, sharded along its first axis."""
    cut = NamedSharding(mesh, PartitionSpec("data"))
    if cut.is_fully_addressable:
        return jax.device_put(batch, cut)
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(cut, part), batch)


def fetch(array: jax.Array) -> np.ndarray:
    """The values of an array, of all hosts if it is sharded over them."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def local(tree: PyTree) -> PyTree:
    """`tree`, which is replicated over the hosts, as arrays of this process alone."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree
    )


def _on_all_hosts(leaf: Any, everywhere: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, everywhere)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_on_all_hosts(jax.random.key_data(leaf), everywhere))
    values = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    return jax.make_array_from_callback(values.shape, everywhere, lambda index: values[index])
