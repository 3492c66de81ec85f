"""What the worker processes share: the specification, timing, memory use and the result file.

Imports only the standard library, so that a worker loads no framework but its own.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

Result = dict[str, Any]

WARM_UPS = 3
"""Untimed calls between the first, which compiles, and the timed ones."""

PARTS = ("train", "validation")

PARAMETERS = {"mobilenet": 2_257_984, "model6": 889_506, "model6_deep": 908_666}
"""Parameters of MobileNetV2 without its top, batch statistics included; of model 6 without them."""

MODEL6_WIDTHS, MODEL6_STRIDE = (32, 64, 128, 192), 4
"""Channels of the four residual blocks of model 6; stride of its first convolution at 160 pixels,
here at any size."""

FINE_TUNED = {"whole": 20, "last": 7}
"""How many of model 5's 20 stages are trained (stem, 17 blocks, last convolution, head)."""


@dataclass(frozen=True)
class Spec:
    """What a worker process should run."""

    workload: str
    """A key of the dictionary that the worker passes to `main`."""
    model: str
    """`model1` … `model6`; `whole` or `last` for fine-tuning; empty without a model."""
    compiled: bool
    """Whether to use `torch.compile`."""
    precision: str
    """`float32`, `tf32` or `bfloat16`: what training computes in."""
    photos: str
    """Folder with `train/` and `validation/`, each with one sub-folder per class."""
    counts: tuple[int, int]
    """Number of photos in each of the two."""
    photo: str
    """One of them, to classify."""
    saved: str
    """A `.keras` file of model6_deep, to classify it with; empty if there is none."""
    batch: str
    """An `.npz` with one batch: `image`, uint8, and `label`, int32."""
    arrays: str
    """An `.npz` with all photos decoded, for `load_arrays`; empty if there is none."""
    weights: str
    """Keras weights file for the MobileNetV2 of models 4 and 5, or `none`."""
    backbone: str
    """The same weights as an `.npz`, for PyTorch; empty if there are none."""
    image_size: int
    batch_size: int
    epochs: int
    repeats: int
    seed: int
    scratch: str
    """Temporary folder of this measurement."""
    result: str
    """The file to write the result to."""
    started: float
    """`time.time()` just before the process was started."""


def main(workloads: dict[str, Callable[[Spec], Result]]) -> None:
    """Run the workload of the spec file named on the command line and write its result."""
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    result = workloads[spec.workload](spec)
    write_json(Path(spec.result), {"peak_mib": peak_mib(), **result})


def load_arrays(path: str) -> list[tuple[Any, Any]]:
    """Images, uint8, and labels, int32: for training, then for validation."""
    import numpy as np

    with np.load(path) as arrays:
        return [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in PARTS]


def time_calls(
    call: Callable[[], object], repeats: int, after_first: Callable[[], None] | None = None
) -> Result:
    """Time `call`, which must block until its result is ready; `after_first` is not timed."""
    first = _seconds(call)
    if after_first is not None:
        after_first()
    for _ in range(WARM_UPS):
        call()
    return {"first": first, "seconds": [_seconds(call) for _ in range(repeats)]}


def time_epochs(stamps: Sequence[float]) -> Result:
    """Epoch times from time stamps: one before the photos are opened, one after each epoch."""
    first, *later = [after - before for before, after in pairwise(stamps)]
    return {"first": first, "seconds": later}


def time_start(spec: Spec, finished: float) -> Result:
    """Time from the start of the process to `finished`, a `time.time()`."""
    return {"first": finished - spec.started, "seconds": []}


def check_parameters(network: str, parameters: int) -> None:
    """Refuse to time another network than that of `PARAMETERS`."""
    if parameters != PARAMETERS[network]:
        raise ValueError(f"{parameters} parameters are not {network}'s {PARAMETERS[network]}")


def check_changed(changed: bool) -> None:
    """Refuse to time an augmentation that does nothing, like Keras's layers outside training."""
    if not changed:
        raise ValueError("the augmentation left the images as they were")


def peak_mib() -> float | None:
    """Peak resident memory of this process; None without `/proc`.

    Not `ru_maxrss`, which includes the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def peak_with_child_mib() -> float | None:
    """Peak so far plus that of the largest child process, as if both peaked at the same time."""
    own = peak_mib()
    return None if own is None else own + getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
