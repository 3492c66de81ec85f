"""The whole post: its models over several seeds, with a summary beside its numbers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, printable, say
from ..files import make_folder, written_whole
from ..reports import plots, tables
from ..reports.sections import draw_augmentations, draw_data
from . import build
from .experiment import Experiment
from .initial import initial_model
from .recipes import RECIPES
from .results import Log, Run, load_run
from .run_folder import METRICS, absolute, inputs_of, is_finished
from .runner import run
from .terminal import describe

POSTS_PHOTOS = "240a27920562f6527fc68e34f5e635b9540ea0a4dc9280ce633e9a033961d60f"
"""Fingerprint of the photos of cats_and_dogs_filtered.zip."""


def reproduce(
    models: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    adapt: Callable[[Experiment], Experiment] = lambda experiment: experiment,
    strict: bool = False,
    log: Log = say,
) -> list[Run]:
    """Run each model with each seed in its own folder, then plot and tabulate all of them.

    Finished runs are only read, so an interrupted series continues where it stopped.

    Args:
        models: keys of `catdog_jax.RECIPES`.
        seeds: one run each.
        out: the folder of the series.
        adapt: changes each recipe (another source, fewer epochs); data settings must agree.
        strict: refuse the data if a photo cannot be read.
        log: is called with one line at a time.

    Returns:
        The runs. `out` then also holds `summary.md`, `summary.json`, `curves.png` and figures of
        the data and of augmentation.

    Raises:
        InputError: a model, the source or the weights file is wrong.
    """
    choices = ", ".join(RECIPES)
    for model in models:
        if model not in RECIPES:
            raise InputError(f"unknown model '{model}'; choose from: {choices}")
    if not models:
        raise InputError(f"no models to run; choose from: {choices}")
    recipes = [absolute(adapt(RECIPES[model])) for model in models]
    for recipe in recipes:
        build.check(recipe)
    splits = build.load_splits(recipes[0], strict=strict)
    for line in describe(splits):
        log(line)
    # Report wrong weights or occupied folders now, not after hours of training.
    for recipe in recipes:
        initial_model(recipe, len(splits.class_names))
        inputs = inputs_of(recipe, splits)
        for seed in seeds:
            experiment = replace(recipe, seed=seed)
            is_finished(_folder(out, experiment), experiment, inputs)
    make_folder(out)
    finished_runs(out)
    draw_data(splits, out)
    draw_augmentations(splits, out)
    runs = []
    for seed in seeds:  # outermost, so that an interrupted series has every model
        for recipe in recipes:
            experiment = replace(recipe, seed=seed)
            try:
                runs.append(run(experiment, _folder(out, experiment), splits=splits, log=log))
            except KeyboardInterrupt:
                log("or, for the whole series: repeat the command that started it")
                raise
            summarize(out)
    for line in ["", *(out / "summary.md").read_text("utf-8").splitlines()]:
        log(line)
    return runs


def _folder(out: Path, experiment: Experiment) -> Path:
    return out / f"{experiment.model}-seed{experiment.seed}"


def finished_runs(out: Path) -> list[Run]:
    """The finished runs in the folder of a series, by model and seed.

    Raises:
        InputError: one of them is damaged.
    """
    runs = [load_run(path.parent) for path in out.glob(f"*/{METRICS}")]
    return sorted(runs, key=lambda run: (run.experiment.model, run.experiment.seed))


def _is_of_the_post(run: Run) -> bool:
    data, sizes = run.experiment.data, run.experiment.sizes
    its_photos = data == "cats_and_dogs_filtered" or run.inputs["photos"] == POSTS_PHOTOS
    return its_photos and sizes is None


def summarize(out: Path) -> None:
    """Write `summary.md`, `summary.json` and `curves.png` for all finished runs in `out`.

    Published numbers are included only if all runs used the post's photos.

    Raises:
        InputError: one of the runs is damaged.
    """
    runs = finished_runs(out)
    metrics: list[Any] = [run.metrics for run in runs]
    published = tables.published() if all(map(_is_of_the_post, runs)) else None
    settings = sorted(
        {f"{printable(Path(r.experiment.data).name)}, {r.experiment.epochs} epochs" for r in runs}
    )
    devices = sorted({one["device"] for one in metrics})
    lines = [
        tables.summary_table(metrics, published),
        "The best epoch is the one of the best validation accuracy. With several seeds: mean ± "
        "standard deviation (lowest … highest) over those that lived.",
        tables.runs_table(metrics),
        f"95 % Wilson intervals in brackets. {'; '.join(settings)}; {', '.join(devices)}.",
    ]
    if published:
        lines.append("The published numbers are of 20 epochs.")
    for name, text in (
        ("summary.md", "\n\n".join(lines)),
        ("summary.json", json.dumps(metrics, indent=2)),
    ):
        with written_whole(out / name) as file:
            file.write(f"{text}\n")

    def histories(*, dead: bool) -> dict[str, Any]:
        chosen = [run for run in runs if run.is_dead == dead]
        models = dict.fromkeys(run.experiment.model for run in chosen)
        return {m: [run.history for run in chosen if run.experiment.model == m] for m in models}

    posted = published["histories"] if published else {}
    plots.plot_curves(
        out / "curves.png",
        histories(dead=False),
        histories(dead=True),
        {model: columns["val_accuracy"] for model, columns in posted.items()},
    )
