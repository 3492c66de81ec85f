"""The whole post: its recipes over several seeds, beside its numbers, and its figures."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError, say
from ..reports.sections import draw_augmentations, draw_data
from .build import load_splits
from .experiment import Experiment
from .recipes import RECIPES
from .results import Log, Run
from .series import over_seeds, run_series


def reproduce(
    models: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    adapt: Callable[[Experiment], Experiment] = lambda experiment: experiment,
    strict: bool = False,
    log: Log = say,
) -> list[Run]:
    """Run the recipes as a series, see `run_series`, and draw its data and augmentations.

    Args:
        models: keys of `catdog_jax.RECIPES`.
        seeds: one run each.
        out: the folder of the series.
        adapt: changes each recipe (another source, fewer epochs).
        strict: refuse the data if a photo cannot be read.
        log: is called with one line at a time.

    Raises:
        InputError: there is no such recipe; or as for `run_series`.
        RunError: as for `run_series`.
    """
    choices = ", ".join(RECIPES)
    for model in models:
        if model not in RECIPES:
            raise InputError(f"unknown model '{model}'; choose from: {choices}")
    if not models:
        raise InputError(f"no models to run; choose from: {choices}")
    recipes = [adapt(RECIPES[model]) for model in models]
    runs = run_series(over_seeds(recipes, seeds), out, strict=strict, log=log)
    splits = load_splits(recipes[0])
    draw_data(splits, out)
    draw_augmentations(splits, out)
    return runs
