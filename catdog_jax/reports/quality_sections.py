"""Sections of a page about how good a model's answers are, from the answers alone."""

import numpy as np

from ..training.quality import (
    Share,
    by_quantity,
    calibration,
    class_quality,
    differs_by_part,
    roc,
)
from .answers import Answers
from .drawings import calibration_figure, parts_figure, roc_figure
from .page import Figures, Part, Section, Table, Text
from .tables import percent

_MOST_CLASSES = 12
"""Of more, only the worst are shown."""


def classes_section(answers: Answers, which: str) -> Section:
    """Confusion matrix, precision and recall of each class.

    `which`: the photos in words, as `the 808 validation photos`.
    """
    confusion = answers.confusion()
    quality = class_quality(confusion)
    order = np.arange(len(quality))
    parts: list[Part] = [Text(f"From the model's answers about {which}.")]
    if len(quality) > _MOST_CLASSES:
        there = confusion.sum(axis=1)
        recalls = np.diagonal(confusion) / np.maximum(there, 1) + (there == 0)
        order = np.sort(np.argsort(recalls, kind="stable")[:_MOST_CLASSES])
        parts.append(Text(f"Of the {len(quality)} classes the {_MOST_CLASSES} found worst."))
        parts.append(_commonest_confusions(answers, confusion))
    else:
        parts.append(_confusion_table(answers, confusion))
    rows = [
        [
            answers.class_names[label],
            _share(quality[label].precision),
            _share(quality[label].recall),
        ]
        for label in order.tolist()
    ]
    parts.append(
        Table(
            "Precision and recall, with 95 % intervals",
            [
                "class",
                "precision: right when it says so",
                "recall: share of the class that was found",
            ],
            rows,
        )
    )
    return Section("Class by class", parts)


def _confusion_table(answers: Answers, confusion: np.ndarray) -> Table:
    count = len(answers.class_names)
    others = confusion[:, count:].sum(axis=1, keepdims=True)
    header = [f"taken for {name}" for name in answers.class_names]
    matrix = confusion[:, :count]
    if others.any():
        matrix, header = np.concatenate([matrix, others], axis=1), [*header, "for no class"]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = [
        [name, *map(str, counts)]
        for name, counts in zip(answers.class_names, matrix.tolist(), strict=True)
    ]
    return Table("Confusion matrix: photos", ["photos of", *header], rows, shades=shares.tolist())


def _commonest_confusions(answers: Answers, confusion: np.ndarray) -> Table:
    count = len(answers.class_names)
    wrong = confusion[:, :count] * (1 - np.eye(count, dtype=int))
    places = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CLASSES]
    names, rows = answers.class_names, []
    for label, said in zip(*np.unravel_index(places, wrong.shape), strict=True):
        if wrong[label, said]:
            rows.append([names[label], names[said], str(wrong[label, said])])
    return Table("The commonest confusions", ["photos of", "taken for", "photos"], rows)


def certainty_section(answers: Answers) -> Section:
    """ROC curves and calibration."""
    classes, curves = answers.class_names, {}
    # Of two classes one curve says all: the other is its mirror image.
    shown = [1] if len(classes) == 2 else range(len(classes)) if len(classes) <= 10 else ()
    for label in shown:
        found = roc(answers.probabilities[:, label], answers.labels == label)
        if found is not None:
            curves[classes[label]] = found
    found = calibration(answers.confidence, answers.right)
    rows = [
        [
            f"{100 * one.least:.0f} to {100 * one.most:.0f} %",
            percent(one.confidence),
            _share(one.right),
        ]
        for one in found.bins
    ]
    figures = [roc_figure(curves)] if curves else []
    parts: list[Part] = [
        Figures([*figures, calibration_figure(found)]),
        Table("How sure, and how often right", ["sure", "on average", "right"], rows, folded=True),
    ]
    if not curves and len(classes) > 10:
        parts.append(Text(f"No ROC curves: {len(classes)} of them would not be readable."))
    return Section("How sure it is, and whether rightly", parts)


def conditions_section(answers: Answers) -> Section:
    """How accuracy depends on the brightness and the size of photos."""
    figures, parts = [], []
    for name, unit, values in (
        ("brightness", "", answers.brightness),
        ("size", "megapixels", answers.megapixels),
    ):
        known = np.isfinite(values)
        if not known.any():
            parts.append(Text(f"The {name} of these photos is not recorded."))
        elif (values[known] == values[known][0]).all():
            value = f"{values[known][0]:.3g} {unit}".strip()
            parts.append(Text(f"All photos have the same {name}, {value}."))
        else:
            found = by_quantity(values[known], answers.right[known])
            figures.append(parts_figure(found, name, unit, differs_by_part(found)))
    if figures:
        parts.insert(0, Figures(figures))
        words = (
            "Photos in four parts, about as many in each. Brightness is the mean pixel, 0 black, "
            "1 white; size is that before photos are resized for the model."
        )
        parts.insert(0, Text(words))
    return Section("Bright and dark, large and small", parts)


def _share(share: Share) -> str:
    if not share.whole:
        return "no photos"
    return f"{percent(share.value, share.interval)}, {share.part} of {share.whole}"
