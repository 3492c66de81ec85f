"""Checkpoints written in a thread, while the next epoch is trained."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..files import uninterrupted
from ..training.state import TrainState
from . import checkpoint
from .checkpoint import Record
from .history import write_history

Save = Callable[[TrainState, Record], None]


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
