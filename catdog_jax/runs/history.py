"""A run's history, one row an epoch: the best epoch, dead runs, `history.csv`."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ..files import written_whole

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
"""Losses in nats, accuracies as shares of one, seconds with validation."""

DEAD_LOSS = math.log(64)
"""The loss of the post's models 1 to 3 if all 64 outputs are zero for every photo."""

Row: TypeAlias = dict[str, float]


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch, from 1, of the best validation accuracy; the first of several."""
    accuracies = [row["val_accuracy"] for row in history]
    return 1 + accuracies.index(max(accuracies))


def is_dead(row: Mapping[str, float]) -> bool:
    """Whether all 64 outputs of the post's model were zero for an epoch: both losses are ln 64.

    Such a model has no gradient left. Models without a final relu cannot die like this.
    """
    return all(abs(row[name] - DEAD_LOSS) < 1e-4 for name in ("loss", "val_loss"))


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write `history.csv`."""
    with written_whole(path) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: row[name] for name in COLUMNS} for row in history)


def read_history(path: Path) -> list[Row]:
    """Read what `write_history` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]
