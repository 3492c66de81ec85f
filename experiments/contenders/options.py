"""The benchmark's options."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from catdog_jax.errors import InputError

from .workloads import CONTENDERS, QUICK_WORKLOADS, WORKLOADS


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    data: Path | None = None
    """Zip or folder of photos: train/ and validation/, each with one folder per class."""
    weights: str = "none"
    """Keras weights file for models 4 and 5, or none: random weights."""
    tfds: Path | None = None
    """TFDS data folder with cats_vs_dogs prepared, for the growth workloads."""
    workloads: tuple[str, ...] = WORKLOADS
    """Which workloads, by name or prefix: epoch, step-model4, ..."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which contenders; those not installed are skipped."""
    rounds: int = 3
    """How often each contender runs each workload."""
    epochs: int = 3
    """Epochs of the epoch and memory workloads, 2 or more: the first is reported separately."""
    run_epochs: int = 20
    """Epochs of the run workloads."""
    repeats: int = 20
    """Timed calls of step, finetune, forward and augment."""
    image_size: int = 160
    """Height and width of the images."""
    batch_size: int = 32
    """Images per step."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """What all contenders train in; use a separate --out for each."""
    timeout: float = 3600.0
    """Kill a process after this many seconds."""
    out: Path = Path("runs/benchmark")
    """Folder for the results and the prepared photos."""
    quick: bool = False
    """Smoke test: drawings, one round of a few workloads, two epochs, small images."""


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
            run_epochs=2,
            repeats=3,
            image_size=32,
            batch_size=16,
        )
    elif options.data is None:
        raise InputError("set --data to the photos, or try --quick")
    minimums = {
        "rounds": 1,
        "epochs": 2,
        "run_epochs": 1,
        "repeats": 1,
        "image_size": 32,
        "batch_size": 1,
    }
    for name, minimum in minimums.items():
        value = getattr(options, name)
        if value < minimum:
            raise InputError(f"--{name.replace('_', '-')} must be {minimum} or more, not {value}")
    if options.weights != "none" and not Path(options.weights).is_file():
        raise InputError(f"no weights file at {options.weights}")
    return options
