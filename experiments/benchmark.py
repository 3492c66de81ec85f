"""How fast: training, steps, inference, augmentation and start, here, in Keras and in PyTorch.

    python experiments/benchmark.py --data PATH/cats_and_dogs_filtered.zip --weights FILE

Each contender does each workload in a process of its own (a start in two), one at a time and with
nothing compiled before, but for a warm start; in each round all take their turns, in an order that
is rotated from round to round. Writes `benchmark.json` (machine, versions, every measurement) and
`benchmark.md` (tables) into `--out` after each turn, and a log of each process into `logs`. What is
there already, of the same machine, versions and commit, is kept, and rounds are added to it. The
workloads:

- `epoch-model1` … `epoch-model4`: training from a folder of photos as a user would, with validation
  on all validation photos. The first epoch opens (here: decodes) the photos and compiles.
- `step-model1` … `step-model4`: one training step on a batch from the host's memory.
- `forward`: features of a frozen MobileNetV2. `augment`: flips and rotations of a batch.
- `start-model3`, `start-model4`: from the start of the process to the end of its first step, with
  empty compile caches (cold), then again with what that left in them (warm). Ours finds its photos
  decoded, as from its second run on.
- `growth-500` … `growth-6000`: epochs of model 4 on so many photos of those in `--tfds`.

PyTorch takes part in what needs no loader of photos, where it is installed (`pip install torch`).
All of it takes hours on two CPU cores, most of them Keras's on JAX; `--quick` shows in a minute
that it works, on drawings, and says nothing about speed.
"""

import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from contenders.photos import Prepared, prepare
from contenders.summary import (
    KERAS_JAX,
    KERAS_TENSORFLOW,
    MODELS,
    OURS,
    TORCH_COMPILE,
    TORCH_EAGER,
    Turn,
    kind,
    tables,
)
from contenders.worker import Spec, write_json

from catdog_jax.errors import InputError, RunError, guarded
from catdog_jax.runs.run_folder import read_json

HERE = Path(__file__).parent
RESULTS = "benchmark.json"
GROWTH = (500, 2000, 6000)
WORKLOADS: tuple[str, ...] = (
    *(f"epoch-{model}" for model in MODELS),
    *(f"step-{model}" for model in MODELS),
    "forward",
    "augment",
    "start-model3",
    "start-model4",
    *(f"growth-{count}" for count in GROWTH),
)
QUICK_WORKLOADS = ("epoch-model3", "step-model3", "forward", "augment")
# Variables that change how fast a machine computes.
VARIABLES = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "OMP_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "XLA_FLAGS",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu", "torch")


@dataclass(frozen=True)
class Contender:
    """Who takes part: a worker, the packages it needs, what it can do, and its settings."""

    worker: str
    packages: tuple[str, ...]
    kinds: tuple[str, ...]
    environment: Mapping[str, str]
    compiled: bool = False


_IN_MEMORY = ("step", "forward", "augment")
_FROM_PHOTOS = ("epoch", *_IN_MEMORY, "start")
CONTENDERS: Mapping[str, Contender] = {
    OURS: Contender("run_catdog_jax.py", ("jax", "flax"), (*_FROM_PHOTOS, "growth"), {}),
    KERAS_TENSORFLOW: Contender(
        "run_keras.py",
        ("keras", "tensorflow"),
        (*_FROM_PHOTOS, "growth"),
        {"KERAS_BACKEND": "tensorflow"},
    ),
    KERAS_JAX: Contender(
        "run_keras.py",
        ("keras", "tensorflow", "jax"),
        _FROM_PHOTOS,
        {"KERAS_BACKEND": "jax"},
    ),
    TORCH_EAGER: Contender("run_torch.py", ("torch",), _IN_MEMORY, {}),
    TORCH_COMPILE: Contender("run_torch.py", ("torch",), _IN_MEMORY, {}, compiled=True),
}


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    data: Path | None = None
    """The photos: a zip or folder with train/ and validation/, each with a folder per class."""
    weights: str = "none"
    """Keras file for model 4's backbone, or none: random weights, as fast."""
    tfds: Path | None = None
    """Folder of TFDS's prepared cats_vs_dogs, for the workloads named growth."""
    workloads: tuple[str, ...] = WORKLOADS
    """Which workloads, by the beginnings of their names: epoch, step-model4 …"""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which contenders; those that are not installed are left out."""
    rounds: int = 3
    """How often each contender does each workload."""
    epochs: int = 3
    """Epochs of a training, 2 or more: the first is told apart."""
    repeats: int = 20
    """Timed calls of a step, forward or augment."""
    image_size: int = 160
    """Height and width of the images."""
    batch_size: int = 32
    """Images a step."""
    bfloat16: bool = False
    """Train our models in bfloat16; the others stay at float32. Give another --out."""
    timeout: float = 3600.0
    """Seconds after which a process is given up."""
    out: Path = Path("runs/benchmark")
    """Folder of the results and of what is prepared for them."""
    quick: bool = False
    """See that it works: drawings, one round of a few workloads, two epochs, small images."""


def main(options: BenchmarkOptions) -> None:
    """Time the package and its rivals at the same workloads."""
    options = check(options)
    workloads, contenders = chosen_workloads(options), installed(options.contenders)
    machine = describe_machine()
    orders, turns = earlier(options.out, machine)
    orders.append(plain(options))
    rounds = {
        workload: 1 + max((turn["round"] for turn in turns if turn["work"] == workload), default=-1)
        for workload in workloads
    }
    prepared = prepare_apart(options, workloads)
    for added in range(options.rounds):
        for workload in workloads:
            number = rounds[workload] + added
            for name in rotated(workload, contenders, number):
                log = options.out / "logs" / f"{workload}-{name}-{number + 1}.log"
                turn = take_turn(options, prepared, workload, name, number, log)
                turns.append({"work": workload, "contender": name, "round": number, **turn})
                print(turn_line(turns[-1]), flush=True)
                write(options.out, machine, orders, turns)
    print(f"benchmark.json and benchmark.md are in {options.out}")
    failed = [turn["work"] for turn in turns if turn["contender"] == OURS and turn["error"]]
    if failed:
        raise RunError(f"{OURS} failed in {', '.join(sorted(set(failed)))}; see {options.out}")


def earlier(out: Path, machine: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Turn]]:
    """What was asked for and measured into `out` before, on this very machine and versions.

    Raises:
        InputError: it was another machine or version, or the file cannot be read.
    """
    path = out / RESULTS
    if not path.is_file():
        return [], []
    results = read_json(path)
    try:
        there, orders, turns = (results[name] for name in ("machine", "options", "turns"))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} holds no benchmark: {error!r}; choose another --out") from error
    if there != machine:
        raise InputError(f"{path} is of another machine, version or commit; choose another --out")
    return orders, turns


def check(options: BenchmarkOptions) -> BenchmarkOptions:
    """Refuse what cannot be done; settle what `--quick` stands for.

    Raises:
        InputError: an unknown workload or contender, a number out of range, no photos.
    """
    if options.quick:
        workloads = QUICK_WORKLOADS if options.workloads == WORKLOADS else options.workloads
        options = replace(
            options,
            workloads=workloads,
            rounds=1,
            epochs=2,
            repeats=3,
            image_size=32,
            batch_size=16,
        )
    elif options.data is None:
        raise InputError("give the photos with --data, or see that it works with --quick")
    smallest = {"rounds": 1, "epochs": 2, "repeats": 1, "image_size": 32, "batch_size": 1}
    for name, least in smallest.items():
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} must be {least} or more, not {getattr(options, name)}")
    if options.weights != "none" and not Path(options.weights).is_file():
        raise InputError(f"no weights file at {options.weights}")
    return options


def chosen_workloads(options: BenchmarkOptions) -> list[str]:
    """The workloads that `--workloads` names, as far as their photos are there.

    Raises:
        InputError: a name is the beginning of none, or none is left.
    """
    for name in options.workloads:
        if not any(workload.startswith(name) for workload in WORKLOADS):
            raise InputError(f"unknown workload '{name}'; choose from: {', '.join(WORKLOADS)}")
    workloads = [workload for workload in WORKLOADS if workload.startswith(options.workloads)]
    if options.tfds is None and any(kind(workload) == "growth" for workload in workloads):
        print("growth needs the photos of TFDS and is left out; give them with --tfds")
        workloads = [workload for workload in workloads if kind(workload) != "growth"]
    if not workloads:
        raise InputError("no workload is left; give --workloads")
    return workloads


def installed(names: Sequence[str]) -> list[str]:
    """The contenders among `names` that can be run; the others are told.

    Raises:
        InputError: a name is unknown, or none is left.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in CONTENDERS:
            raise InputError(f"unknown contender '{name}'; choose from: {', '.join(CONTENDERS)}")
        missing = [package for package in CONTENDERS[name].packages if find_spec(package) is None]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} not installed")
        else:
            found.append(name)
    if not found:
        raise InputError("no contender is left; give --contenders")
    return found


def rotated(workload: str, contenders: Sequence[str], number: int) -> list[str]:
    """Those who can do `workload`, in the order of round `number`."""
    able = [name for name in contenders if kind(workload) in CONTENDERS[name].kinds]
    start = number % len(able) if able else 0
    return able[start:] + able[:start]


def prepare_apart(options: BenchmarkOptions, workloads: Sequence[str]) -> Prepared:
    """Make what the contenders read, in a process that ends before the first of them starts."""
    growth = [
        int(workload.partition("-")[2]) for workload in workloads if kind(workload) == "growth"
    ]
    folder = options.out.resolve() / "prepared"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(
            prepare,
            folder,
            options.data,
            options.tfds,
            growth,
            options.image_size,
            options.batch_size,
        ).result()


def take_turn(
    options: BenchmarkOptions, prepared: Prepared, workload: str, name: str, seed: int, log: Path
) -> Turn:
    """Let one contender do one workload; a start is made twice."""
    log.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".turn-", dir=options.out.resolve()) as scratch:
        turn = run_worker(options, prepared, workload, name, seed, Path(scratch), log)
        if kind(workload) != "start" or turn["error"]:
            return turn
        warm_log = log.with_stem(log.stem + "-warm")
        warm = run_worker(options, prepared, workload, name, seed, Path(scratch), warm_log)
        return warm if warm["error"] else {**turn, "seconds": [warm["first"]]}


def run_worker(
    options: BenchmarkOptions,
    prepared: Prepared,
    workload: str,
    name: str,
    seed: int,
    scratch: Path,
    log: Path,
) -> dict[str, Any]:
    """Run a contender's process; gives what it measured, or the log's last line as `error`."""
    contender = CONTENDERS[name]
    workload_kind, _, detail = workload.partition("-")
    growing = workload_kind == "growth"
    photos = prepared.growth[int(detail)] if growing else prepared.photos
    weights = options.weights
    order, result = scratch / "order.json", scratch / "result.json"
    environment = {
        **os.environ,
        **contender.environment,
        # Nothing compiled or decoded by an earlier turn, except that a start finds our photos
        # decoded.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "CATDOG_CACHE": str(prepared.cache if workload_kind == "start" else scratch / "cache"),
        "KERAS_HOME": str(scratch / "keras"),  # not the user's settings
    }
    spec = Spec(
        workload="epoch" if growing else workload_kind,
        model="model4" if growing else detail,
        compiled=contender.compiled,
        bfloat16=options.bfloat16,
        photos=str(photos.folder),
        counts=photos.counts,
        batch=str(prepared.batch),
        weights=weights if weights == "none" else str(Path(weights).resolve()),
        image_size=options.image_size,
        batch_size=options.batch_size,
        epochs=options.epochs,
        repeats=options.repeats,
        seed=seed,
        scratch=str(scratch),
        result=str(result),
        started=time.time(),
    )
    write_json(order, asdict(spec))
    command = [sys.executable, str(HERE / "contenders" / contender.worker), str(order)]
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=options.timeout,
            )
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {options.timeout:g} s"}
    if done.returncode:
        said = log.read_text("utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "no message")
        return {"error": f"exit code {done.returncode}: {last}"}
    return {"error": None, **json.loads(result.read_text("utf-8"))}


def turn_line(turn: Turn) -> str:
    """`round 1  epoch-model4  catdog_jax  6.1 s (first 12.3 s)`."""
    line = f"round {turn['round'] + 1}  {turn['work']:<13} {turn['contender']:<17}"
    if turn["error"]:
        return f"{line} failed: {turn['error']}"
    return f"{line} {median(turn['seconds']):.4f} s (first {turn['first']:.2f} s)"


def plain(options: BenchmarkOptions) -> dict[str, Any]:
    """As JSON takes them; files by their names alone, so that results can be shown to others."""
    files = ("data", "weights", "tfds", "out")
    return {
        name: Path(value).name if name in files and value is not None else value
        for name, value in asdict(options).items()
    }


def write(
    out: Path,
    machine: Mapping[str, Any],
    orders: Sequence[Mapping[str, Any]],
    turns: Sequence[Turn],
) -> None:
    """Write the results so far."""
    write_json(out / RESULTS, {"machine": machine, "options": orders, "turns": turns})
    about = [f"- {name}: {value}" for name, value in machine.items() if value]
    text = tables(turns) + "\n" + "\n".join(about) + "\n"
    (out / "benchmark.md").write_text(text, "utf-8")


def describe_machine() -> dict[str, Any]:
    """What all of it runs on; the devices are each worker's to name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version
        for distribution in metadata.distributions()
    }
    git = shutil.which("git")
    describe = [git or "", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True) if git else None
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: versions[name] for name in PACKAGES if name in versions},
        "commit": commit.stdout.strip() if commit else None,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def parse_and_run() -> None:
    """Take the options from the command line."""
    main(tyro.cli(BenchmarkOptions, description=main.__doc__))


if __name__ == "__main__":
    sys.exit(guarded(parse_and_run))
