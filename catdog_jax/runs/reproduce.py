"""The post from end to end: its models over several seeds, and the summary beside its numbers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, printable, say
from ..files import make_folder, written_whole
from ..reports import report
from ..reports.sections import draw_augmentations, draw_data
from ..training.mesh import set_up_jax
from .build import initial_model, load_splits
from .messages import describe
from .recipes import RECIPES, Experiment
from .run_folder import METRICS, Run, is_finished, load_run, read_config
from .runner import Log, run


def reproduce(
    models: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    adapt: Callable[[Experiment], Experiment] = lambda experiment: experiment,
    strict: bool = False,
    log: Log = say,
) -> list[Run]:
    """Run each model with each seed into a folder of its own, then draw and tabulate them all.

    Runs that are finished already are read, so that an interrupted series goes on where it was.

    Args:
        models: names of `catdog_jax.runs.recipes.RECIPES`.
        seeds: a run each.
        out: the folder of the series.
        adapt: changes each recipe: another source, fewer epochs. Data settings must agree.
        strict: refuse the data if a single photo of them cannot be read.
        log: takes one line at a time.

    Returns:
        The runs. `out` then also holds `summary.md`, `summary.json`, `curves.png` and the figures
        of the data and of augmentation.

    Raises:
        InputError: a wrong model, source or weights file.
    """
    for model in models:
        if model not in RECIPES:
            raise InputError(f"unknown model '{model}'; choose from: {', '.join(RECIPES)}")
    if not models:
        raise InputError(f"no models to run; choose from: {', '.join(RECIPES)}")
    set_up_jax()
    recipes = [adapt(RECIPES[model]) for model in models]
    splits = load_splits(recipes[0], strict=strict)
    for line in describe(splits):
        log(line)
    # Wrong weights or a folder in the way should show now, not after the models before are trained.
    for recipe in recipes:
        initial_model(recipe, len(splits.class_names))
        for seed in seeds:
            is_finished(_folder(out, recipe, seed), replace(recipe, seed=seed), splits)
    make_folder(out)
    finished_runs(out)
    draw_data(splits, out)
    draw_augmentations(splits, out)
    runs = []
    # Seeds outermost: a series cut short still has every model.
    for seed in seeds:
        for recipe in recipes:
            experiment = replace(recipe, seed=seed)
            try:
                runs.append(run(experiment, _folder(out, recipe, seed), splits=splits, log=log))
            except KeyboardInterrupt:
                log("or all that is left of the series: the command that began it, again")
                raise
            summarize(out)
    for line in ["", *(out / "summary.md").read_text("utf-8").splitlines()]:
        log(line)
    return runs


def _folder(out: Path, experiment: Experiment, seed: int) -> Path:
    return out / f"{experiment.model}-seed{seed}"


def finished_runs(out: Path) -> list[Run]:
    """The finished runs in the folder of a series, by model and seed.

    Raises:
        InputError: one of them is damaged.
    """
    runs = [load_run(path.parent) for path in out.glob(f"*/{METRICS}")]
    return sorted(runs, key=lambda run: (run.metrics["model"], run.metrics["seed"]))


def summarize(out: Path) -> None:
    """Write `summary.md`, `summary.json` and `curves.png` for all finished runs in `out`.

    Raises:
        InputError: one of them is damaged.
    """
    runs = finished_runs(out)
    metrics = [run.metrics for run in runs]
    configs = [read_config(run.folder)[0] for run in runs]
    sources = sorted(
        {f"{printable(Path(config.data).name)}, {config.epochs} epochs" for config in configs}
    )
    devices = sorted({run["device"] for run in metrics})
    tables = (
        f"{report.summary_table(metrics)}\n\n"
        "Mean ± standard deviation (lowest … highest) over the seeds that lived.\n\n"
        f"{report.runs_table(metrics)}\n\n"
        "95 % Wilson intervals in brackets. The published numbers are of photos, 20 epochs.\n"
        f"Here: {'; '.join(sources)}; {', '.join(devices)}.\n"
    )
    for name, text in (
        ("summary.md", tables),
        ("summary.json", json.dumps(metrics, indent=2) + "\n"),
    ):
        with written_whole(out / name) as file:
            file.write(text)
    histories = {
        model: [run.history for run in runs if run.metrics["model"] == model]
        for model in dict.fromkeys(run.metrics["model"] for run in runs)
    }
    report.plot_over_published(out / "curves.png", histories)
