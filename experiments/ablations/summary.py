"""Hits on photos → effects of settings with intervals, and a Markdown table.

An effect's 95 % interval adds two sources of chance: seeds, by the variance of accuracy between
seeds, taken to be the same in all settings and pooled over them (t-distribution), and photos, by
the difference in hits on each photo, both means over seeds. Chance of one seed on one photo counts
in both, so intervals are a little wide. They are not corrected for their number: one in twenty
misses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from catdog_jax.errors import InputError
from catdog_jax.reports.tables import spread, table_line


def packed(hits: np.ndarray) -> str:
    """Which photos were classified correctly, as hexadecimal digits."""
    return np.packbits(hits).tobytes().hex()


def _unpacked(digits: str, photos: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=photos).astype(bool)


@dataclass(frozen=True)
class Effect:
    """A setting's accuracy less the recipe's, and half the width of its 95 % interval."""

    difference: float
    half: float


def effects(hits: Mapping[str, np.ndarray], base: str) -> dict[str, Effect]:
    """The effect of each setting but `base`, the recipe, from their hits, bool[seeds, photos]."""
    accuracies = {name: rows.mean(axis=1) for name, rows in hits.items()}
    freedom = sum(len(each) - 1 for each in accuracies.values())
    squares = sum(((each - each.mean()) ** 2).sum() for each in accuracies.values())
    found = {}
    for name in hits.keys() - {base}:
        by_photo = hits[name].mean(axis=0) - hits[base].mean(axis=0)
        of_photos = 1.96 * by_photo.std(ddof=1) / math.sqrt(len(by_photo))
        of_seeds = math.inf  # with one seed each it is not known
        if freedom:
            variance = squares / freedom * (1 / len(hits[name]) + 1 / len(hits[base]))
            of_seeds = student.ppf(0.975, freedom) * math.sqrt(variance)
        found[name] = Effect(float(by_photo.mean()), math.hypot(of_photos, of_seeds))
    return found


def table_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The results as a Markdown table; settings in the order of `names`, the recipe first."""
    hits = {}
    for name in names:
        bits = [
            _unpacked(row["hits"], row["photos"])
            for row in rows
            if row["setting"] == name and "hits" in row
        ]
        hits |= {name: np.stack(bits)} if bits else {}
    if names[0] not in hits:
        raise InputError(f"there are no results of {names[0]!r} to compare with")
    found = effects(hits, names[0])
    head = ["", "seeds", "accuracy", "with mirroring", "difference (points)"]
    lines = [table_line(head), f"|{'---|' * len(head)}"]
    for name, of_seeds in hits.items():
        own = [row for row in rows if row["setting"] == name]
        plain = [row["correct"] / row["photos"] for row in own if "hits" in row]
        cells = [f"{len(of_seeds)}", spread(plain), spread(of_seeds.mean(axis=1).tolist()), "–"]
        if name in found:
            change, half = 100 * found[name].difference, 100 * found[name].half
            interval = f"[{change - half:+.1f}, {change + half:+.1f}]" if half < math.inf else ""
            cells[-1] = f"{change:+.1f} {interval}".strip()
        failed = len(own) - len(of_seeds)
        lines.append(table_line([name + f" ({failed} failed)" * bool(failed), *cells]))
    return "\n".join(lines)
