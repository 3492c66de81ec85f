"""Records and arrays → figures as PNG files."""

import contextlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import printable
from ..files import written_whole
from .tables import Entry, fates_of, grouped, living, name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]
"""One record per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds."""

TRAINING_COLOUR, VALIDATION_COLOUR, PUBLISHED_COLOUR = "tab:blue", "tab:orange", "0.35"


def plot_history(
    path: Path,
    history: History,
    title: str,
    *,
    baseline: float | None = None,
    fine_tuning_after: int | None = None,
) -> None:
    """Draw accuracy above loss, for training (with dropout, on augmented photos) and validation.

    Args:
        path: of the figure.
        history: one record per epoch.
        title: of the figure.
        baseline: the accuracy of always guessing the commonest class, to draw a line at.
        fine_tuning_after: the last epoch that trained the head alone, to draw a line after it.
    """
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
        if fine_tuning_after is not None:
            line = fine_tuning_after + 0.5
            axes.axvline(line, color=PUBLISHED_COLOUR, label="fine-tuning starts")
    if baseline is not None:
        above.axhline(baseline, color=PUBLISHED_COLOUR, linestyle=":", label="always one class")
    above.set_title(printable(title))
    above.legend(loc="lower right")
    # On raw pixels the first loss can exceed 10 and flatten the rest.
    losses = [record[key] for record in history for key in ("loss", "val_loss")]
    if max(losses) > 5 * float(np.median(losses)):
        below.set_yscale("log")
        below.set_ylabel("loss (log scale)")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def plot_label_frequencies(path: Path, counts: Mapping[str, int], title: str) -> None:
    """Draw the number of photos in each class."""
    figure, (axes,) = subplots(1, 1, (4, 3))
    bars = axes.bar(list(map(printable, counts)), list(counts.values()), color=TRAINING_COLOUR)
    axes.bar_label(bars)
    axes.margins(y=0.12)
    axes.set_ylabel("photos")
    axes.set_title(title)
    save(figure, path)


def plot_grid(
    path: Path,
    images: UInt8[np.ndarray, "n height width 3"],
    titles: Sequence[str],
    columns: int = 3,
) -> None:
    """Draw images in rows of `columns`, each under its title."""
    rows = math.ceil(len(images) / columns)
    figure, panels = subplots(rows, columns, (2.2 * columns, 2.4 * rows))
    for axes in panels:
        axes.set_axis_off()
    for axes, image, title in zip(panels, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(printable(title), fontsize=10)
    save(figure, path)


def plot_curves(
    path: Path,
    entries: Sequence[Entry],
    published: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Plot the validation accuracies of each model over the epochs, one line per run.

    Args:
        path: of the figure.
        entries: the runs; those that died are red, the others drawn with their mean.
        published: validation accuracies by model to compare with; only for the same data.
    """
    groups = {group[0].label["model"]: group for group in grouped(entries)}
    columns = min(2, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, panels = subplots(rows, columns, (5 * columns, 3.4 * rows), sharey=True)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    for axes, (model, group) in zip(panels, groups.items(), strict=False):
        alive, died = living(group), [entry for entry in group if entry.dead]
        if alive:
            label = f"mean of {len(alive)} seeds, each thin" if len(alive) > 1 else "one seed"
            draw_runs(axes, alive, VALIDATION_COLOUR, label)
        for entry in died:
            values = [record["val_accuracy"] for record in entry.history]
            label = f"died: {len(died)}" if entry is died[0] else None
            axes.plot(_epochs(values), values, color="tab:red", marker=".", label=label)
        if published and model in published:
            values = published[model]
            axes.plot(_epochs(values), values, "--", color=PUBLISHED_COLOUR, label="published")
        axes.set_title(printable(model))
        axes.set_ylabel("validation accuracy")
        axes.legend(loc="lower right", fontsize=8)
        _over_epochs(axes)
    save(figure, path)


def plot_comparison(path: Path, entries: Sequence[Entry]) -> None:
    """Plot validation accuracies over epochs and over seconds, a colour per group of seeds."""
    groups = grouped(entries)
    names = [legend_of(group, entries) for group in groups]
    columns = 1 if max(map(len, names)) > 60 else 2
    height = 4 + 0.16 * sum(2 + name.count("\n") for name in names) / columns
    figure, panels = subplots(1, 2, (10, height), sharey=True)
    for colour, name, group in zip(colours(len(groups)), names, groups, strict=True):
        for axes, x in zip(panels, ("epoch", "seconds"), strict=True):
            draw_runs(axes, living(group), colour, name, over=x)
            for entry in group:
                if entry.dead:
                    axes.plot(*curve(entry, x), color=colour, linestyle=":")
    _over_epochs(panels[0])
    panels[0].set_ylabel("validation accuracy")
    panels[1].set_xlabel("seconds of training and validation")
    panels[1].grid(alpha=0.3)
    several = any(len(living(group)) > 1 for group in groups)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        title="mean over seeds, each thin" if several else None,
    )
    save(figure, path)


def legend_of(group: Sequence[Entry], entries: Sequence[Entry]) -> str:
    """What sets a group apart from the others, and which of its runs died or are unfinished."""
    lines = name_of(group, entries), fates_of(group)
    return "\n".join(fill(printable(line), 120) for line in lines if line)


def draw_runs(
    axes: Any, entries: Sequence[Entry], colour: Any, label: str, *, over: str = "epoch"
) -> None:
    """Draw living runs, and their mean as far as the shortest one."""
    for entry in entries if len(entries) > 1 else ():
        axes.plot(*curve(entry, over), color=colour, alpha=0.35, linewidth=1)
    xs, ys = mean_curve(entries, over)
    axes.plot(xs, ys, color=colour, label=label, marker="." if len(xs) == 1 else None)


def mean_curve(entries: Sequence[Entry], over: str) -> tuple[list[float], list[float]]:
    """The mean over runs of `curve`, as far as the shortest one."""
    curves = [curve(entry, over) for entry in entries]
    xs, ys = (
        [mean(values) for values in zip(*(curve[side] for curve in curves), strict=False)]
        for side in (0, 1)
    )
    return xs, ys


def curve(entry: Entry, over: str) -> tuple[list[float], list[float]]:
    """The epochs, or the seconds at their ends, and the validation accuracies."""
    xs = [record[over] for record in entry.history]
    accuracies = [record["val_accuracy"] for record in entry.history]
    return (list(accumulate(xs)) if over == "seconds" else xs), accuracies


def colours(count: int) -> list[Any]:
    """As many colours: the usual ten, or else a scale from dark to light."""
    _import_matplotlib()
    from matplotlib import colormaps

    if count <= 10:
        return [f"C{index}" for index in range(count)]
    return list(colormaps["viridis"](np.linspace(0, 0.95, count)))


def _over_epochs(axes: Any) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def plot_rates(
    path: Path,
    rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    smoothed: Sequence[float] | np.ndarray,
    suggestion: float | None,
    title: str,
) -> None:
    """Draw the training loss over a growing learning rate, with the suggested rate."""
    figure, (axes,) = subplots(1, 1, (6, 4))
    axes.plot(rates, losses, color=TRAINING_COLOUR, alpha=0.3, label="of each batch")
    axes.plot(rates, smoothed, color=TRAINING_COLOUR, label="smoothed")
    if suggestion is not None:
        label = f"suggestion: {suggestion:.1e}"
        axes.axvline(suggestion, color=PUBLISHED_COLOUR, linestyle="--", label=label)
    axes.set_xscale("log")
    # Where training diverges the loss can be a thousand times as large.
    axes.set_ylim(min(0.0, *losses), 1.2 * max(*losses[:5], float(np.median(losses))))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(printable(title))
    axes.legend()
    axes.grid(alpha=0.3)
    save(figure, path)


def _epochs(values: Sequence[float]) -> range:
    return range(1, len(values) + 1)


def subplots(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple["Figure", list[Any]]:
    """A figure and its panels, row by row; `size` in inches. Opens no window, unlike pyplot."""
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    return figure, list(panels.flat)


def colour_map(name: str, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Values 0…1 as the colours, 0…1, of a map of matplotlib's."""
    _import_matplotlib()
    from matplotlib import colormaps

    return colormaps[name](values)[..., :3]


def _import_matplotlib() -> None:
    """Import it even if MPLBACKEND names a notebook's backend that is not installed here."""
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    matplotlib = import_module("matplotlib")
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, complete or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, "wb") as file:
        figure.savefig(file, format="png", dpi=90)
