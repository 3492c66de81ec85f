"""Which workloads there are, and which contender runs which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from catdog_jax.errors import InputError

from .summary import (
    KERAS_JAX,
    KERAS_TENSORFLOW,
    MODELS,
    OURS,
    TORCH_COMPILE,
    TORCH_EAGER,
    kind,
)
from .worker import FINE_TUNED

GROWTH = (500, 2000, 6000)
WORKLOADS: tuple[str, ...] = (
    *(f"epoch-{model}" for model in MODELS),
    *(f"step-{model}" for model in (*MODELS, "model6")),
    *(f"finetune-{part}" for part in FINE_TUNED),
    *(f"memory-{model}" for model in MODELS),
    "memory-whole",
    "memory-model6",
    "forward",
    "augment",
    "start-model3",
    "start-model4",
    *(f"run-{model}" for model in MODELS),
    "predict",
    *(f"growth-{count}" for count in GROWTH),
)
QUICK_WORKLOADS = ("epoch-model3", "step-model3", "forward", "augment")


@dataclass(frozen=True)
class Contender:
    """A worker script, the packages it needs, the kinds of workload it runs, and its settings."""

    worker: str
    packages: tuple[str, ...]
    kinds: tuple[str, ...]
    environment: Mapping[str, str]
    loader: str = ""
    """The package that it needs for workloads that are not in memory, if it is another one."""
    compiled: bool = False
    command_worker: str = ""
    """The script for the workloads that are whole commands, if it is another one."""


_IN_MEMORY = ("step", "finetune", "memory", "forward", "augment")
_COMMANDS = ("start", "run", "predict")
_FROM_PHOTOS = ("epoch", *_IN_MEMORY, *_COMMANDS)
CONTENDERS: Mapping[str, Contender] = {
    OURS: Contender(
        "run_catdog_jax.py",
        ("jax", "flax"),
        (*_FROM_PHOTOS, "growth"),
        {},
        command_worker="run_command.py",
    ),
    KERAS_TENSORFLOW: Contender(
        "run_keras.py",
        ("keras", "tensorflow"),
        (*_FROM_PHOTOS, "growth"),
        {"KERAS_BACKEND": "tensorflow"},
    ),
    KERAS_JAX: Contender(
        "run_keras.py",
        ("keras", "jax"),
        _FROM_PHOTOS,
        {"KERAS_BACKEND": "jax"},
        loader="tensorflow",
    ),
    TORCH_EAGER: Contender("run_torch.py", ("torch",), _IN_MEMORY, {}),
    TORCH_COMPILE: Contender("run_torch.py", ("torch",), _IN_MEMORY, {}, compiled=True),
}


def script_of(contender: Contender, workload: str) -> str:
    """The worker script of a contender for a workload."""
    return (kind(workload) in _COMMANDS and contender.command_worker) or contender.worker


def chosen_workloads(names: Sequence[str], *, with_tfds: bool) -> list[str]:
    """The workloads with a name or prefix in `names`, without growth if there is no TFDS.

    Raises:
        InputError: a prefix matches nothing, or no workload is left.
    """
    for name in names:
        if not any(workload.startswith(name) for workload in WORKLOADS):
            raise InputError(f"unknown workload '{name}'; choose from: {', '.join(WORKLOADS)}")
    workloads = [workload for workload in WORKLOADS if workload.startswith(tuple(names))]
    if not with_tfds and any(kind(workload) == "growth" for workload in workloads):
        print("skipping growth: it needs photos from --tfds")
        workloads = [workload for workload in workloads if kind(workload) != "growth"]
    if not workloads:
        raise InputError("no workloads to run; check --workloads")
    return workloads


def installed(names: Sequence[str]) -> list[str]:
    """The contenders among `names` whose packages are installed; prints which are skipped.

    Raises:
        InputError: a name is unknown, or no contender is left.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in CONTENDERS:
            raise InputError(f"unknown contender '{name}'; choose from: {', '.join(CONTENDERS)}")
        missing = [package for package in CONTENDERS[name].packages if find_spec(package) is None]
        if missing:
            print(f"skipping {name}: {', '.join(missing)} not installed")
            continue
        loader = CONTENDERS[name].loader
        if loader and find_spec(loader) is None:
            print(f"{name} only runs {', '.join(_IN_MEMORY)}: {loader} not installed")
        found.append(name)
    if not found:
        raise InputError("no contenders to run; check --contenders")
    return found


def _can_run(contender: Contender, kind: str) -> bool:
    if kind not in contender.kinds:
        return False
    return kind in _IN_MEMORY or not contender.loader or find_spec(contender.loader) is not None


def rotated(workload: str, contenders: Sequence[str], number: int) -> list[str]:
    """The contenders that run `workload`, in their order in round `number`."""
    able = [name for name in contenders if _can_run(CONTENDERS[name], kind(workload))]
    start = number % len(able) if able else 0
    return able[start:] + able[:start]
