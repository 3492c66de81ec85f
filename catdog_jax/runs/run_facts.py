"""What a run's records say of it, for its page: no photo and no model is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.splits import SPLIT_NAMES
from ..reports.drawings import history_figures
from ..reports.page import Code, Figures, Part, Section, Table, Text
from ..reports.tables import percent
from . import build, named
from .history import best_epoch
from .naming import changed, in_words
from .phases import phases_of
from .results import Run
from .run_command import command_of

_MOST_LINES = 50
"""Of a list of photos."""


def title_of(run: Run) -> str:
    """`model3 on cats_and_dogs_filtered`."""
    return f"{named.short(run.experiment.model)} on {in_words(run.experiment, 'data')}"


def lead_of(run: Run, data: Mapping[str, Any]) -> list[str]:
    """How good it is, in sentences; `data` is that part of `config.json`."""
    done, planned = len(run.history), run.experiment.epochs
    if not done:
        return ["This run has not finished an epoch yet."]
    best = best_epoch(run.history)
    accuracy = run.history[best - 1]["val_accuracy"]
    photos = sum(data["validation"].values())
    lead = []
    if run.is_dead:
        lead.append(
            "This run died: all its outputs are zero, so it learns nothing more and its answer is "
            "the same for any photo. Try another seed."
        )
    guess = percent(_baseline(data["validation"]))
    test = run.metrics and run.metrics["test"]
    if test:
        low, high = (f"{100 * end:.1f}" for end in test["interval"])
        guess = percent(_baseline(data["test"]))
        lead.append(
            f"Right on {percent(test['accuracy'])} of the {test['count']} test photos (95 % "
            f"interval {low} to {high} %). Always answering the commonest class would be right on "
            f"{guess}."
        )
        lead.append(
            f"This is the model of epoch {best} of {done}, the best on the {photos} validation "
            f"photos: {percent(accuracy)} there."
        )
    else:
        why = (
            "No photos were kept for a test"
            if run.metrics
            else f"Unfinished: {done} of {planned} epochs"
        )
        lead.append(
            f"{why}. On the {photos} validation photos it is right on {percent(accuracy)} in its "
            f"best epoch, {best} of {done}; always answering the commonest class would be right on "
            f"{guess}."
        )
    return lead


def _baseline(counts: Mapping[str, int]) -> float:
    return max(counts.values()) / max(1, sum(counts.values()))


def curves_of(run: Run, data: Mapping[str, Any]) -> Sequence[Part]:
    """The curves of accuracy and loss."""
    if not run.history:
        return []
    starts = [one.start for one in phases_of(run.experiment) if 0 < one.start < len(run.history)]
    return [
        Figures(
            history_figures(
                run.history,
                baseline=_baseline(data["validation"]),
                fine_tuning_after=starts[-1] if starts else None,
            )
        )
    ]


def accuracy_section(run: Run) -> Section:
    """Accuracies of the best and the last epoch, with their intervals."""
    metrics = run.metrics
    assert metrics is not None
    best, last = metrics["best"]["epoch"], metrics["epochs"]
    rows = []
    for name, epoch, result in (
        ("test", best, metrics["test"]),
        ("test", last, metrics["test_last"]),
        ("validation", best, metrics["validation"]),
    ):
        if result:
            right = f"{result['correct']} of {result['count']}"
            half = result.get("accuracy_at_half")
            cells = [right, f"{result['loss']:.4f}", percent(half) if half is not None else "–"]
            share = percent(result["accuracy"], result["interval"])
            rows.append([f"{name}, epoch {epoch}", share, *cells])
    header = ["photos", "accuracy [95 % interval]", "right", "loss", "at probability 0.5"]
    if all(row[-1] == "–" for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    parts: list[Part] = [
        Table("Of the best and the last epoch", header, list(dict.fromkeys(map(tuple, rows))))
    ]
    words = (
        "The epoch was chosen by the validation photos, so accuracy on them is a little flattered"
    )
    parts.append(Text(f"{words}; the test photos had no say." if metrics["test"] else f"{words}."))
    if run.experiment.mirror_test:
        both = "Each answer here is the mean over a photo and its mirror image (mirror_test)"
        parts.append(Text(f"{both}; in the curves it is the photo's alone."))
    return Section("Accuracy", parts)


def data_section(data: Mapping[str, Any]) -> Section:
    """Counts by split and class; photos skipped, passed over or in two splits."""
    classes = data["class_names"]
    if len(classes) > _MOST_LINES:
        rows = [[split, f"{sum(data[split].values()):,}"] for split in SPLIT_NAMES]
        table = Table("Photos", ["split", "photos"], rows)
    else:
        rows = [
            [
                split,
                *(f"{data[split][name]:,}" for name in classes),
                f"{sum(data[split].values()):,}",
            ]
            for split in SPLIT_NAMES
        ]
        table = Table("Photos", ["split", *classes, "together"], rows)
    height, width = data["image_shape"][:2]
    found: list[Part] = [table, Text(f"Resized to {width}×{height} pixels.")]
    skipped, passed_over = data["skipped"], data.get("passed_over", {})
    if skipped:
        lines = [[photo["name"], photo["reason"]] for photo in skipped]
        found.append(_listed(f"{len(skipped)} photos could not be read", ["photo", "why"], lines))
    else:
        found.append(Text("No photo was unreadable."))
    if passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in passed_over.items())
        found.append(Text(f"Passed over: {kinds}."))
    if data["shared"]:
        lines = [
            [f"{one['split']}: {one['name']}", f"{one['other_split']}: {one['other_name']}"]
            for one in data["shared"]
        ]
        words = f"{len(lines)} photos look like one of an earlier split"
        found.append(_listed(words, ["photo", "the other"], lines))
    return Section("Data", found)


def _listed(caption: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    more = f"; the first {_MOST_LINES}" if len(lines) > _MOST_LINES else ""
    return Table(caption + more, header, lines[:_MOST_LINES], folded=True)


def cost_section(run: Run) -> Section:
    """Time, memory, device."""
    seconds = [row["seconds"] for row in run.history]
    rows = [["training and validation", f"{sum(seconds):.0f} s in {len(seconds)} epochs"]]
    if run.metrics:
        rows.append(["speed", f"{run.metrics['images_per_second']:.0f} training images/s"])
        rows.append(["device", run.metrics["device"]])
        where = "on the device" if run.metrics["on_device"] else "in the host's memory or on disk"
        rows.append(["photos kept", where])
        if parameters := run.metrics.get("parameters"):
            rows.append(["parameters", f"{parameters:,}"])
        for name, size in run.metrics.get("peak_memory", {}).items():
            rows.append([f"most memory, {name}", f"{size / 2**20:,.0f} MiB"])
    return Section("Time, memory, device", [Table("What it took", ["what", "how much"], rows)])


def repeat_section(run: Run) -> Section:
    """The command, the settings, the inputs and the versions."""
    experiment = run.experiment
    if experiment.data == build.ARRAYS:
        parts: list[Part] = [Text("Trained on arrays: call run again with the same splits.")]
    else:
        parts = [Code(command_of(experiment))]
    names = changed(experiment)
    rows = [[name.replace("_", " "), in_words(experiment, name)] for name in [*names, "seed"]]
    of_recipe = f"Settings other than those of the recipe {named.short(experiment.model)}"
    parts.append(Table(of_recipe, ["setting", "value"], rows))
    everything = [[name.replace("_", " "), in_words(experiment, name)] for name in vars(experiment)]
    parts.append(Table("All settings", ["setting", "value"], everything, folded=True))
    prints = [[name, digest] for name, digest in run.inputs.items()]
    parts.append(Table("Fingerprints of what went in", ["input", "SHA-256"], prints, folded=True))
    if run.metrics:
        versions = [list(pair) for pair in run.metrics["versions"].items()]
        parts.append(Table("Versions", ["package", "version"], versions, folded=True))
    parts.append(Text(f"The run's folder was named {Path(run.folder).absolute().name}."))
    return Section("What was run, and how to repeat it", parts)
