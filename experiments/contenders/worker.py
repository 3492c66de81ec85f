"""What every contender's process shares: its order, its clock, its memory, its answer.

The standard library alone: a contender pays for no package but its own framework.
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
"""Calls between the first, which compiles, and those that are timed."""

MOBILENET_PARAMETERS = 2_257_984
"""Of MobileNetV2 without its top, batch statistics included: the same network for all."""


@dataclass(frozen=True)
class Spec:
    """One process's order."""

    workload: str
    """A key of the dictionary that the worker passes to `main`."""
    model: str
    """`model1` … `model4`; empty where the workload has none."""
    compiled: bool
    """Whether PyTorch compiles."""
    bfloat16: bool
    """Whether our models train in bfloat16, rather than in float32 as the others' do."""
    photos: str
    """Folder with `train/` and `validation/`, a sub-folder a class in each."""
    counts: tuple[int, int]
    """How many photos are in these two."""
    batch: str
    """An `.npz` with one batch: `image`, uint8, and `label`, int32."""
    weights: str
    """Keras file of model 4's backbone, or `none`."""
    image_size: int
    batch_size: int
    epochs: int
    repeats: int
    seed: int
    scratch: str
    """A folder of this process's own."""
    result: str
    """The file that the answer goes to."""
    started: float
    """`time.time()` just before the process was started."""


def main(workloads: dict[str, Callable[[Spec], Result]]) -> None:
    """Do what the file named on the command line orders and write the answer."""
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    result = workloads[spec.workload](spec)
    write_json(Path(spec.result), {"peak_mib": peak_mib(), **result})


def time_calls(call: Callable[[], object], repeats: int) -> Result:
    """Time `call`, which must not return before its result is there."""
    first = _seconds(call)
    for _ in range(WARM_UPS):
        call()
    return {"first": first, "seconds": [_seconds(call) for _ in range(repeats)]}


def time_epochs(stamps: Sequence[float]) -> Result:
    """From the time before the photos were opened and those when each epoch had ended."""
    first, *later = [after - before for before, after in pairwise(stamps)]
    return {"first": first, "seconds": later}


def time_start(spec: Spec, finished: float) -> Result:
    """From the start of the process to `finished`, a `time.time()`."""
    return {"first": finished - spec.started, "seconds": []}


def check_mobilenet(parameters: int) -> None:
    """Refuse to time another network than the others'."""
    if parameters != MOBILENET_PARAMETERS:
        raise ValueError(f"{parameters} parameters are not MobileNetV2's {MOBILENET_PARAMETERS}")


def check_changed(changed: bool) -> None:
    """Refuse to time an augmentation that does nothing, as Keras's layers outside of training."""
    if not changed:
        raise ValueError("the augmentation left the images as they were")


def peak_mib() -> float | None:
    """This program's peak of resident memory; None where the system does not tell.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def peak_with_helper_mib() -> float | None:
    """The peak so far, where the largest process started by this one stood beside it at that."""
    here = peak_mib()
    return None if here is None else here + getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
