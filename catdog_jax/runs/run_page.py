"""The page of one run: its records, its model's answers, and photos if they are at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import UInt8

from ..data.photo_facts import copies_in
from ..data.splits import SPLIT_NAMES, Split, Splits
from ..errors import InputError
from ..reports.answers import Answers, together
from ..reports.page import Page, Part, Section, Text, write_page
from ..reports.photo_sections import Heats, copies_parts, labels_parts, mistakes_section
from ..reports.quality_sections import certainty_section, classes_section, conditions_section
from ..training.explain import explain
from . import build
from .predictions import predictions_of
from .results import Run
from .run_facts import (
    accuracy_section,
    cost_section,
    curves_of,
    data_section,
    lead_of,
    repeat_section,
    title_of,
)
from .run_folder import read_config
from .saved_answers import answers_of

_SHOWN = 6
"""Photos of each kind: of twelve the heat maps are one batch."""
_MOST_TRAINING_PHOTOS = 5000
"""Of more, as many are looked at for wrong labels."""


@dataclass(frozen=True, eq=False)
class AtHand:
    """A run's photos, and the model of its best epoch."""

    model: nnx.Module
    splits: Splits

    @cached_property
    def place(self) -> dict[str, tuple[str, int]]:
        """The split and row of each photo by name."""
        return {
            name: (split, row)
            for split in SPLIT_NAMES
            for row, name in enumerate(getattr(self.splits, split).names)
        }

    def image(self, name: str) -> np.ndarray:
        """The pixels `[height, width, channels]` that the model gets."""
        split, row = self.place[name]
        return np.asarray(getattr(self.splits, split).images[row])

    def photo(self, name: str) -> UInt8[np.ndarray, "height width 3"]:
        """The image to be shown: grey in all three colours if it has not three."""
        pixels = self.image(name).clip(0, 255).astype(np.uint8)
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)


def write_run_page(
    path: Path, run: Run, answers: Mapping[str, Answers], at_hand: AtHand | None
) -> None:
    """Write the page of a run, finished or not.

    Args:
        path: of the page.
        run: what it is about.
        answers: of the best epoch's model, by split: validation, and test if there is one; empty
            if they are unknown.
        at_hand: its photos and model; without them the page is made from the records alone.

    Raises:
        InputError: `config.json` is damaged.
        OSError: the page cannot be written.
    """
    data: Mapping[str, Any] = read_config(run.folder)[1]["data"]
    sections = [accuracy_section(run)] if run.metrics else []
    if run.is_dead:
        at_hand = None  # it has nothing to say about any photo
    elif answers:
        sections += _quality(run, answers, at_hand)
    elif run.history:
        words = "The model's answers are not in this folder, so its mistakes cannot be shown."
        sections.append(Section("Mistakes", [Text(f"{words}{_how(run)}")]))
    if at_hand is not None and run.history:
        sections.append(Section("Labels to check, and copies", _looks(run, at_hand)))
    sections += [data_section(data), cost_section(run), repeat_section(run)]
    page = Page(
        title=title_of(run),
        lead=lead_of(run, data),
        first=curves_of(run, data),
        sections=sections,
        foot=f"Made by catdog_jax {version('catdog_jax')}: catdog-jax report RUN makes it again.",
    )
    write_page(path, page)


def _how(run: Run) -> str:
    """How to add what is missing."""
    if run.experiment.data == build.ARRAYS:
        return " They were arrays."
    return (
        " To add what is missing: catdog-jax report RUN --data PATH, with the path of its photos."
    )


def _quality(run: Run, answers: Mapping[str, Answers], at_hand: AtHand | None) -> Sequence[Section]:
    held_out = together(list(answers.values()))
    which = " and ".join(f"the {len(one)} {split}" for split, one in answers.items())
    chosen = " (the epoch was chosen by the validation photos)" if len(answers) > 1 else ""
    wrong, unsure = held_out.most_wrong(_SHOWN), held_out.least_sure(_SHOWN)
    photo, heats = None, None
    missing = f"The photos are not at hand: they are named only.{_how(run)}"
    if at_hand is not None:
        photo = lambda i: at_hand.photo(held_out.names[i])  # noqa: E731
        heats, missing = _heats(held_out, [*wrong, *unsure], at_hand)
    return [
        classes_section(held_out, f"{which} photos{chosen}"),
        certainty_section(held_out),
        mistakes_section(held_out, wrong, unsure, photo, heats, missing),
        conditions_section(held_out),
    ]


def _heats(answers: Answers, chosen: Sequence[int], at_hand: AtHand) -> tuple[Heats | None, str]:
    """Heat maps for the answers about the photos `chosen`, or why there are none."""
    # Always as many photos, so that the program is compiled once.
    rows = np.resize(chosen, 2 * _SHOWN)
    images = np.stack([at_hand.image(answers.names[row]) for row in rows])
    try:
        maps = explain(at_hand.model, images, answers.predicted[rows], batch_size=len(rows))
    except InputError as error:
        return None, f"No heat maps: {error}."
    return dict(zip(rows.tolist(), maps, strict=True)), ""


def _looks(run: Run, at_hand: AtHand) -> list[Part]:
    """Photos that may be mislabelled, and copies."""
    train, experiment = at_hand.splits.train, run.experiment
    rows = np.arange(0, len(train), -(-len(train) // _MOST_TRAINING_PHOTOS))
    looked_at: Split = train if len(rows) == len(train) else train.take(rows)
    found = predictions_of(at_hand.model, looked_at, experiment, run.class_names, checked=True)
    answers = answers_of(found, looked_at)
    split_of = {name: split for name, (split, _) in at_hand.place.items()}
    return [
        *labels_parts(answers, lambda i: at_hand.photo(answers.names[i])),
        *copies_parts(copies_in(at_hand.splits), split_of, at_hand.photo),
    ]
