"""Metrics of runs → Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import mean, stdev
from typing import Any

RunMetrics = Mapping[str, Any]
"""The content of a run's `metrics.json`."""


def published() -> dict[str, Any]:
    """The post's numbers: `histories` by model, a list per column, and `test` of model 4."""
    return json.loads(files("catdog_jax.reports").joinpath("published.json").read_text("utf-8"))


def summary_table(metrics: Sequence[RunMetrics], published: RunMetrics | None = None) -> str:
    """One line per model, over its seeds. Dead runs are counted but not averaged.

    Args:
        metrics: of each run.
        published: numbers from `published()` to compare with; only for the same data.
    """
    header = ["model", "seeds", "died", "best validation accuracy", "test accuracy, best epoch"]
    header += ["test accuracy, last epoch"]
    rows = []
    for model in dict.fromkeys(run["model"] for run in metrics):
        runs = [run for run in metrics if run["model"] == model]
        living = [run for run in runs if not run["dead"]]
        cells = [model, str(len(runs)), str(len(runs) - len(living))]
        cells.append(spread([run["best"]["val_accuracy"] for run in living]))
        for epoch in ("test", "test_last"):
            cells.append(spread([run[epoch]["accuracy"] for run in living if run[epoch]]))
        rows.append([*cells, _published_cell(published, model)] if published else cells)
    return _table([*header, "published: validation; test"] if published else header, rows)


def runs_table(metrics: Sequence[RunMetrics]) -> str:
    """One line per run, accuracies with their 95 % Wilson intervals."""
    header = ["model", "seed", "best validation accuracy (epoch)", "test, best epoch"]
    header += ["test, last epoch", "seconds", "images/s"]
    rows = []
    for run in metrics:
        best = "died" if run["dead"] else f"{_cell(run['best'])} ({run['best']['epoch']})"
        cells = [run["model"], str(run["seed"]), best, _cell(run["test"]), _cell(run["test_last"])]
        rows.append([*cells, f"{run['seconds']:.0f}", f"{run['images_per_second']:.0f}"])
    return _table(header, rows)


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


def _cell(result: RunMetrics | None) -> str:
    if not result:
        return "no test photos"
    return percent(result.get("accuracy", result.get("val_accuracy", 0.0)), result["interval"])


def _published_cell(published: RunMetrics, model: str) -> str:
    if model not in published["histories"]:
        return "–"
    values = published["histories"][model]["val_accuracy"]
    text = f"{percent(max(values))} (epoch {values.index(max(values)) + 1})"
    test = published["test"].get(model)
    return f"{text}; {percent(test['accuracy'])}" if test else text
