"""Lines for the terminal: a data set, an epoch, a run's results; the progress bar."""

import csv
import io
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data.splits import SPLIT_NAMES, Split, Splits, class_counts, majority_baseline
from ..reports.tables import percent
from ..training.hosts import is_first
from ..training.metrics import Sums
from .experiment import Experiment

if TYPE_CHECKING:
    from ..training.loop import EpochRecord


def describe(splits: Splits) -> list[str]:
    """A data set in lines: class counts, majority baseline, skipped photos, copies."""
    lines = []
    for name in SPLIT_NAMES:
        split: Split = getattr(splits, name)
        counts = ", ".join(f"{n or 'no'} {label}" for label, n in class_counts(split).items())
        if len(split):
            counts += f"; always guessing the commonest: {percent(majority_baseline(split))}"
        lines.append(f"{name:>10}: {len(split):>6,} images ({counts})")
    if splits.skipped:
        lines.append(f"   skipped: {len(splits.skipped)} unreadable photos")
        lines += _first_few([f"{photo.name}: {photo.reason}" for photo in splits.skipped], splits)
    for kind, count in splits.passed_over.items():
        lines.append(f"passed over: {count} {kind}")
    if splits.shared:
        lines.append(f"    shared: {len(splits.shared)} photos look like one of an earlier split")
        twins = [
            f"{photo.split}: {photo.name} = {photo.other_split}: {photo.other_name}"
            for photo in splits.shared
        ]
        lines += _first_few(twins, splits)
    return lines


def _first_few(photos: Sequence[str], splits: Splits) -> list[str]:
    few = list(photos[:20])
    if len(photos) > len(few):
        where = f", in {splits.folder / 'meta.json'}" if splits.folder else ""
        few.append(f"and {len(photos) - len(few)} more{where}")
    return [f"            {line}" for line in few]


def epoch_line(record: "EpochRecord", epochs: int, images: int) -> str:
    """One line for an epoch, after training on `images` images."""
    speed = images / record.seconds
    return f"epoch {record.epoch:>2}/{epochs}  {record.numbers}  {speed:.0f} images/s"


def result_lines(metrics: dict[str, Any]) -> list[str]:
    """A run's results in a few lines."""
    best = metrics["best"]
    lines = [
        f"best validation accuracy {percent(best['val_accuracy'], best['interval'])} "
        f"in epoch {best['epoch']} (always guessing the commonest class: "
        f"{percent(metrics['baseline']['validation'])})"
    ]
    if metrics["test"]:
        lines.append(f"test accuracy of that epoch: {accuracy_line(metrics['test'])}")
        lines.append(f"test accuracy of the last epoch: {accuracy_line(metrics['test_last'])}")
    if metrics["dead"]:
        lines.append("this run died: its outputs are all zero, its loss is ln 64; try another seed")
    return lines


def accuracy_line(result: dict[str, Any]) -> str:
    """`96.5 % [94.2, 98.1] of 192 images, loss 0.1234`, and the accuracy at probability 0.5."""
    text = (
        f"{percent(result['accuracy'], result['interval'])} of {result['count']} images, "
        f"loss {result['loss']:.4f}"
    )
    if "accuracy_at_half" in result:
        text += f" ({percent(result['accuracy_at_half'])} at probability 0.5)"
    return text


@contextmanager
def progress(
    experiment: Experiment, images: int, done: int
) -> Iterator[Callable[[int, Sums], None] | None]:
    """A progress bar over the whole run, starting after `done` epochs."""
    if not (sys.stderr.isatty() and is_first()):
        yield None
        return
    done = done * images
    total = experiment.epochs * images
    with tqdm(total=total, initial=done, unit=" images", leave=False) as bar:
        shown = 0.0

        def on_step(epoch: int, sums: Sums) -> None:
            nonlocal shown
            # Reading the sums waits for the device, so do not do it at every step.
            if time.monotonic() - shown < 0.5:
                return
            shown = time.monotonic()
            count = int(sums["count"])
            bar.set_postfix(
                loss=f"{float(sums['loss']) / count:.4f}",
                accuracy=f"{int(sums['correct']) / count:.3f}",
                refresh=False,
            )
            bar.update(epoch * images + count - bar.n)

        yield on_step


def csv_line(cells: Sequence[object]) -> str:
    """Cells as a line of comma-separated values; None is an empty one."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def resume_hint(folder: Path) -> str:
    """How to go on with the run in `folder`."""
    return f"to resume: catdog-jax train --resume {shlex.quote(str(folder))}"
