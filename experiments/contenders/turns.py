"""One turn: a workload run by a contender, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from . import workloads
from .options import BenchmarkOptions
from .photos import Prepared
from .summary import Turn, kind
from .worker import Spec, write_json

HERE = Path(__file__).parent
# In bfloat16 as the caller has it: what then is still float32, each contender decides.
_JAX_PRECISION: Mapping[str, Mapping[str, str]] = {
    "float32": {"JAX_DEFAULT_MATMUL_PRECISION": "float32"},
    "tf32": {"JAX_DEFAULT_MATMUL_PRECISION": "default"},
    "bfloat16": {},
}


def take_turn(
    options: BenchmarkOptions, prepared: Prepared, workload: str, name: str, seed: int, log: Path
) -> Turn:
    """Run one workload with one contender; `start` and `predict` run twice, cold and warm."""
    log.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".turn-", dir=options.out.resolve()) as scratch:
        turn = run_worker(options, prepared, workload, name, seed, Path(scratch), log)
        if kind(workload) not in ("start", "predict") or turn["error"]:
            return turn
        warm_log = log.with_stem(log.stem + "-warm")
        warm = run_worker(options, prepared, workload, name, seed, Path(scratch), warm_log)
        if warm["error"]:
            return warm
        peaks = [peak for peak in (turn["peak_mib"], warm["peak_mib"]) if peak is not None]
        return {**turn, "seconds": [warm["first"]], "peak_mib": max(peaks, default=None)}


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
    contender = workloads.CONTENDERS[name]
    workload_kind, _, detail = workload.partition("-")
    growing = workload_kind == "growth"
    photos = prepared.growth[int(detail)] if growing else prepared.photos
    weights = options.weights
    spec_file, result = scratch / "spec.json", scratch / "result.json"
    environment = {
        **os.environ,
        **contender.environment,
        **_JAX_PRECISION[options.precision],
        # Empty caches; a second run in the same scratch folder is a warm one.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "CATDOG_CACHE": str(scratch / "cache"),
        "KERAS_HOME": str(scratch / "keras"),  # ignores the user's Keras settings
    }
    spec = Spec(
        workload="epoch" if growing else workload_kind,
        model="model4" if growing else detail,
        compiled=contender.compiled,
        precision=options.precision,
        photos=str(photos.folder),
        counts=photos.counts,
        batch=str(prepared.batch),
        arrays=str(prepared.arrays or ""),
        weights=weights if weights == "none" else str(Path(weights).resolve()),
        backbone=str(prepared.backbone or ""),
        photo=str(prepared.photo),
        saved=str(prepared.saved or ""),
        image_size=options.image_size,
        batch_size=options.batch_size,
        epochs=options.run_epochs if workload_kind == "run" else options.epochs,
        repeats=options.repeats,
        seed=seed,
        scratch=str(scratch),
        result=str(result),
        started=time.time(),
    )
    write_json(spec_file, asdict(spec))
    command = [sys.executable, str(HERE / workloads.script_of(contender, workload)), str(spec_file)]
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
