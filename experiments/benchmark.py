"""Benchmark against Keras and PyTorch: training, inference, augmentation and startup.

    python experiments/benchmark.py --data PATH/cats_and_dogs_filtered.zip --weights FILE

Every measurement runs alone, in a new process with empty compile caches. In each round every
contender runs every workload; the order of the contenders rotates from round to round. After each
measurement `benchmark.json` (machine, versions, all measurements) and `benchmark.md` (tables) in
`--out` are updated; the output of each process is in `logs/`. A second call with the same `--out`
adds rounds, if the machine, the versions and the commit are the same. The workloads:

- `epoch-model1` … `epoch-model4`: training from a folder of photos, with validation on all
  validation photos. The first epoch includes opening (ours: decoding) the photos and compiling.
- `step-model1` … `step-model4`, `step-model6`: one training step on a batch in host memory; model 6
  without augmentation.
- `finetune-whole`, `finetune-last`: one step of fine-tuning MobileNetV2 (model 5) without
  augmentation, of all its stages or the last third of them; batch norm uses its running statistics.
- `memory-model1` … `memory-model4`, `memory-whole` (model 5, all stages), `memory-model6`: epochs
  of training on photos that are already arrays in host memory, with validation on all validation
  photos; the last two without augmentation. PyTorch copies the photos to the GPU first, as ours
  does by default.
- `forward`: features of a frozen MobileNetV2. `augment`: flips and rotations of a batch.
- `start-model3`, `start-model4`: from the start of the process to the end of its first step, first
  with empty caches (cold: ours decodes all photos and compiles), then with the caches filled by
  that run (warm). Ours is `catdog-jax train` on a terminal.
- `run-model1` … `run-model4`: from the start of the process to its end: 20 epochs and what is
  written of them (ours: checkpoints and the report; Keras: the model).
- `predict`: from the start of the process to the answer about one photo, cold and warm. Ours is
  `catdog-jax predict`; Keras loads the same network from a file.
- `growth-500` … `growth-6000`: epochs of model 4 on that many photos from `--tfds`.

PyTorch is optional (`pip install torch`) and runs the workloads that need no photo loader: `step`,
`finetune`, `memory`, `forward` and `augment`. These need no TensorFlow.

`--precision` applies to all contenders. `float32`: all 24 bits of it, on GPUs, too. `tf32`: GPUs
round the factors of convolutions and matrix products to 11 bits, as JAX does by default, and
PyTorch in convolutions; on a CPU it is the same as `float32`. `bfloat16`, where models are trained:
our `dtype`, Keras's `mixed_bfloat16`, PyTorch's autocast.

Everything together takes hours on two CPU cores, most of them for Keras on JAX. `--quick` checks
within a minute that it works, on drawings; its timings mean nothing.
"""

import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro
from contenders.options import BenchmarkOptions, check
from contenders.photos import Prepared, prepare
from contenders.summary import KERAS_TENSORFLOW, OURS, Turn, kind, tables
from contenders.turns import take_turn, turn_line
from contenders.worker import write_json
from contenders.workloads import chosen_workloads, installed, rotated

from catdog_jax.cores import usable_cores
from catdog_jax.errors import InputError, RunError, guarded
from catdog_jax.runs.run_folder import read_json

HERE = Path(__file__).parent
RESULTS = "benchmark.json"
# Environment variables that affect speed.
VARIABLES = (
    "GLIBC_TUNABLES",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "LD_PRELOAD",
    "OMP_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "XLA_FLAGS",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu", "torch")


def main(options: BenchmarkOptions) -> None:
    """Time catdog_jax, Keras and PyTorch on the same workloads."""
    options = check(options)
    workloads = chosen_workloads(options.workloads, with_tfds=options.tfds is not None)
    contenders = installed(options.contenders)
    machine = describe_machine()
    all_options, turns = read_earlier(options.out, machine)
    all_options.append(plain(options))
    first_round = {
        workload: 1 + max((turn["round"] for turn in turns if turn["work"] == workload), default=-1)
        for workload in workloads
    }
    prepared = prepare_in_subprocess(options, workloads, contenders)
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


def prepare_in_subprocess(
    options: BenchmarkOptions, workloads: Sequence[str], contenders: Sequence[str]
) -> Prepared:
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
            None if options.weights == "none" else Path(options.weights),
            with_arrays=any(kind(workload) == "memory" for workload in workloads),
            with_keras="predict" in workloads and KERAS_TENSORFLOW in contenders,
        ).result()


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
    facts.append(f"- precision: {all_options[-1]['precision']}")
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
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": usable_cores(),
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
