"""A run's history as TensorBoard events."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from .history import Row


def event_writer() -> Any:
    """TensorboardX's writer, which needs no TensorFlow.

    Raises:
        InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard needs the package tensorboardX: pip install tensorboardX"
        ) from error
    return SummaryWriter


@contextmanager
def events(folder: Path | None, done: int) -> Iterator[Callable[[Row], None]]:
    """A function that writes an epoch's record into `folder`, a curve for each column.

    Args:
        folder: of the events; None: the function does nothing.
        done: epochs before; events of later ones, of a run that was killed, are hidden.
    """
    if folder is None:
        yield lambda row: None
        return
    # Files are named after the second; one of a run resumed within it must not be overwritten.
    name = f".after-{done}"
    with event_writer()(str(folder), purge_step=done + 1, filename_suffix=name) as writer:

        def write(row: Row) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))
            writer.flush()

        yield write
