"""The benchmark's workloads of whole commands, `catdog-jax train` and `predict`, from outside.

The command runs on a terminal, so that its progress bar tells when the first step is finished.
"""

import os
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import worker
from worker import Result, Spec

_POLL = 0.05
"""Seconds between two looks at the memory in use."""


def start(spec: Spec) -> Result:
    """`catdog-jax train` up to the end of its first step."""
    return _until("loss=", _train(spec))


def run(spec: Spec) -> Result:
    """`catdog-jax train` with all that it writes; first: to the end of the first epoch."""
    return _until("epoch  1/", _train(spec), to_the_end=True)


def predict(spec: Spec) -> Result:
    """`catdog-jax predict` of one photo, to its answer."""
    return _until(f"{spec.photo}  ", ["predict", spec.photo])


def _train(spec: Spec) -> list[str]:
    options = {
        "data": spec.photos,
        "sizes": f"{spec.counts[0]} {spec.counts[1]} 0",
        "image-size": spec.image_size,
        "batch-size": spec.batch_size,
        "epochs": spec.epochs,
        "seed": spec.seed,
        "dtype": "bfloat16" if spec.precision == "bfloat16" else "float32",
        "stop-when-dead": False,
        "out": f"{spec.scratch}/run",
    }
    if spec.model == "model4":
        options["weights"] = spec.weights
    words = [word for name, value in options.items() for word in (f"--{name}", *str(value).split())]
    return ["train", spec.model, *words]


def _until(said: str, arguments: Sequence[str], *, to_the_end: bool = False) -> Result:
    """Run a command until it says `said`, then end it; or to its end.

    Raises:
        RuntimeError: it ended before it said so, or failed.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    begun, first, peak, text = time.time(), 0.0, 0.0, ""
    command = [sys.executable, "-m", "catdog_jax", *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.set_blocking(ours, False)
        while True:
            ended = process.poll() is not None
            text += "".join(_read(ours))
            peak = max(peak, _resident_mib(process.pid))
            if said in text and not first:
                first = time.time() - begun
            if ended or (first and not to_the_end):
                break
            time.sleep(_POLL / 10 if not first else _POLL)
        done = time.time() - begun
        if not ended:
            process.terminate()
    print(text)
    if not first or (to_the_end and process.returncode) or "error: " in text:
        raise RuntimeError(f"exit code {process.returncode}: {text.strip()[-200:]}")
    return {"first": first, "seconds": [done] if to_the_end else [], "peak_mib": peak or None}


def _read(terminal: int) -> Iterator[str]:
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # nothing to read, or closed
            return
        if not part:
            return
        yield part.decode(errors="replace")


def _resident_mib(pid: int) -> float:
    """Memory of a process and of those that it started; shared memory counts for each of them."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended, or there is no /proc
        return 0.0
    own = int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return own + sum(_resident_mib(int(child)) for child in children)


if __name__ == "__main__":
    worker.main({"start": start, "run": run, "predict": predict})
