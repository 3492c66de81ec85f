"""The page that compares runs: curves, results, settings that differ, paired tests."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..reports.answers import Answers, together
from ..reports.drawings import comparison_figures
from ..reports.page import Figures, Page, Part, Section, Table, Text, write_page
from ..reports.tables import Entry, percent, run_cells, series_cells
from ..training.quality import mcnemar
from .compare import HOW_TO_READ, entries_of
from .naming import differing, in_words
from .results import Run
from .run_folder import REPORT
from .saved_answers import recorded_answers

_MOST_PAIRS = 30


def write_comparison_page(path: Path, runs: Sequence[Run]) -> None:
    """Write the page that compares runs, finished or not; photos are not needed.

    Raises:
        InputError: the records of a run are damaged.
        OSError: the page cannot be written.
    """
    entries = entries_of(runs)
    header, rows = series_cells(entries)
    sections = [
        Section(
            "Results",
            [Table("Runs that differ only by seed are one row", header, rows), Text(HOW_TO_READ)],
        ),
        _paired_section(runs, entries),
        _settings_section(runs, entries),
        _every_run_section(path.parent, runs, entries),
    ]
    models = ", ".join(dict.fromkeys(entry.label["model"] for entry in entries))
    page = Page(
        title=f"{len(runs)} runs: {models}" if len(runs) > 1 else models,
        lead=[_lead(entries)],
        first=[Figures(comparison_figures(entries))],
        sections=sections,
        foot=f"Made by catdog_jax {version('catdog_jax')}: catdog-jax report makes it again.",
    )
    write_page(path, page)


def _every_run_section(folder: Path, runs: Sequence[Run], entries: Sequence[Entry]) -> Section:
    """A row for each finished run, which leads to its own page."""
    pages = [run.folder.absolute() / REPORT for run in runs if run.metrics is not None]
    links = [quote(os.path.relpath(page, folder.absolute())) for page in pages]
    caption = "Finished runs, with 95 % intervals; each name leads to the run's own page"
    return Section("Every run", [Table(caption, *run_cells(entries), links=links)])


def _lead(entries: Sequence[Entry]) -> str:
    begun = [entry for entry in entries if entry.history]
    if not begun:
        return "No run has finished an epoch yet."

    def accuracy(entry: Entry) -> float:
        return max(row["val_accuracy"] for row in entry.history)

    best = max(begun, key=accuracy)
    fates = "; ".join(f"{entry.label['model']}, {entry.fate}" for entry in entries if entry.fate)
    lead = f"Best on its validation photos: {_name(best)}, {percent(accuracy(best))}."
    return f"{lead} Died or unfinished: {fates}." if fates else lead


def _name(entry: Entry) -> str:
    """`model3, learning rate 0.001, seed 1`."""
    words = [text if name == "model" else f"{name} {text}" for name, text in entry.label.items()]
    return ", ".join([*words, f"seed {entry.seed}"])


def _settings_section(runs: Sequence[Run], entries: Sequence[Entry]) -> Section:
    names = differing([run.experiment for run in runs])
    if not names:
        return Section(
            "Settings that differ", [Text("None but the model, as its recipe says, and the seed.")]
        )
    header = ["run", *(name.replace("_", " ") for name in names)]
    rows = [
        [_name(entry), *(in_words(run.experiment, name) for name in names)]
        for run, entry in zip(runs, entries, strict=True)
    ]
    return Section("Settings that differ", [Table("Of each run", header, rows)])


def _paired_section(runs: Sequence[Run], entries: Sequence[Entry]) -> Section:
    """Each run against the best one, on the photos that neither was trained on."""
    known = []
    for run, entry in zip(runs, entries, strict=True):
        answers = recorded_answers(run)
        if answers:
            known.append((run, _name(entry), together(list(answers.values()))))
    title = "Are the differences more than chance?"
    if len(known) < 2:
        return Section(title, [Text("Only finished runs can be tested, and two are needed.")])
    best = max(known, key=lambda one: one[2].right.mean())
    rows, others = [], 0
    for one in known:
        if one is best:
            continue
        pair = _same_photos(best, one)
        if pair is None:
            others += 1
            continue
        found = mcnemar(*pair)
        low, high = (f"{100 * end:+.1f}" for end in found.interval)
        rows.append(
            [
                one[1],
                f"{100 * found.difference:+.1f} points [{low}, {high}]",
                f"{found.p_value:.2g}",
                str(found.second_only),
                str(found.first_only),
                str(found.count),
            ]
        )
    parts: list[Part] = [
        Text(
            f"Each run against {best[1]}, which is right most often, photo by photo (McNemar's "
            "exact test). A difference is known only to within its 95 % interval; p is how often "
            "chance alone gives so large a difference. Of 20 tests without a real one, about one "
            "has p < 0.05."
        )
    ]
    if rows:
        header = ["run", "difference", "p", "only it is right", "only the best is", "photos"]
        more = f", the first {_MOST_PAIRS}" if len(rows) > _MOST_PAIRS else ""
        caption = f"On validation and test photos that both have{more}"
        parts.append(Table(caption, header, rows[:_MOST_PAIRS]))
    if others:
        parts.append(Text(f"Not tested: {others} runs on other photos than that one."))
    return Section(title, parts)


def _same_photos(
    best: tuple[Run, str, Answers], other: tuple[Run, str, Answers]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Whether each is right, photo by photo; None if the data are not the same.

    The same name in other data may be another photo.
    """
    if best[0].inputs["photos"] != other[0].inputs["photos"]:
        return None
    right = [dict(zip(one.names, one.right.tolist(), strict=True)) for one in (best[2], other[2])]
    common = [name for name in right[0] if name in right[1]]
    if not common:
        return None
    first, second = (np.array([one[name] for name in common]) for one in right)
    return first, second
