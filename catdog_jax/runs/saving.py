"""A run's checkpoints: the last one, and new ones, written in a thread during the next epoch."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import uninterrupted
from ..training.state import TrainState
from . import checkpoint
from .checkpoint import Record
from .experiment import Experiment
from .history import best_epoch, write_history
from .run_folder import CHECKPOINT, Inputs, read_record

Save = Callable[[TrainState, Record], None]


def last_saved(
    out: Path, experiment: Experiment, inputs: Inputs
) -> tuple[Path | None, Mapping[str, Any]]:
    """The path and record of a run's last checkpoint, if there is one.

    Raises:
        InputError: it or that of the best epoch is missing, damaged or of another run.
    """
    saved = checkpoint.epochs(out / CHECKPOINT)
    if not saved:
        return None, {}
    path = out / CHECKPOINT / str(saved[-1])
    record = read_record(path, experiment, inputs)
    # The final evaluation needs the best epoch's checkpoint.
    best = best_epoch(record["history"])
    read_record(path.with_name(str(best)), experiment, inputs)
    return path, record


@contextmanager
def saving(folder: Path, history: Path) -> Iterator[Save]:
    """A function that saves an epoch's state in `folder`, then the file `history`.

    It waits for the epoch before to be written, no more. What it was given is written when this
    context ends, also after Ctrl-C.

    Raises:
        OSError: an epoch could not be written; by the next call, or at the end.
    """
    writer, pending = ThreadPoolExecutor(1, thread_name_prefix="checkpoint"), list[Future[None]]()

    def write(arrays: checkpoint.Arrays, record: Record) -> None:
        checkpoint.save(folder, arrays, record)
        write_history(history, record["history"])

    def save(state: TrainState, record: Record) -> None:
        arrays = checkpoint.on_host(state)  # now: the next step reuses their memory
        while pending:
            pending.pop().result()
        # A copy, since the history grows.
        as_it_is = Record(**{**record, "history": list(record["history"])})
        pending.append(writer.submit(write, arrays, as_it_is))

    try:
        yield save
    finally:
        with uninterrupted():
            writer.shutdown()
    while pending:
        pending.pop().result()
