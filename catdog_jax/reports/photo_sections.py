"""Sections of a page that show photos: mistakes, doubts, labels to check, copies."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from .answers import Answers
from .page import Card, Cards, Part, Section, Text
from .pictures import data_uri, hot_place, with_heat

Photo: TypeAlias = UInt8[np.ndarray, "height width 3"]
Heats: TypeAlias = Mapping[int, Float[np.ndarray, "height width"]]
"""Heat maps by index of the photo."""

DOUBT = 0.05
"""A label whose probability is at most this after training on it may be wrong."""
_TOO_MANY = 0.06
"""Known data sets have some 3 % wrong labels (Northcutt et al. 2021, arXiv:2103.14749); a model
that doubts twice as many is more likely wrong itself."""


def mistakes_section(
    answers: Answers,
    wrong: Sequence[int],
    unsure: Sequence[int],
    photo: Callable[[int], Photo] | None,
    heats: Heats | None,
    missing: str,
) -> Section:
    """The photos it got most wrong, and those it was least sure of.

    Args:
        answers: about held-out photos.
        wrong: indices of the mistakes to show.
        unsure: of the photos it was least sure of.
        photo: gives a photo by index; None if they are not at hand.
        heats: heat maps for the predicted class; None if there are none.
        missing: why photos or heat maps are missing, if they are.
    """

    def cards(chosen: Sequence[int]) -> Cards:
        return Cards([_card(answers, i, photo, heats) for i in chosen])

    count, parts = int((~answers.right).sum()), []
    how = (
        "Left the photo as the model sees it; right, the brighter the more a place speaks for the "
        "answer (Grad-CAM)."
    )
    parts.append(Text(how if photo is not None and heats is not None else missing))
    if wrong:
        which = (
            "mistakes, the surest first"
            if len(wrong) == count
            else (f"mistakes; the {len(wrong)} of which it was surest")
        )
        parts += [Text(f"On {len(answers)} photos it made {count} {which}:"), cards(wrong)]
    else:
        parts.append(Text(f"It made no mistake on {len(answers)} photos."))
    parts += [Text("The photos it was least sure of:"), cards(unsure)]
    return Section("What it got most wrong, and what it was least sure of", parts)


def _card(
    answers: Answers, index: int, photo: Callable[[int], Photo] | None, heats: Heats | None
) -> Card:
    text, name = answers.answer(index), answers.names[index]
    if photo is None:
        return Card(None, "", name, f"{text}.")
    pixels = photo(index)
    if heats is None:
        return Card(data_uri(pixels), f"Photo. {text}", name, f"{text}.")
    place = hot_place(heats[index])
    picture = data_uri(pixels, with_heat(pixels, heats[index]))
    return Card(picture, f"Photo and heat map. {text}; {place}", name, f"{text}; {place}.")


def labels_parts(answers: Answers, photo: Callable[[int], Photo], most: int = 6) -> Sequence[Part]:
    """Training photos whose label may be wrong: at most `most` of them are shown.

    Args:
        answers: about training photos.
        photo: gives one of these by index.
        most: how many to show.
    """
    doubted, few = answers.doubted(DOUBT), f"{100 * DOUBT:.0f} %"
    if not doubted:
        return [
            Text(
                "Labels: none seems wrong. There is no photo among the "
                f"{len(answers)} training photos looked at to whose label the model gives {few} "
                "or less after training on it."
            )
        ]
    if len(doubted) > _TOO_MANY * len(answers):
        return [
            Text(
                f"Labels: the model gives {few} or less to the label of {len(doubted)} of "
                f"{len(answers)} training photos: too many to suspect the labels. It is too weak "
                "to judge them."
            )
        ]
    words = (
        f"Labels to check: to {len(doubted)} of {len(answers)} training photos the model gives "
        f"{few} or less for their label, though it was trained on it. Some are mislabelled, others "
        "only hard: these are suggestions."
    )
    shown = doubted[:most]
    if len(shown) < len(doubted):
        words += f" The {len(shown)} that it doubts most:"
    return [Text(words), Cards([_card(answers, i, photo, None) for i in shown], small=True)]


def copies_parts(
    groups: Sequence[Sequence[str]] | None,
    split_of: Mapping[str, str],
    photo: Callable[[str], Photo],
    most: int = 6,
) -> Sequence[Part]:
    """Photos that look alike: of at most `most` groups two each are shown.

    Args:
        groups: names of photos that look alike, those in no split are ignored; None if unknown.
        split_of: the split of each photo by name.
        photo: gives a photo by name.
        most: how many groups to show.
    """
    if groups is None:
        return [Text("Copies were not looked for.")]
    used = [[name for name in group if name in split_of] for group in groups]
    used = [group for group in used if len(group) > 1]
    if not used:
        return [Text("Copies: no two photos look like copies of one another.")]
    crossing = [group for group in used if len({split_of[name] for name in group}) > 1]
    shown = sorted(used, key=lambda group: group not in crossing)[:most]
    cards = []
    for first, *others in shown:
        # If the group crosses splits, the pair that shows it.
        other = next((name for name in others if split_of[name] != split_of[first]), others[0])
        where = " and ".join(dict.fromkeys((split_of[first], split_of[other])))
        picture = data_uri(photo(first), photo(other))
        alt = f"Two photos that look alike, of {where}"
        cards.append(Card(picture, alt, f"{first} and {other}", f"look alike; {where}."))
    words = f"Copies: groups of photos that look alike: {len(used)}, across splits {len(crossing)}"
    words += ", which makes accuracy look better than it is." if crossing else "."
    if len(used) > len(shown):
        words += f" {len(shown)} of them:"
    return [Text(words), Cards(cards)]
