"""Runs → Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import mean, stdev
from typing import Any, TypeAlias

from ..training.metrics import wilson_interval

RunMetrics = Mapping[str, Any]
"""The content of a run's `metrics.json`."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A run, finished or not, in a table or a figure."""

    label: Mapping[str, str]
    """Its model, and the settings that set it apart, in words. Runs that differ only by their seed
    have the same label, all runs the same keys."""
    seed: int
    epochs: int
    """How many it is to have."""
    history: Sequence[Mapping[str, float]]
    """One record per epoch so far."""
    metrics: RunMetrics | None
    """None if it is unfinished."""
    dead: bool = False

    @property
    def fate(self) -> str:
        """`seed 1 died`, `seed 2 unfinished (3 of 20 epochs)`, or nothing."""
        if self.dead:
            return f"seed {self.seed} died"
        if self.metrics is None:
            return f"seed {self.seed} unfinished ({len(self.history)} of {self.epochs} epochs)"
        return ""


def grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups that differ only by their seed."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry.label.values()), []).append(entry)
    return list(groups.values())


def living(entries: Sequence[Entry]) -> list[Entry]:
    """Those that have trained for an epoch and have not died."""
    return [entry for entry in entries if entry.history and not entry.dead]


def name_of(group: Sequence[Entry], entries: Sequence[Entry]) -> str:
    """What sets a group apart from the others: `model3, learning rate 0.001`."""
    label = group[0].label
    varying = [name for name in label if len({entry.label[name] for entry in entries}) > 1]
    return ", ".join(label[n] if n == "model" else f"{n} {label[n]}" for n in varying or ["model"])


def fates_of(group: Sequence[Entry]) -> str:
    """Which runs of a group died or are unfinished: `seed 1 died`."""
    return ", ".join(entry.fate for entry in group if entry.fate)


def published() -> dict[str, Any]:
    """The post's numbers: `histories` by model, a list per column, and `test` of model 4."""
    return json.loads(files("catdog_jax.reports").joinpath("published.json").read_text("utf-8"))


Cells: TypeAlias = tuple[list[str], list[list[str]]]
"""The header of a table and its rows."""


def series_table(entries: Sequence[Entry], published: RunMetrics | None = None) -> str:
    """`series_cells` in Markdown."""
    return _table(*series_cells(entries, published))


def runs_table(entries: Sequence[Entry]) -> str:
    """`run_cells` in Markdown."""
    return _table(*run_cells(entries))


def series_cells(entries: Sequence[Entry], published: RunMetrics | None = None) -> Cells:
    """One line per group of runs that differ only by seed. Dead runs are named but not averaged.

    Args:
        entries: the runs.
        published: numbers from `published()` to compare with; only for the same data.
    """
    header = [*entries[0].label, "runs", "best validation accuracy", "test accuracy"]
    header += ["epochs done", "seconds"]
    notes = any(entry.fate for entry in entries)
    header += ["notes"] * notes + ["published: validation; test"] * (published is not None)
    rows = []
    for group in grouped(entries):
        alive = living(group)
        best = [max(record["val_accuracy"] for record in entry.history) for entry in alive]
        cells = [*group[0].label.values(), str(len(group)), spread(best), _test_cell(alive)]
        cells.append(_between([len(entry.history) for entry in alive or group]))
        seconds = [sum(record["seconds"] for record in entry.history) for entry in alive or group]
        cells.append(f"{mean(seconds):.0f}")
        cells += [", ".join(entry.fate for entry in group if entry.fate)] * notes
        cells += [_published_cell(published, group[0].label["model"])] if published else []
        rows.append(cells)
    return header, rows


def run_cells(entries: Sequence[Entry]) -> Cells:
    """One line per finished run, accuracies with their 95 % Wilson intervals."""
    header = [*entries[0].label, "seed", "best validation accuracy (epoch)", "test, best epoch"]
    header += ["test, last epoch", "seconds", "images/s"]
    rows = []
    for entry in entries:
        if (run := entry.metrics) is None:
            continue
        best = "died" if run["dead"] else f"{_cell(run['best'])} ({run['best']['epoch']})"
        cells = [*entry.label.values(), str(entry.seed), best]
        cells += [_cell(run["test"]), _cell(run["test_last"])]
        rows.append([*cells, f"{run['seconds']:.0f}", f"{run['images_per_second']:.0f}"])
    return header, rows


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def percent(share: float, interval: Sequence[float] | None = None) -> str:
    """`96.5 %`, or `96.5 % [95.0, 97.6]` with its interval."""
    text = f"{100 * share:.1f} %"
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text


def spread(shares: Sequence[float]) -> str:
    """`94.1 ± 0.5 % (93.4 … 94.4)`: mean, standard deviation and range; less for fewer than two."""
    if not shares:
        return "–"
    if len(shares) == 1:
        return percent(shares[0])
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{100 * mean(shares):.1f} ± {100 * stdev(shares):.1f} % ({low:.1f} … {high:.1f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = f"|{'---|' * len(header)}"
    return "\n".join([table_line(header), rule, *map(table_line, rows)])


def _between(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} … {most}"


def _cell(result: RunMetrics | None) -> str:
    if not result:
        return "no test photos"
    return percent(result.get("accuracy", result.get("val_accuracy", 0.0)), result["interval"])


def _test_cell(entries: Sequence[Entry]) -> str:
    """The mean, with the interval that as many test photos leave: more seeds do not narrow it."""
    results = [entry.metrics["test"] for entry in entries if entry.metrics]
    results = [result for result in results if result]
    if not results:
        return "–"
    share, count = mean(result["accuracy"] for result in results), results[0]["count"]
    return percent(share, wilson_interval(round(share * count), count))


def _published_cell(published: RunMetrics, model: str) -> str:
    if model not in published["histories"]:
        return "–"
    values = published["histories"][model]["val_accuracy"]
    text = f"{percent(max(values))} (epoch {values.index(max(values)) + 1})"
    test = published["test"].get(model)
    return f"{text}; {percent(test['accuracy'])}" if test else text


def answer_line(record: Mapping[str, Any]) -> str:
    """A record of `Predictions.records`, or of an error, as a line: `a.jpg  cat  98.2 %`."""
    if "error" in record:
        return f"{record['file']}  error: {record['error']}"
    answer, confidence = record["class"], percent(max(record["probabilities"].values()))
    if not record["sure"]:
        return f"{record['file']}  not sure ({answer} {confidence})"
    return f"{record['file']}  {answer}  {confidence}"
