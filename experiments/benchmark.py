"""Benchmark against Keras and PyTorch: training, inference, augmentation and startup.

    python experiments/benchmark.py --data PATH/cats_and_dogs_filtered.zip --weights FILE

Every measurement runs alone, in a new process with empty compile caches. In each round every
contender runs every workload; the order of the contenders rotates from round to round. After each
measurement `benchmark.json` (machine, versions, all measurements) and `benchmark.md` (tables) in
`--out` are updated; the output of each process is in `logs/`. A second call with the same `--out`
adds rounds, if the machine, the versions and the commit are the same. The workloads:

- `epoch-model1` … `epoch-model4`: training from a folder of photos, with validation on all
  validation photos. The first epoch includes opening (ours: decoding) the photos and compiling.
- `step-model1` … `step-model4`: one training step on a batch in host memory.
- `forward`: features of a frozen MobileNetV2. `augment`: flips and rotations of a batch.
- `start-model3`, `start-model4`: from the start of the process to the end of its first step, first
  with empty compile caches (cold), then with the caches filled by that run (warm). Our photos are
  already decoded, as in every run but the first.
- `growth-500` … `growth-6000`: epochs of model 4 on that many photos from `--tfds`.

PyTorch is optional (`pip install torch`) and runs the workloads that need no photo loader.
Everything together takes hours on two CPU cores, most of them for Keras on JAX. `--quick` checks
within a minute that it works, on drawings; its timings mean nothing.
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
# Environment variables that affect speed.
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
    """A worker script, the packages it needs, the kinds of workload it runs, and its settings."""

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
    """Zip or folder of photos: train/ and validation/, each with one folder per class."""
    weights: str = "none"
    """Keras weights file for model 4's backbone, or none: random weights, equally fast."""
    tfds: Path | None = None
    """TFDS data folder with cats_vs_dogs prepared, for the growth workloads."""
    workloads: tuple[str, ...] = WORKLOADS
    """Which workloads, by name or prefix: epoch, step-model4, ..."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which contenders; those not installed are skipped."""
    rounds: int = 3
    """How often each contender runs each workload."""
    epochs: int = 3
    """Epochs per training run, 2 or more: the first is reported separately."""
    repeats: int = 20
    """Timed calls of step, forward and augment."""
    image_size: int = 160
    """Height and width of the images."""
    batch_size: int = 32
    """Images per step."""
    bfloat16: bool = False
    """Train our models in bfloat16 (the others stay in float32); use a separate --out."""
    timeout: float = 3600.0
    """Kill a process after this many seconds."""
    out: Path = Path("runs/benchmark")
    """Folder for the results and the prepared photos."""
    quick: bool = False
    """Smoke test: drawings, one round of a few workloads, two epochs, small images."""


def main(options: BenchmarkOptions) -> None:
    """Time catdog_jax, Keras and PyTorch on the same workloads."""
    options = check(options)
    workloads, contenders = chosen_workloads(options), installed(options.contenders)
    machine = describe_machine()
    all_options, turns = read_earlier(options.out, machine)
    all_options.append(plain(options))
    first_round = {
        workload: 1 + max((turn["round"] for turn in turns if turn["work"] == workload), default=-1)
        for workload in workloads
    }
    prepared = prepare_in_subprocess(options, workloads)
    for added in range(options.rounds):
        for workload in workloads:
            number = first_round[workload] + added
            for name in rotated(workload, contenders, number):
                log = options.out / "logs" / f"{workload}-{name}-{number + 1}.log"
                turn = take_turn(options, prepared, workload, name, number, log)
                turns.append({"work": workload, "contender": name, "round": number, **turn})
                print(turn_line(turns[-1]), flush=True)
                write_results(options.out, machine, all_options, turns)
    print(f"benchmark.json and benchmark.md are in {options.out}")
    failed = [turn["work"] for turn in turns if turn["contender"] == OURS and turn["error"]]
    if failed:
        raise RunError(f"{OURS} failed in {', '.join(sorted(set(failed)))}; see {options.out}")


def read_earlier(
    out: Path, machine: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[Turn]]:
    """The options and turns of earlier calls with the same `out`.

    Raises:
        InputError: they are from another machine or version, or the file cannot be read.
    """
    path = out / RESULTS
    if not path.is_file():
        return [], []
    results = read_json(path)
    try:
        earlier, options, turns = (results[name] for name in ("machine", "options", "turns"))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a benchmark result: {error!r}; choose another --out"
        ) from error
    if earlier != machine:
        raise InputError(f"{path} is from another machine, version or commit; choose another --out")
    return options, turns


def check(options: BenchmarkOptions) -> BenchmarkOptions:
    """Validate the options and apply `--quick`.

    Raises:
        InputError: a number is out of range, or `--data` or the weights file is missing.
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
        raise InputError("set --data to the photos, or try --quick")
    minimums = {"rounds": 1, "epochs": 2, "repeats": 1, "image_size": 32, "batch_size": 1}
    for name, minimum in minimums.items():
        value = getattr(options, name)
        if value < minimum:
            raise InputError(f"--{name.replace('_', '-')} must be {minimum} or more, not {value}")
    if options.weights != "none" and not Path(options.weights).is_file():
        raise InputError(f"no weights file at {options.weights}")
    return options


def chosen_workloads(options: BenchmarkOptions) -> list[str]:
    """The workloads that `--workloads` selects, without growth if `--tfds` is not given.

    Raises:
        InputError: a prefix matches nothing, or no workload is left.
    """
    for name in options.workloads:
        if not any(workload.startswith(name) for workload in WORKLOADS):
            raise InputError(f"unknown workload '{name}'; choose from: {', '.join(WORKLOADS)}")
    workloads = [workload for workload in WORKLOADS if workload.startswith(options.workloads)]
    if options.tfds is None and any(kind(workload) == "growth" for workload in workloads):
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
        else:
            found.append(name)
    if not found:
        raise InputError("no contenders to run; check --contenders")
    return found


def rotated(workload: str, contenders: Sequence[str], number: int) -> list[str]:
    """The contenders that run `workload`, in their order in round `number`."""
    able = [name for name in contenders if kind(workload) in CONTENDERS[name].kinds]
    start = number % len(able) if able else 0
    return able[start:] + able[:start]


def prepare_in_subprocess(options: BenchmarkOptions, workloads: Sequence[str]) -> Prepared:
    """Prepare the contenders' inputs, in a process that ends before the first measurement."""
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
    """Run one workload with one contender; `start` runs twice, cold and warm."""
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
    """Run a worker process; returns its measurements, or the last line of its log as `error`."""
    contender = CONTENDERS[name]
    workload_kind, _, detail = workload.partition("-")
    growing = workload_kind == "growth"
    photos = prepared.growth[int(detail)] if growing else prepared.photos
    weights = options.weights
    spec_file, result = scratch / "spec.json", scratch / "result.json"
    environment = {
        **os.environ,
        **contender.environment,
        # Empty caches, except that `start` gets our photos already decoded.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "CATDOG_CACHE": str(prepared.cache if workload_kind == "start" else scratch / "cache"),
        "KERAS_HOME": str(scratch / "keras"),  # ignores the user's Keras settings
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
    write_json(spec_file, asdict(spec))
    command = [sys.executable, str(HERE / "contenders" / contender.worker), str(spec_file)]
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
        return {"error": f"timed out after {options.timeout:g} s"}
    if done.returncode:
        lines = log.read_text("utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return {"error": f"exit code {done.returncode}: {last}"}
    return {"error": None, **json.loads(result.read_text("utf-8"))}


def turn_line(turn: Turn) -> str:
    """`round 1  epoch-model4  catdog_jax  6.1 s (first 12.3 s)`."""
    line = f"round {turn['round'] + 1}  {turn['work']:<13} {turn['contender']:<17}"
    if turn["error"]:
        return f"{line} failed: {turn['error']}"
    return f"{line} {median(turn['seconds']):.4f} s (first {turn['first']:.2f} s)"


def plain(options: BenchmarkOptions) -> dict[str, Any]:
    """The options as JSON values; of paths only the last part, so that results can be shared."""
    paths = ("data", "weights", "tfds", "out")
    return {
        name: Path(value).name if name in paths and value is not None else value
        for name, value in asdict(options).items()
    }


def write_results(
    out: Path,
    machine: Mapping[str, Any],
    all_options: Sequence[Mapping[str, Any]],
    turns: Sequence[Turn],
) -> None:
    """Write `benchmark.json` and `benchmark.md`."""
    write_json(out / RESULTS, {"machine": machine, "options": all_options, "turns": turns})
    facts = [f"- {name}: {value}" for name, value in machine.items() if value]
    text = tables(turns) + "\n" + "\n".join(facts) + "\n"
    (out / "benchmark.md").write_text(text, "utf-8")


def describe_machine() -> dict[str, Any]:
    """Hardware, system and versions; each worker reports its own device."""
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
    """Run with options from the command line."""
    main(tyro.cli(BenchmarkOptions, description=main.__doc__))


if __name__ == "__main__":
    sys.exit(guarded(parse_and_run))
