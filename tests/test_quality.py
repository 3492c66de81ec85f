"""What is measured of predictions beyond accuracy, against numbers worked out otherwise."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency, mannwhitneyu

from catdog_jax.training.quality import (
    by_quantity,
    calibration,
    class_quality,
    differs_by_part,
    mcnemar,
    roc,
)


def test_precision_and_recall_by_hand() -> None:
    # The third column is an output that is no class.
    cats, dogs = class_quality(np.array([[8, 1, 1], [4, 6, 0]]))
    assert (cats.precision.part, cats.precision.whole) == (8, 12)
    assert (cats.recall.part, cats.recall.whole) == (8, 10)
    assert dogs.precision.value == pytest.approx(6 / 7)
    never = class_quality(np.array([[3, 0], [2, 0]]))[1].precision
    assert math.isnan(never.value)
    assert never.interval is None


def test_the_area_under_the_roc_curve_is_the_chance_of_ranking_two_photos_right() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.4
    scores = np.round(rng.normal(size=200) + positive, 1)  # rounded: with ties
    curve = roc(scores, positive)
    assert curve is not None
    statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert curve.area == pytest.approx(statistic / (positive.sum() * (~positive).sum()))
    for axis in (curve.true_positives, curve.false_positives):
        assert (axis[0], axis[-1]) == (0, 1)
        assert (np.diff(axis) >= 0).all()
    assert roc(scores, np.ones(200, bool)) is None


def test_the_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.65, 0.65, 1.0])
    found = calibration(confidence, np.array([True, False, True, True, True]))
    assert [(one.least, one.right.part, one.right.whole) for one in found.bins] == [
        (0.6, 2, 2),
        (0.9, 2, 3),
    ]
    expected = 2 / 5 * abs(0.65 - 1) + 3 / 5 * abs((0.95 + 0.95 + 1) / 3 - 2 / 3)
    assert found.error == pytest.approx(expected)


def test_the_paired_test_counts_only_photos_on_which_the_models_differ() -> None:
    first = np.array([True] * 80 + [False] * 20)
    second = first.copy()
    second[:2], second[80:90] = False, True  # 2 lost, 10 won
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only, found.count) == (2, 10, 100)
    assert found.difference == pytest.approx(0.08)
    assert found.p_value == pytest.approx(binomtest(2, 12).pvalue)
    # Agresti and Min: 10.5 and 2.5 of 102.
    centre = 8 / 102
    spread = 1.96 * math.sqrt((13 / 102 - centre**2) / 102)
    assert found.interval == pytest.approx((centre - spread, centre + spread))
    assert mcnemar(first, first).p_value == 1.0


def test_accuracy_by_a_quantity_is_in_parts_of_as_many_photos() -> None:
    values = np.arange(100.0)
    parts = by_quantity(values, values >= 50)
    assert [(part.right.part, part.right.whole) for part in parts] == [
        (0, 25),
        (0, 25),
        (25, 25),
        (25, 25),
    ]
    assert parts[0].most < parts[1].least
    parts = by_quantity(values, np.random.default_rng(0).random(100) < 0.4 + values / 200)
    table = [[part.right.part, part.right.whole - part.right.part] for part in parts]
    expected = chi2_contingency(table, correction=False).pvalue  # pyright: ignore
    assert differs_by_part(parts) == pytest.approx(expected)
    same = by_quantity(np.ones(10), np.ones(10, bool))
    assert [(part.least, part.right.whole) for part in same] == [(1.0, 10)]
    assert differs_by_part(same) is None
