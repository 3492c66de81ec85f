"""GPUs and TPUs that this machine need not have, for programs to be compiled for."""

import os
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh

from catdog_jax.errors import InputError

# An NVIDIA H100 SXM as CUDA describes it, with cuDNN 9.12 and CUDA 13.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000  device_memory_size: 84929347584
}
platform_name: "CUDA"  device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 12 }  runtime_version { major: 13 }
"""
# libtpu asks the machine which TPU it is part of, unless it is told.
_TPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_CUDA = partial(get_topology_desc, "", "cuda", target_config=_H100)
TARGETS: Mapping[str, tuple[str, Any]] = {
    "h100": ("jax_plugins.xla_cuda13", partial(_CUDA, topology="1x1x1")),
    "h100x8": ("jax_plugins.xla_cuda13", partial(_CUDA, topology="1x1x8")),
    "v5e": (
        "libtpu",
        partial(get_topology_desc, "v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1)),
    ),
    "v5ex4": ("libtpu", partial(get_topology_desc, "v5e:2x2", "tpu")),
}
"""By name: the module of the compiler, and a function that gives the devices."""


def missing(target: str) -> str | None:
    """Why `target` cannot be compiled for here, or None."""
    module = TARGETS[target][0]
    found = find_spec(module.split(".")[0]) and find_spec(module)
    return None if found else f"no compiler for {target}: pip install -e '.[targets]'"


def mesh_of(target: str) -> Mesh:
    """The devices of `target`, which this machine need not have.

    Raises:
        InputError: there is no such target, or its compiler is not installed.
    """
    if target not in TARGETS:
        raise InputError(f"unknown target '{target}'; choose one of: {', '.join(TARGETS)}")
    if why := missing(target):
        raise InputError(why)
    jax.config.update("jax_platforms", "cpu")
    for name, value in _TPU_VARIABLES.items():
        os.environ.setdefault(name, value)
    return Mesh(np.array(TARGETS[target][1]().devices), ("data",))
