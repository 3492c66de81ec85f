"""History files, figures and tables, from plain records."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import printable
from ..files import written_whole

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
"""The columns of `history.csv`: nats, shares of one, and seconds with validation."""

DEAD_LOSS = math.log(64)
"""The loss of models 1 to 3 when all 64 outputs are zero for every image."""

History = Sequence[Mapping[str, float]]
Metrics = Mapping[str, Any]
Images = UInt8[np.ndarray, "count height width 3"]

TRAINING_COLOUR, VALIDATION_COLOUR, PUBLISHED_COLOUR = "tab:blue", "tab:orange", "0.35"


def published() -> dict[str, Any]:
    """The post's numbers: `histories` by model, each a list an epoch, and `test` of model 4."""
    return json.loads(files("catdog_jax.reports").joinpath("published.json").read_text("utf-8"))


def is_dead(record: Mapping[str, float]) -> bool:
    """Whether all of the post's 64 outputs were zero for a whole epoch: both losses are ln 64.

    Of models with an output a class, which end in no relu, nothing is said.
    """
    return all(abs(record[name] - DEAD_LOSS) < 1e-4 for name in ("loss", "val_loss"))


def write_history(path: Path, history: History) -> None:
    """Write `history.csv`: one line an epoch."""
    with written_whole(path) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: record[name] for name in COLUMNS} for record in history)


def read_history(path: Path) -> list[dict[str, float]]:
    """Read `history.csv`; every value as a float but `epoch`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [(*row, row.get("epoch")) for row in rows] != [
        (*COLUMNS, str(number)) for number in range(1, len(rows) + 1)
    ]:
        raise ValueError(f"it is no table of {', '.join(COLUMNS)}")
    return [{**{k: float(v) for k, v in row.items()}, "epoch": int(row["epoch"])} for row in rows]


def plot_history(path: Path, history: History, title: str) -> None:
    """Draw accuracy above and loss below, for training and validation."""
    epochs = [record["epoch"] for record in history]
    figure, (above, below) = subplots(2, 1, (6, 6), sharex=True)
    for axes, name in ((above, "accuracy"), (below, "loss")):
        for key, label, colour in (
            (name, "training", TRAINING_COLOUR),
            (f"val_{name}", "validation", VALIDATION_COLOUR),
        ):
            values = [record[key] for record in history]
            axes.plot(epochs, values, marker=".", color=colour, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    above.set_title(title)
    above.legend(loc="lower right")
    # An untrained network's first loss on raw pixels can be in the tens and would flatten the rest.
    losses = [record[key] for record in history for key in ("loss", "val_loss")]
    if max(losses) > 5 * float(np.median(losses)):
        below.set_yscale("log")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def plot_label_frequencies(path: Path, counts: Mapping[str, int], title: str) -> None:
    """Draw how many images each class has."""
    figure, (axes,) = subplots(1, 1, (4, 3))
    bars = axes.bar(list(map(printable, counts)), list(counts.values()), color=TRAINING_COLOUR)
    axes.bar_label(bars)
    axes.margins(y=0.12)
    axes.set_ylabel("images")
    axes.set_title(title)
    save(figure, path)


def plot_grid(path: Path, images: Images, titles: Sequence[str], columns: int = 3) -> None:
    """Draw images in rows of `columns`, each under its title."""
    rows = math.ceil(len(images) / columns)
    figure, panels = subplots(rows, columns, (2.2 * columns, 2.4 * rows))
    for axes in panels:
        axes.set_axis_off()
    for axes, image, title in zip(panels, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(printable(title), fontsize=10)
    save(figure, path)


def plot_over_published(path: Path, histories: Mapping[str, Sequence[History]]) -> None:
    """Draw each model's validation accuracies, a line a seed and their mean, over the post's."""
    posted = published()["histories"]
    columns = min(2, len(histories))
    rows = math.ceil(len(histories) / columns)
    figure, panels = subplots(rows, columns, (5 * columns, 3.4 * rows))
    for axes in panels[len(histories) :]:
        axes.set_axis_off()
    for axes, (model, runs) in zip(panels, histories.items(), strict=False):
        living = [run for run in runs if not is_dead(run[-1])]
        for run in runs:
            colour = VALIDATION_COLOUR if run in living else "tab:red"
            values = [record["val_accuracy"] for record in run]
            axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.35, linewidth=1)
        if living:
            shortest = min(map(len, living))
            means = [
                mean(run[epoch]["val_accuracy"] for run in living) for epoch in range(shortest)
            ]
            label = f"this package, mean of {len(living)}"
            axes.plot(range(1, shortest + 1), means, color=VALIDATION_COLOUR, label=label)
        if len(living) < len(runs):
            axes.plot([], [], color="tab:red", label=f"died at ln 64: {len(runs) - len(living)}")
        if model in posted:
            values = posted[model]["val_accuracy"]
            axes.plot(
                range(1, len(values) + 1), values, "--", color=PUBLISHED_COLOUR, label="published"
            )
        axes.set_title(model)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("validation accuracy")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    save(figure, path)


def check_metrics(metrics: Metrics) -> None:
    """Raise some exception if `metrics` cannot be told of in the tables."""
    kinds = {"model": str, "seed": int, "dead": bool, "device": str}
    for name, kind in kinds.items():
        if type(metrics[name]) is not kind:
            raise TypeError(f"{name} is {metrics[name]!r}")
    for name in ("validation", "test", "test_last"):
        part = metrics[name]
        if part is not None and part["accuracy"] != part["correct"] / part["count"]:
            raise ValueError(f"{name}'s accuracy is not that of its counts")
    summary_table([metrics])
    runs_table([{**metrics, "dead": False}])


def summary_table(metrics: Sequence[Metrics]) -> str:
    """A Markdown table: a line a model, over its seeds, beside the published numbers.

    Runs that died are counted, and left out of the means.
    """
    lines = [
        "| model | seeds | died | best validation accuracy | test accuracy, best epoch "
        "| test accuracy, last epoch | published: validation; test |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(run["model"] for run in metrics):
        runs = [run for run in metrics if run["model"] == model]
        living = [run for run in runs if not run["dead"]]
        cells = [model, str(len(runs)), str(len(runs) - len(living))]
        cells.append(spread([run["best"]["val_accuracy"] for run in living]))
        for epoch in ("test", "test_last"):
            cells.append(spread([run[epoch]["accuracy"] for run in living if run[epoch]]))
        cells.append(_published_cell(model))
        lines.append(table_line(cells))
    return "\n".join(lines)


def runs_table(metrics: Sequence[Metrics]) -> str:
    """A Markdown table: a line a run, accuracies with their 95 % Wilson intervals."""
    lines = [
        "| model | seed | best validation accuracy (epoch) | test, best epoch "
        "| test, last epoch | seconds | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in metrics:
        best = "died at ln 64" if run["dead"] else f"{_cell(run['best'])} ({run['best']['epoch']})"
        cells = [run["model"], str(run["seed"]), best, _cell(run["test"]), _cell(run["test_last"])]
        cells += [f"{run['seconds']:.0f}", f"{run['images_per_second']:.0f}"]
        lines.append(table_line(cells))
    return "\n".join(lines)


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def percent(share: float, interval: Sequence[float] | None = None) -> str:
    """`96.5 %`, or `96.5 % [95.0, 97.6]` with its interval."""
    text = f"{100 * share:.1f} %"
    return (
        text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    )


def _cell(result: Metrics | None) -> str:
    if not result:
        return "no test images"
    return percent(result.get("accuracy", result.get("val_accuracy", 0.0)), result["interval"])


def spread(shares: Sequence[float]) -> str:
    """`94.1 ± 0.5 % (93.4 … 94.4)`: mean, standard deviation and range, as far as there are any."""
    if not shares:
        return "–"
    if len(shares) == 1:
        return percent(shares[0])
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{100 * mean(shares):.1f} ± {100 * stdev(shares):.1f} % ({low:.1f} … {high:.1f})"


def _published_cell(model: str) -> str:
    post = published()
    if model not in post["histories"]:
        return "–"
    values = post["histories"][model]["val_accuracy"]
    best = max(values)
    text = f"{percent(best)} (epoch {values.index(best) + 1})"
    return text + (f"; {percent(post['test'][model]['accuracy'])}" if model in post["test"] else "")


def subplots(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False
) -> tuple[Figure, list[Any]]:
    """A figure of its own and its panels, row by row; unlike pyplot's, no window, no global state.

    `size` is in inches.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)


def save(figure: Figure, path: Path) -> None:
    """Write a figure."""
    with mpl.rc_context({"savefig.dpi": 90}):
        figure.savefig(path)
