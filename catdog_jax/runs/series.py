"""A series: several experiments, each in a folder of its own, and a summary of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.splits import Splits
from ..errors import InputError, RunError, first_line, printable, say
from ..files import is_file, make_folder, written_whole
from ..reports import plots, tables
from . import build
from .compare import HOW_TO_READ, entries_of, in_order
from .comparison_page import write_comparison_page
from .experiment import Experiment
from .naming import differing, folder_name
from .results import Log, Run, load_run
from .run_folder import (
    CONFIG,
    METRICS,
    REPORT,
    absolute,
    inputs_of,
    is_finished,
    read_config,
)
from .runner import model_to_train, run
from .terminal import describe

POSTS_PHOTOS = "240a27920562f6527fc68e34f5e635b9540ea0a4dc9280ce633e9a033961d60f"
"""Fingerprint of the photos of cats_and_dogs_filtered.zip."""

_DATA = ("data", "data_dir", "image_size", "sizes", "split_seed")


def over_seeds(experiments: Iterable[Experiment], seeds: Iterable[int]) -> list[Experiment]:
    """Each experiment with each seed; seed by seed, so that a part of a series has all of them."""
    experiments = list(experiments)
    return [replace(one, seed=seed) for seed in seeds for one in experiments]


def run_series(
    experiments: Sequence[Experiment], out: Path, *, strict: bool = False, log: Log = say
) -> list[Run]:
    """Run each experiment in its own folder in `out`; tabulate and plot all that are there.

    Finished runs are only read, so an interrupted series continues where it stopped. A run that
    fails does not keep the others from running.

    Args:
        experiments: in the order to run them; equal ones count once.
        out: the folder of the series.
        strict: refuse data if a photo cannot be read.
        log: is called with one line at a time.

    Returns:
        The runs. `out` then also holds `summary.md`, `summary.json`, `curves.png` and
        `report.html`.

    Raises:
        InputError: a model, a source, a weights file or another setting is wrong, or a folder holds
            something else. Nothing has been written then.
        RunError: some runs failed, after all others were finished; or nothing can be written.
    """
    if is_file(out / CONFIG):
        raise InputError(f"{out} is a run; choose another folder for a series")
    experiments = list(dict.fromkeys(map(absolute, experiments)))
    variants = list(dict.fromkeys(map(_unseeded, experiments)))
    # Report what is wrong now, not after hours of training.
    for variant in variants:
        build.check(variant)
    splits = _load(variants, strict, log)
    inputs = {variant: inputs_of(variant, splits[variant]) for variant in variants}
    for variant in variants:
        model_to_train(variant, splits[variant])
    folders = _folders(experiments, out)
    done = [is_finished(folders[one], one, inputs[_unseeded(one)]) for one in experiments]
    make_folder(out)
    finished_runs(out)
    log(f"{len(experiments)} runs in {out}, {sum(done)} of them finished")
    runs: list[Run] = []
    failed: dict[str, str] = {}
    for one in experiments:
        try:
            runs.append(run(one, folders[one], splits=splits[_unseeded(one)], log=log))
        except KeyboardInterrupt:
            log("or, for the whole series: repeat the command that started it")
            raise
        except RunError as error:
            if isinstance(error.__cause__, OSError):  # a full disk would stop the others, too
                raise
            failed[folders[one].name] = str(error)
            log(f"failed: {error}")
        summarize(out, failed)
    if runs:
        table = (out / "summary.md").read_text("utf-8").partition("\n\n")[0]
        for line in ["", *table.splitlines()]:
            log(line)
    if failed:
        raise RunError(f"{len(failed)} of {len(experiments)} runs failed: {', '.join(failed)}")
    return runs


def _unseeded(experiment: Experiment) -> Experiment:
    return replace(experiment, seed=0)


def _load(variants: Iterable[Experiment], strict: bool, log: Log) -> dict[Experiment, Splits]:
    """The data of each experiment; those of the same source, size and split are loaded once."""
    loaded: dict[Any, Splits] = {}
    found = {}
    for variant in variants:
        key = tuple(getattr(variant, name) for name in _DATA)
        if key not in loaded:
            loaded[key] = build.load_splits(variant, strict=strict)
            for line in describe(loaded[key]):
                log(line)
        found[variant] = loaded[key]
    return found


def _folders(experiments: Sequence[Experiment], out: Path) -> dict[Experiment, Path]:
    """Where each run is already, or is to be: named after the settings that differ, and the seed.

    Raises:
        InputError: two of them would have the same folder.
    """
    there = {read_config(path.parent)[0]: path.parent for path in out.glob(f"*/{CONFIG}")}
    settings, folders = differing([*experiments, *there]), {}
    for one in experiments:
        name = f"{folder_name(one, settings)}-seed{one.seed}"
        folder = there.get(one, out / name)
        if folder in folders.values():
            raise InputError(f"two runs would be named {name}; rename one of the files they use")
        folders[one] = folder
    return folders


def finished_runs(out: Path) -> list[Run]:
    """The finished runs in the folder of a series, by model, settings and seed.

    Raises:
        InputError: one of them is damaged.
    """
    return in_order([load_run(path.parent) for path in out.glob(f"*/{METRICS}")])


def summarize(out: Path, failed: Mapping[str, str] | None = None) -> None:
    """Write `summary.md`, `summary.json`, `curves.png` and `report.html` for all finished runs.

    Published numbers are included only if all runs used the post's photos and only their models
    differ.

    Args:
        out: the folder of the series.
        failed: what went wrong in other runs, by the name of their folder.

    Raises:
        InputError: one of the runs is damaged.
    """
    runs = finished_runs(out)
    if not runs:
        return
    entries = entries_of(runs)
    metrics = [run.metrics for run in runs if run.metrics]
    of_models = entries[0].label.keys() == {"model"}
    published = tables.published() if of_models and all(map(_is_of_the_post, runs)) else None
    data = sorted({printable(Path(run.experiment.data).name) for run in runs})
    lines = [
        tables.series_table(entries, published),
        HOW_TO_READ + " The published numbers are of 20 epochs." * (published is not None),
        tables.runs_table(entries),
        f"Data: {', '.join(data)}. {', '.join(sorted({one['device'] for one in metrics}))}.",
        *(f"Failed: {name}: {why}" for name, why in (failed or {}).items()),
    ]
    records = [
        {"folder": run.folder.name, "settings": dict(entry.label), **(run.metrics or {})}
        for run, entry in zip(runs, entries, strict=True)
    ]
    for name, text in (
        ("summary.md", "\n\n".join(lines)),
        ("summary.json", json.dumps(records, indent=2)),
    ):
        with written_whole(out / name) as file:
            file.write(f"{text}\n")
    if of_models:
        posted = published["histories"] if published else {}
        curves = {model: columns["val_accuracy"] for model, columns in posted.items()}
        plots.plot_curves(out / "curves.png", entries, curves)
    else:
        plots.plot_comparison(out / "curves.png", entries)
    try:
        write_comparison_page(out / REPORT, runs)
    except Exception as error:  # the series goes on
        say(
            f"note: {REPORT} could not be made ({first_line(error)}); catdog-jax report tries again"
        )


def _is_of_the_post(run: Run) -> bool:
    data, sizes = run.experiment.data, run.experiment.sizes
    its_photos = data == "cats_and_dogs_filtered" or run.inputs["photos"] == POSTS_PHOTOS
    return its_photos and sizes is None
