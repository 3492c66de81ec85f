"""The drawings of pages: SVG in the page's text colour, each with a text that says the same."""

import io
import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from ..errors import printable
from ..training.quality import Calibration, Part, Roc
from .page import Figure
from .plots import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    History,
    colours,
    curve,
    draw_runs,
    mean_curve,
    subplots,
)
from .tables import Entry, fates_of, grouped, living, name_of, percent

_INK = "#123456"
"""Stands for the page's text colour while matplotlib draws."""
_BLUE = "#1f77b4"
"""matplotlib's first colour: the page has a lighter one for dark screens."""
_SIZE = (4.6, 2.9)
"""Inches: small, so that text is still readable on a phone."""
_SQUARE = (4.6, 4.0)
_LEGEND_WIDTH = 44
"""Letters that fit under a drawing."""


def history_figures(
    history: History, *, baseline: float | None = None, fine_tuning_after: int | None = None
) -> list[Figure]:
    """Accuracy and loss over epochs.

    Args:
        history: one record per epoch, at least one.
        baseline: accuracy of always answering the commonest class.
        fine_tuning_after: the last epoch that trained the head alone.
    """
    figures = []
    for name in ("accuracy", "loss"):
        figure, axes = _axes("epoch", name, shares="y" * (name == "accuracy"))
        for key, label, colour in (
            (name, "training", TRAINING_COLOUR),
            (f"val_{name}", "validation", VALIDATION_COLOUR),
        ):
            xs, ys = [row["epoch"] for row in history], [row[key] for row in history]
            axes.plot(xs, ys, color=colour, label=label, marker="." if len(xs) < 30 else None)
        if fine_tuning_after is not None:
            axes.axvline(fine_tuning_after + 0.5, color="0.5", label="fine-tuning starts")
        if baseline is not None and name == "accuracy":
            axes.axhline(baseline, color="0.5", linestyle=":", label="always one class")
        losses = [row[key] for row in history for key in ("loss", "val_loss")]
        if name == "loss" and max(losses) > 5 * sorted(losses)[len(losses) // 2] > 0:
            axes.set_yscale("log")
        _whole_epochs(axes, len(history))
        _legend(axes)
        text = _accuracy_text(history) if name == "accuracy" else _loss_text(history)
        figures.append(Figure(_svg(figure, name), f"{name.capitalize()} over epochs", text))
    return figures


def _accuracy_text(history: History) -> str:
    first, last = history[0], history[-1]
    best = max(history, key=lambda row: row["val_accuracy"])
    text = f"Validation: {percent(first['val_accuracy'])} after the first epoch"
    if len(history) > 1:
        text += (
            f", at best {percent(best['val_accuracy'])} (epoch {best['epoch']:.0f}), "
            f"{percent(last['val_accuracy'])} after the last, {last['epoch']:.0f}"
        )
    training = percent(last["accuracy"])
    return f"{text}. Training (on photos as augmented, with dropout): {training} at last."


def _loss_text(history: History) -> str:
    first, last = history[0], history[-1]
    low = min(history, key=lambda row: row["val_loss"])
    text = f"Training: {first['loss']:.3f} after the first epoch, {last['loss']:.3f} after the last"
    return (
        f"{text}. Validation: {last['val_loss']:.3f} after the last, lowest {low['val_loss']:.3f} "
        f"in epoch {low['epoch']:.0f}."
    )


def roc_figure(curves: Mapping[str, Roc]) -> Figure:
    """ROC curves, by what each tells apart."""
    figure, axes = _axes(
        "of the others, taken for it", "of the class, found", shares="xy", square=True
    )
    for name, one in curves.items():
        axes.plot(one.false_positives, one.true_positives, label=printable(name))
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="guessing")
    _legend(axes)
    areas = "; ".join(f"{name}: area {one.area:.3f}" for name, one in curves.items())
    (first_name, first), *_ = curves.items()
    nine = float(first.false_positives[(first.true_positives >= 0.9).argmax()])
    text = (
        f"{areas}. The area is the chance that a photo of the class gets a higher score than "
        f"another; 0.5 is guessing. At the threshold that finds 90 % of {first_name}, "
        f"{percent(nine)} of the others are taken for it."
    )
    return Figure(_svg(figure, "roc"), "ROC curve", text)


def calibration_figure(found: Calibration) -> Figure:
    """Reliability diagram: how often the model is right, by how sure it is."""
    figure, axes = _axes("how sure", "how often right", shares="xy", square=True)
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":")
    _with_intervals(axes, [one.confidence for one in found.bins], [one.right for one in found.bins])
    axes.set_ylim(0, 1.02)
    most = max(found.bins, key=lambda one: one.right.whole)
    text = (
        f"Expected calibration error: {percent(found.error)}, the mean distance of the points from "
        f"the dotted line. Most photos ({most.right.whole}) are where it is "
        f"{percent(most.confidence)} sure on average; of these it gets "
        f"{percent(most.right.value, most.right.interval)} right. Bars: 95 % intervals."
    )
    return Figure(_svg(figure, "calibration"), "Reliability diagram", text)


def parts_figure(parts: Sequence[Part], quantity: str, unit: str, p_value: float | None) -> Figure:
    """Accuracy in parts of the photos, from the smallest `quantity` to the largest."""
    figure, axes = _axes(f"{quantity} ({unit})" if unit else quantity, "accuracy", shares="y")
    middles = [(part.least + part.most) / 2 for part in parts]
    _with_intervals(axes, middles, [part.right for part in parts])
    said = "; ".join(
        f"{part.least:.3g} to {part.most:.3g}: {percent(part.right.value)} of {part.right.whole}"
        for part in parts
    )
    if p_value is not None:
        chance = "more than" if p_value < 0.05 else "no more than"
        said += f". They differ by {chance} chance gives (p = {p_value:.2g})"
    return Figure(_svg(figure, quantity), f"Accuracy by {quantity}", f"{said}.")


def comparison_figures(entries: Sequence[Entry]) -> list[Figure]:
    """Validation accuracies over epochs and over seconds, a colour per group of seeds."""
    groups, figures = grouped(entries), []
    for over in ("epoch", "seconds"):
        figure, axes = _axes(over, "validation accuracy", shares="y")
        said = []
        for colour, group in zip(colours(len(groups)), groups, strict=True):
            name, fates = printable(name_of(group, entries)), fates_of(group)
            label = fill(name, _LEGEND_WIDTH)
            alive = living(group)
            if alive:
                draw_runs(axes, alive, colour, label, over=over)
            for entry in group:
                if entry.dead and entry.history:
                    of_dead = None if alive else label
                    axes.plot(*curve(entry, over), color=colour, linestyle=":", label=of_dead)
            reached = _reached(alive, over) if alive else ""
            said.append(f"{name}: {'; '.join(filter(None, (reached, fates)))}")
        if over == "epoch":
            _whole_epochs(axes, max(len(entry.history) for entry in entries))
        _legend(axes, below=True)
        text = f"{'. '.join(said)}."
        if any(len(living(group)) > 1 for group in groups):
            text += " Thick lines are means over seeds."
        if any(entry.dead for entry in entries):
            text += " Dotted: runs that died."
        over_what = "epochs" if over == "epoch" else "seconds of training and validation"
        figures.append(Figure(_svg(figure, over), f"Validation accuracy over {over_what}", text))
    return figures


def _reached(entries: Sequence[Entry], over: str) -> str:
    """Where the mean is highest."""
    xs, ys = mean_curve(entries, over)
    best = max(range(len(ys)), key=ys.__getitem__)
    when = f"in epoch {xs[best]:.0f}" if over == "epoch" else f"after {xs[best]:.0f} s"
    return f"at best {percent(ys[best])}, {when}"


# How they are drawn.


def _axes(x: str, y: str, *, shares: str = "", square: bool = False) -> tuple[Any, Any]:
    """A figure and its axes, called `x` and `y`; those in `shares` are in percent."""
    from matplotlib.ticker import PercentFormatter

    figure, (axes,) = subplots(1, 1, _SQUARE if square else _SIZE)
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(color=_INK, labelcolor=_INK)
    axes.grid(alpha=0.3)
    for name in shares:
        getattr(axes, f"{name}axis").set_major_formatter(PercentFormatter(1, decimals=None))
    for side, spine in axes.spines.items():
        spine.set(color=_INK, visible=side in ("left", "bottom"))
    return figure, axes


def _whole_epochs(axes: Any, count: int) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    if count == 1:
        axes.set_xticks([1])


def _legend(axes: Any, *, below: bool = False) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each label once
    if not handles:
        return
    options = {"fontsize": 9, "frameon": False, "labelcolor": _INK}
    if below:
        figure = axes.figure
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", **options)
        # The axes keep their height.
        lines = sum(1 + name.count("\n") for name in handles)
        figure.set_figheight(figure.get_figheight() + 0.19 * lines)
    else:
        axes.legend(handles.values(), handles.keys(), loc="best", **options)


def _with_intervals(axes: Any, xs: Sequence[float], shares: Sequence[Any]) -> None:
    ys = [share.value for share in shares]
    ends = [[max(0.0, y - share.interval[0]) for y, share in zip(ys, shares, strict=True)]]
    ends += [[max(0.0, share.interval[1] - y) for y, share in zip(ys, shares, strict=True)]]
    axes.errorbar(xs, ys, ends, color=TRAINING_COLOUR, marker="o", markersize=4, capsize=2)


def _svg(figure: Any, name: str) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart from those of others."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names may hold dollar signs
    file = io.StringIO()
    # Text as text, in the page's font; the same figure gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_BLUE, "var(--blue)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", svg)
    return re.sub(r'(<svg [^>]*?) width="[^"]*"| height="[\d.]+pt"', r"\1", svg, count=2)
