"""More about predictions than their accuracy: per class, ROC, calibration, paired comparison.

All of it is NumPy on the host, from probabilities and labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, chdtrc  # scipy.stats takes a second to import

from .metrics import wilson_interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """`part` of `whole` photos, with the 95 % Wilson interval of the share."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """In 0…1; NaN of no photos."""
        return self.part / self.whole if self.whole else math.nan

    @property
    def interval(self) -> Interval | None:
        """None of no photos."""
        return wilson_interval(self.part, self.whole) if self.whole else None


@dataclass(frozen=True)
class ClassQuality:
    """How well one class is told from the others."""

    precision: Share
    """Of the photos said to be of the class, those that are."""
    recall: Share
    """Of the photos of the class, those said to be."""


def class_quality(confusion: Int[np.ndarray, "classes outputs"]) -> list[ClassQuality]:
    """Precision and recall of each class.

    Args:
        confusion: counts by true class (rows) and predicted class (columns); columns beyond the
            classes are outputs that are no class.
    """
    said, there = confusion.sum(axis=0).tolist(), confusion.sum(axis=1).tolist()
    hits = np.diagonal(confusion).tolist()
    return [
        ClassQuality(Share(hit, said[label]), Share(hit, there[label]))
        for label, hit in enumerate(hits)
    ]


@dataclass(frozen=True, eq=False)
class Roc:
    """The ROC curve of one class against the rest; photos of equal score are one step."""

    false_positives: Float[np.ndarray, " points"]
    """Share of the other photos above the threshold, from 0 to 1."""
    true_positives: Float[np.ndarray, " points"]
    """Share of the photos of the class above it, from 0 to 1."""
    area: float
    """Chance that a photo of the class scores higher than another; ties count half."""


def roc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Roc | None:
    """The ROC curve; None unless there are photos of the class and others."""
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[ends]
    true = np.concatenate([[0.0], hits / positive.sum()])
    false = np.concatenate([[0.0], (ends + 1 - hits) / (~positive).sum()])
    return Roc(false, true, float(np.trapezoid(true, false)))


@dataclass(frozen=True)
class Bin:
    """The photos of which the model is about as sure."""

    least: float
    most: float
    confidence: float
    """Mean probability of the predicted class."""
    right: Share


@dataclass(frozen=True)
class Calibration:
    """Whether a probability of 80 % is right in 80 % of the cases."""

    bins: tuple[Bin, ...]
    """Those with photos."""
    error: float
    """Expected calibration error: the mean distance between confidence and accuracy of a bin,
    weighted by its photos (Guo et al. 2017, arXiv:1706.04599)."""


def calibration(
    confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 10
) -> Calibration:
    """Compare confidences with accuracies, in bins of equal width.

    Args:
        confidence: the probability of the predicted class.
        right: whether that class is the true one.
        bins: how many, over 0…1.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found, error = [], 0.0
    for index in np.unique(place).tolist():
        here = place == index
        mean = float(confidence[here].mean())
        share = Share(int(right[here].sum()), int(here.sum()))
        found.append(Bin(index / bins, (index + 1) / bins, mean, share))
        error += share.whole / len(right) * abs(mean - share.value)
    return Calibration(tuple(found), error)


@dataclass(frozen=True)
class Paired:
    """Two models on the same photos."""

    count: int
    first_only: int
    """Photos that only the first got right."""
    second_only: int
    difference: float
    """Accuracy of the second less that of the first."""
    interval: Interval
    """Its 95 % interval (Agresti and Min 2005, doi:10.1002/sim.1781: half a photo is added to each
    of the four counts)."""
    p_value: float
    """Of McNemar's exact test that neither is better."""


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> Paired:
    """Whether one model is better than another, from the photos on which they differ.

    Args:
        first: whether the first model is right, for each photo.
        second: the same for the second one.
    """
    first_only, second_only = int((first & ~second).sum()), int((second & ~first).sum())
    apart, count = first_only + second_only, len(first)
    # Twice the chance of so few, or fewer, heads in as many fair coins.
    p_value = min(1.0, 2 * float(bdtr(min(first_only, second_only), apart, 0.5)))
    total = count + 2
    centre = (second_only - first_only) / total
    spread = 1.96 * math.sqrt(((apart + 1) / total - centre**2) / total)
    return Paired(
        count=count,
        first_only=first_only,
        second_only=second_only,
        difference=(second_only - first_only) / count,
        interval=(max(-1.0, centre - spread), min(1.0, centre + spread)),
        p_value=p_value,
    )


@dataclass(frozen=True)
class Part:
    """Photos between two values of a quantity, and how many of them are right."""

    least: float
    most: float
    right: Share


def by_quantity(
    values: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], parts: int = 4
) -> list[Part]:
    """Accuracy in parts of about as many photos, from the smallest value to the largest.

    Photos of equal value are in the same part, so there may be fewer parts.
    """
    limits = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)))
    place = np.searchsorted(limits[1:-1], values, side="right")
    found = []
    for index in np.unique(place).tolist():
        here = place == index
        share = Share(int(right[here].sum()), int(here.sum()))
        found.append(Part(float(values[here].min()), float(values[here].max()), share))
    return found


def differs_by_part(parts: Sequence[Part]) -> float | None:
    """P-value of a chi-squared test that accuracy is the same in all parts.

    A large one means that differences between the parts are what chance gives; None if there is
    nothing to test: one part, or all photos right, or all wrong.
    """
    table = np.array([[part.right.part, part.right.whole - part.right.part] for part in parts])
    if len(table) < 2 or not table.sum(axis=0).all():
        return None
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    return float(chdtrc(len(table) - 1, statistic))
