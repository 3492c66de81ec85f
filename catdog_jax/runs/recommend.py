"""The recipe for photos of one's own, when none is asked for."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from ..data.splits import Splits
from ..errors import InputError, first_line, say
from ..training.hosts import from_first
from . import build
from .experiment import Experiment
from .recipes import RECIPES
from .results import Log

_SMALLEST = 96  # pixels; MobileNetV2's features of smaller images are poor
_PHOTOS = 2000  # what the recipes' epochs are meant for


def recommended(changes: Mapping[str, Any], *, strict: bool = False) -> tuple[Experiment, Splits]:
    """The recipe that suits the photos `changes["data"]`, with the changes, and the photos.

    Args:
        changes: settings that are given, by name.
        strict: as in `load_data`.

    Raises:
        InputError: as for `recommend`, or there are no such photos.
    """
    weights, size = changes.get("weights", "imagenet"), changes.get("image_size")
    suggested = from_first(recommend, weights, image_size=size)
    changes = {**changes, "weights": suggested.weights}
    experiment = replace(suggested, **changes)
    from_first(build.check, experiment)
    splits = build.load_splits(experiment, strict=strict)
    fitted = suited(suggested, len(splits.train), epochs=changes.get("epochs"))
    experiment = replace(fitted, **changes)
    say(f"no model named: {experiment.model} for at most {experiment.epochs} epochs")
    return experiment, splits


def recommend(
    weights: str = "imagenet", *, image_size: int | None = None, log: Log = say
) -> Experiment:
    """Model 5 where pretrained weights can be had, else model 6, on a GPU or TPU its deep form.

    Args:
        weights: as in `Experiment`; none for a network from scratch.
        image_size: of images that cannot be resized; by default the recipe's.
        log: gets a line if weights would have been better, but cannot be had.

    Raises:
        InputError: the weights file does not exist.
    """
    size = {} if image_size is None else {"image_size": image_size}
    on_cpu = jax.default_backend() == "cpu"  # where the deep one takes hours
    scratch = replace(RECIPES["model6" if on_cpu else "model6_deep"], **size)
    if image_size is not None and image_size < _SMALLEST:
        if weights not in ("none", "imagenet"):
            raise InputError(f"weights need images of {_SMALLEST} pixels or more, not {image_size}")
        return scratch
    if weights == "none":
        return scratch
    tuned = replace(RECIPES["model5"], weights=weights, **size)
    try:
        build.weights_path(tuned)
    except InputError as error:
        if weights != "imagenet":
            raise
        log(f"no pretrained weights ({first_line(error)}): training model 6 from scratch instead")
        return scratch
    return tuned


def suited(recipe: Experiment, photos: int, *, epochs: int | None = None) -> Experiment:
    """`recipe` with epochs that suit the number of training photos, and early stopping.

    Epochs go with 1 / √photos, from 0.4 to 3 times the recipe's: fewer photos get more epochs, so
    that there are enough steps.
    """
    factor = min(3.0, max(0.4, math.sqrt(_PHOTOS / max(photos, 1))))
    if epochs is not None:  # asked for
        factor = epochs / recipe.epochs
    head, epochs = (round(factor * n) for n in (recipe.head_epochs, recipe.epochs))
    return replace(recipe, head_epochs=head, epochs=epochs, patience=max(10, epochs // 3))
