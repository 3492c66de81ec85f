"""A run's checkpoints: the last one, and new ones, written in a thread while training goes on."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
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

    It copies the state and returns: a thread writes. Epochs shorter than a write, which takes 0.1
    to 0.6 s, are not held up: of those that wait to be written, only the last and the best are
    kept. They are written when this context ends, also after Ctrl-C.

    Raises:
        OSError: an epoch could not be written; by a later call, or at the end. Nothing is written
            after that: a later checkpoint would take the place of those that are there.
    """
    writer, writes = ThreadPoolExecutor(1, thread_name_prefix="checkpoint"), deque[Future[None]]()
    waiting: dict[int, tuple[checkpoint.Arrays, Record]] = {}
    lock, failed = Lock(), Event()  # the lock is of `waiting`

    def write() -> None:
        with lock:
            if failed.is_set() or not waiting:  # a later epoch may have taken the place of one
                return
            arrays, record = waiting.pop(min(waiting))
        try:
            checkpoint.save(folder, arrays, record)
            write_history(history, record["history"])
        except BaseException:
            failed.set()
            raise

    def save(state: TrainState, record: Record) -> None:
        arrays = checkpoint.on_host(state)  # now: the next step reuses their memory
        while writes and writes[0].done():
            writes.popleft().result()
        # A copy, since the history grows.
        as_it_is = Record(**{**record, "history": list(record["history"])})
        with lock:
            waiting[len(record["history"])] = arrays, as_it_is
            for epoch in waiting.keys() - {len(record["history"]), best_epoch(record["history"])}:
                del waiting[epoch]
            enough = len(writes) > len(waiting)  # one of them may be at work
        if not enough:
            writes.append(writer.submit(write))

    try:
        yield save
    finally:
        with uninterrupted():
            writer.shutdown()
    for write_of in writes:
        write_of.result()
