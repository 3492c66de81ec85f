"""Commands that train."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, say
from ..files import expanded, make_folder
from ..runs.experiment import Experiment
from ..runs.named import short
from ..runs.naming import changed, folder_name
from ..runs.recipes import RECIPES, recipe
from .settings import LrFind, Reproduce, Sweep, Train
from .start import start_jax

if TYPE_CHECKING:
    from ..data.splits import Splits
    from ..runs.results import Run


def train(options: Train) -> "Run | list[Run]":
    """Train a model, once or with several seeds, or resume a run."""
    if options.seeds is not None:
        return _train_seeds(options, options.seeds)
    done = _train_anew(options) if options.resume is None else _resume(options, options.resume)
    if options.predictions:
        from ..training.hosts import from_first

        path = expanded(options.predictions)
        from_first(lambda: done.predict(split="test").write_csv(path))
    say(f"report.html, history.csv, metrics.json and the checkpoints are in {done.folder}")
    return done


def _train_anew(options: Train) -> "Run":
    if options.finish:
        raise InputError("--finish ends a run early; it needs --resume RUN")
    from ..runs.runner import run
    from ..runs.terminal import describe

    experiment, splits = _with_photos(options)
    for line in describe(splits):
        say(line)
    return run(experiment, options.out and expanded(options.out), splits=splits)


def _with_photos(options: Train | LrFind) -> "tuple[Experiment, Splits]":
    """The settings, those of a recommended recipe if no model is named, and the photos."""
    choose = not options.model and "data" in options.changes
    experiment = Experiment("") if choose else _experiment(options)
    from ..runs.build import check, load_splits
    from ..runs.recommend import recommended
    from ..training.hosts import from_first

    start_jax(options if isinstance(options, Train) and options.seeds is None else None)
    if choose:
        return recommended(options.changes, strict=options.strict)
    from_first(check, experiment)
    return experiment, load_splits(experiment, strict=options.strict)


def _experiment(options: Train | LrFind) -> Experiment:
    if not options.model:
        raise InputError(f"which model? {', '.join(RECIPES)}, or your own as FILE.py:NAME")
    return replace(recipe(options.model), **options.changes)


def _train_seeds(options: Train, count: int) -> list["Run"]:
    if options.resume or options.finish or options.predictions:
        raise InputError(
            "--seeds trains several runs; --resume, --finish and --predictions are for one"
        )
    if (options.coordinator, options.processes, options.process) != (None, None, None):
        raise InputError("several processes train one run: give each seed a command of its own")
    seeds = _seeds(count, options.seed)
    experiment = _experiment(options) if options.model else _with_photos(options)[0]
    out = options.out or Path("runs") / folder_name(experiment, changed(experiment))
    return _series([experiment], seeds, out, options.strict)


def _series(
    experiments: list[Experiment], seeds: Iterable[int], out: Path, strict: bool
) -> list["Run"]:
    out = expanded(out)
    from ..runs.series import over_seeds, run_series

    start_jax()
    runs = run_series(over_seeds(experiments, seeds), out, strict=strict)
    say(f"report.html, summary.md and a folder per run are in {out}")
    return runs


def _seeds(count: int, first: int = 0) -> range:
    if not 1 <= count <= 1000:
        raise InputError(f"--seeds must be from 1 to 1000, not {count}")
    return range(first, first + count)


def sweep(options: Sweep) -> list["Run"]:
    """Train with all combinations of settings."""
    if not options.models:
        raise InputError(f"which models? {', '.join(RECIPES)}, or your own as FILE.py:NAME")
    return _series(options.experiments(), _seeds(options.seeds), options.out, options.strict)


def _resume(options: Train, folder: Path) -> "Run":
    given = options.changes.keys() - {"epochs", "data", "data_dir"}
    if options.model or options.out or options.strict or given:
        raise InputError(
            "--resume continues a run with its own settings; only --epochs, --data, --data-dir, "
            "--finish and --predictions can be given with it"
        )
    from ..runs.runner import resume

    start_jax(options)
    return resume(expanded(folder), finish=options.finish, **options.changes)


def reproduce(options: Reproduce) -> list["Run"]:
    """Train the post's models over several seeds into one folder, with a summary."""
    from ..runs.reproduce import reproduce as reproduce_series

    seeds = _seeds(options.seeds)
    start_jax()
    runs = reproduce_series(
        options.models,
        seeds,
        expanded(options.out),
        adapt=options.adapt,
        strict=options.strict,
    )
    say(f"report.html, summary.md and a folder per run are in {expanded(options.out)}")
    return runs


def find_rate(options: LrFind) -> None:
    """Suggest a learning rate, and draw how the loss depends on it."""
    from ..reports.plots import plot_rates
    from ..runs.lr_find import find_learning_rate

    experiment, splits = _with_photos(options)
    curve = find_learning_rate(
        experiment, splits, least=options.least, most=options.most, steps=options.steps
    )
    out = expanded(options.out) / "lr_find.png"
    make_folder(out.parent)
    title = f"{short(experiment.model)}, seed {experiment.seed}"
    plot_rates(out, curve.rates, curve.losses, curve.smoothed, curve.suggestion, title)
    say(curve.verdict)
    say(f"the curve is in {out}")
