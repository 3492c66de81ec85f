"""What each command does, given its options.

Modules that need JAX are imported inside the commands, so that `--help` is fast.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import (
    Compare,
    Data,
    Demo,
    Evaluate,
    LrFind,
    Predict,
    Reproduce,
    Settings,
    Sweep,
    Train,
)
from .errors import InputError, first_line, say
from .files import expanded, make_folder
from .runs.experiment import Experiment
from .runs.named import short
from .runs.naming import changed, folder_name
from .runs.recipes import POST, RECIPES, recipe

if TYPE_CHECKING:
    from .data.splits import Splits
    from .runs.classifier import Classifier, Photo
    from .runs.results import Run


def train(options: Train) -> "Run | list[Run]":
    """Train a model, once or with several seeds, or resume a run."""
    if options.seeds is not None:
        return _train_seeds(options, options.seeds)
    done = _train_anew(options) if options.resume is None else _resume(options, options.resume)
    if options.predictions:
        done.predict(split="test").write_csv(expanded(options.predictions))
    say(f"report.html, history.csv, metrics.json and the checkpoints are in {done.folder}")
    return done


def _train_anew(options: Train) -> "Run":
    if options.finish:
        raise InputError("--finish ends a run early; it needs --resume RUN")
    from .runs.runner import run
    from .runs.terminal import describe

    experiment, splits = _with_photos(options)
    for line in describe(splits):
        say(line)
    return run(experiment, options.out and expanded(options.out), splits=splits)


def _with_photos(options: Train | LrFind) -> "tuple[Experiment, Splits]":
    """The settings, those of a recommended recipe if no model is named, and the photos."""
    choose = not options.model and "data" in options.changes
    experiment = Experiment("") if choose else _experiment(options)
    from .runs.build import check, load_splits
    from .runs.recommend import recommended

    _start_jax()
    if choose:
        return recommended(options.changes, strict=options.strict)
    check(experiment)
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
    seeds = _seeds(count, options.seed)
    experiment = _experiment(options) if options.model else _with_photos(options)[0]
    out = options.out or Path("runs") / folder_name(experiment, changed(experiment))
    return _series([experiment], seeds, out, options.strict)


def _series(
    experiments: list[Experiment], seeds: Iterable[int], out: Path, strict: bool
) -> list["Run"]:
    out = expanded(out)
    from .runs.series import over_seeds, run_series

    _start_jax()
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
    from .runs.runner import resume

    _start_jax()
    return resume(expanded(folder), finish=options.finish, **options.changes)


def reproduce(options: Reproduce) -> list["Run"]:
    """Train the post's models over several seeds into one folder, with a summary."""
    from .runs.reproduce import reproduce as reproduce_series

    seeds = _seeds(options.seeds)
    _start_jax()
    runs = reproduce_series(
        options.models,
        seeds,
        expanded(options.out),
        adapt=options.adapt,
        strict=options.strict,
    )
    say(f"report.html, summary.md and a folder per run are in {expanded(options.out)}")
    return runs


def compare_runs(options: Compare) -> None:
    """Tabulate and plot runs."""
    from .runs.compare import compare

    compare(options.runs, options.out)
    say(f"compare.md and compare.png are in {expanded(options.out)}")


def find_rate(options: LrFind) -> None:
    """Suggest a learning rate, and draw how the loss depends on it."""
    from .reports.plots import plot_rates
    from .runs.lr_find import find_learning_rate

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


def demo(options: Demo) -> None:
    """Train on drawings, and classify photos."""
    from .models.keras_weights import cached_official_weights

    weights = options.weights or cached_official_weights()
    changes = {name: getattr(options, name) for name in ("epochs", "image_size", "sizes")}
    changes |= {"data": "sketches"} | ({"weights": str(weights)} if weights else {})
    settings = Settings(model="", changes=changes)
    names = [name for name in POST if weights or RECIPES[name].weights == "none"]
    _start_jax()
    from .runs.demo import demo as show

    say("These are drawings made by a program, not photos, which are harder to tell apart.")
    out = expanded(options.out)
    show([settings.adapt(RECIPES[name]) for name in names], out, _named_photos(options.photos))
    say(f"Curves, tables and a folder for each run are in {out}.")
    if not weights:
        say("Model 4, pretrained, was left out: give its weights with --weights.")
    say("For the real photos (68 MB) and the weights of model 4 (9 MB): catdog-jax reproduce")


def show_data(options: Data) -> None:
    """Count and draw a data set."""
    from .data.load import load_data
    from .reports.sections import draw_data
    from .runs.terminal import describe

    splits = load_data(
        options.source,
        options.image_size,
        options.data_dir,
        options.split_seed,
        sizes=options.sizes,
        strict=options.strict,
    )
    for line in describe(splits):
        say(line)
    if splits.folder:
        say(f"  prepared: {splits.folder}")
    out = expanded(options.out)
    make_folder(out)
    draw_data(splits, out)
    say(f"labels.png and photos.png are in {out}")


def evaluate_run(options: Evaluate) -> None:
    """Print a run's accuracy."""
    from .runs.results import load_run
    from .runs.terminal import accuracy_line

    _start_jax()
    run = load_run(expanded(options.run), checkpoint=options.checkpoint)
    _warn_of_death(run)
    if run.metrics is None:
        done, planned = len(run.history), run.experiment.epochs
        say(f"note: {run.folder} is unfinished, {done} of {planned} epochs")
    predictions = run.predict(
        options.data, data_dir=options.data_dir, split=options.split, unseen=options.unseen
    )
    if options.predictions:
        predictions.write_csv(expanded(options.predictions))
    say(f"{options.split} accuracy: {accuracy_line(run.judge(predictions))}")


def predict_photos(options: Predict) -> int:
    """Print a line per photo; returns 1 if one of them cannot be read."""
    if not options.photos:
        raise InputError("no photos to classify; name photos, folders of photos, or - for stdin")
    if options.json and options.csv:
        raise InputError("--json and --csv exclude each other; give one of them")
    first = expanded(options.photos[0])
    if options.run is None and (first / "config.json").is_file():
        raise InputError(f"{first} is a run; to use its model, write --run {first}")
    from .runs.terminal import answer_line, csv_line

    asked = asked_classifier(options.run)
    if options.csv:
        say(csv_line(["file", "class", "sure", *asked.class_names, "error"]))
    missing = 0
    for record in asked.answers(_named_photos(options.photos)):
        missing += "error" in record
        if options.json:
            say(json.dumps(record))
        elif options.csv:
            shares = record.get("probabilities", {})
            cells = [
                *map(record.get, ("file", "class", "sure")),
                *map(shares.get, asked.class_names),
            ]
            say(csv_line([*cells, record.get("error")]))
        else:
            say(answer_line(record))
    return 1 if missing else 0


def asked_classifier(run: Path | None) -> "Classifier":
    """Start JAX and load the model of a run, or the package's, and say which that is."""
    from .runs.classifier import classifier

    _start_jax()
    if run is None:
        asked = classifier()
        print(f"note: {asked.about}", file=sys.stderr)
        return asked
    from .runs.results import load_run

    loaded = load_run(expanded(run))
    _warn_of_death(loaded)
    return classifier(loaded)


def _named_photos(given: Iterable[str]) -> "Iterator[Photo]":
    from .data.listing import list_photos

    for word in given:
        if word == "-":
            yield word, sys.stdin.buffer.read()
            continue
        try:
            yield from ((str(path), path) for path in list_photos(word))
        except InputError as error:
            yield word, error


def _warn_of_death(run: "Run") -> None:
    if run.is_dead:
        print(
            "note: this model died in training: its answer is the same for any photo",
            file=sys.stderr,
        )


def _start_jax() -> None:
    """Set up JAX; refuse a platform in JAX_PLATFORMS that does not exist here."""
    import jax

    from .training.mesh import set_up_jax

    set_up_jax()
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # an empty one where a plugin is missing
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"JAX has no such device here: JAX_PLATFORMS={asked} ({first_line(error)}); install "
            "JAX for it, or leave JAX_PLATFORMS out"
        ) from error
