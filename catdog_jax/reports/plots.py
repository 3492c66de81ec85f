"""Records and arrays → figures as PNG files."""

import contextlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from ..errors import printable
from ..files import written_whole

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
    living: Mapping[str, Sequence[History]],
    dead: Mapping[str, Sequence[History]] | None = None,
    published: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Plot the validation accuracies of each model over the epochs, one line per run.

    Args:
        path: of the figure.
        living: histories by model, drawn with their mean.
        dead: histories by model of runs that died.
        published: validation accuracies by model to compare with; only for the same data.
    """
    dead, published = dead or {}, published or {}
    models = sorted({*living, *dead})
    columns = min(2, len(models))
    rows = math.ceil(len(models) / columns)
    figure, panels = subplots(rows, columns, (5 * columns, 3.4 * rows), sharey=True)
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    for axes, model in zip(panels, models, strict=False):
        alive, died = living.get(model, ()), dead.get(model, ())
        for runs, style in (
            (alive, {"color": VALIDATION_COLOUR, "alpha": 0.35, "linewidth": 1}),
            (died, {"color": "tab:red", "marker": "."}),
        ):
            for run in runs:
                values = [record["val_accuracy"] for record in run]
                axes.plot(_epochs(values), values, **style)
        if alive:
            by_epoch = zip(*alive, strict=False)  # as far as the shortest run
            means = [mean(record["val_accuracy"] for record in epoch) for epoch in by_epoch]
            label = f"mean of {len(alive)} seeds, each thin" if len(alive) > 1 else "one seed"
            axes.plot(_epochs(means), means, color=VALIDATION_COLOUR, label=label)
        if died:
            axes.plot([], [], color="tab:red", marker=".", label=f"died: {len(died)}")
        if model in published:
            values = published[model]
            axes.plot(_epochs(values), values, "--", color=PUBLISHED_COLOUR, label="published")
        axes.set_title(printable(model))
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("validation accuracy")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
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
