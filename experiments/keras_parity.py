"""Compare accuracy histories with Keras: the four models over several seeds, here and in Keras.

    python experiments/keras_parity.py --data PATH/cats_and_dogs_filtered.zip --weights FILE

Trains each model here and in Keras (on TensorFlow, already a dependency) on the same photos and
writes `keras_parity.md`, `.json` and `.png` to `--out`: the best validation accuracy with its
spread, the last epochs, the number of dead runs, and mean curves with bands. The criterion: the
mean best validation accuracies differ by at most twice the standard error of their difference. Runs
already in `--out` are reused, so an interrupted comparison continues; other seeds found there are
included.

`--recorded FOLDER` adds Keras runs recorded elsewhere: files named `k_m<model>_s<seed>.json`, whose
`history` has `loss`, `accuracy`, `val_loss` and `val_accuracy`, each a list with one number per
epoch. Keras is then only trained for `--keras-seeds`.

Without `--recorded`, five seeds of four models in Keras and here are forty runs, of 3 (model 4) to
8 minutes each on two CPU cores. Results, with seeds and hardware, are in
`experiments/results/accuracy.md`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

import numpy as np
from contenders.keras_models import compile_as_post, post_layers
from contenders.worker import write_json
from scipy.stats import fisher_exact

from catdog_jax.cli import command_script
from catdog_jax.commands.settings import Reproduce
from catdog_jax.commands.training import reproduce
from catdog_jax.data.load import Split, Splits
from catdog_jax.errors import InputError
from catdog_jax.models.keras_weights import cached_official_weights
from catdog_jax.reports import plots, tables
from catdog_jax.reports.plots import History
from catdog_jax.runs.build import load_splits
from catdog_jax.runs.history import is_dead
from catdog_jax.runs.recipes import RECIPES, Experiment
from catdog_jax.runs.results import load_run
from catdog_jax.runs.run_folder import absolute, inputs_of, is_finished, plain, read_json

OURS = "catdog_jax"
CURVES = {"accuracy": "training accuracy", "val_accuracy": "validation accuracy"}
COLUMNS: tuple[str, ...] = ("loss", "accuracy", "val_loss", "val_accuracy")
LAST = 5
"""Number of final epochs to average; unlike the best epoch, they are not picked by accuracy."""


@dataclass(frozen=True)
class ParityOptions(Reproduce):
    """Options of the comparison."""

    seeds: int = 5
    """Number of seeds here, from 0."""
    out: Path = Path("runs/keras_parity")
    """Folder for all runs and the results."""
    keras_seeds: int | None = None
    """Number of seeds in Keras, from 0; None: as many as here, or none with --recorded."""
    recorded: Path | None = None
    """Folder of recorded Keras runs to include."""


def main(options: ParityOptions) -> None:
    """Compare the accuracy histories of the four models with Keras's."""
    check(options)
    seeds = options.keras_seeds
    if seeds is None:
        seeds = 0 if options.recorded else options.seeds
    splits = load_splits(options.adapt(RECIPES[options.models[0]]))
    if len(splits.class_names) != 2:
        raise InputError(f"the post's models need two classes, not {len(splits.class_names)}")
    # Read everything now, so that a damaged file fails before hours of training.
    recorded = {model: read_recorded(options, model) for model in options.models}
    for model in options.models:
        read_keras(options, model, splits)
        if not (seeds or recorded[model]):
            raise InputError(f"no Keras runs to compare {model} with; set --keras-seeds")
    reproduce(options)
    comparisons = []
    for model in options.models:
        train_keras_seeds(options, model, seeds, splits)
        ours = read_ours(options, model, splits)
        sides = {
            "Keras": list(read_keras(options, model, splits).values()),
            "Keras, recorded": recorded[model],
        }
        comparisons += [compare(model, ours, name, runs) for name, runs in sides.items() if runs]
    table = result_tables(comparisons)
    (options.out / "keras_parity.md").write_text(table, "utf-8")
    write_json(options.out / "keras_parity.json", comparisons)
    plot(options.out / "keras_parity.png", comparisons)
    print(table)
    print(f"keras_parity.md, .json and .png are in {options.out}")


def check(options: ParityOptions) -> None:
    """Validate the options.

    Raises:
        InputError: an option would change only our side, a model is unknown or repeated, or
            `--keras-seeds` or `--recorded` is invalid.
    """
    for name in ("augment", "model_options", "optimizer", "threshold"):
        if name in options.changes:
            raise InputError(f"--{name.replace('_', '-')} would change only our side; leave it out")
    if len(set(options.models)) < len(options.models):
        raise InputError(f"--models has duplicates: {' '.join(options.models)}")
    for model in options.models:
        if model not in RECIPES:
            raise InputError(f"unknown model '{model}'; choose from: {', '.join(RECIPES)}")
    if not options.models:
        raise InputError(f"no models to compare; choose from: {', '.join(RECIPES)}")
    if options.keras_seeds is not None and options.keras_seeds < 0:
        raise InputError(f"--keras-seeds must be 0 or more, not {options.keras_seeds}")
    if options.recorded is not None and not options.recorded.is_dir():
        raise InputError(f"--recorded {options.recorded} is not a folder")


# Training in Keras, and reading the runs of both sides.


def train_keras(experiment: Experiment, splits: Splits) -> dict[str, list[float]]:
    """Train a model in Keras on the photos of `splits`; returns one list of numbers per metric."""
    import keras
    import tensorflow as tf

    class StopWhenDead(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if experiment.stop_when_dead and is_dead(logs):
                self.model.stop_training = True  # pyright: ignore[reportOptionalMemberAccess]

    def dataset(split: Split, *, shuffle: bool = False) -> Any:
        data = tf.data.Dataset.from_tensor_slices((np.asarray(split.images), split.labels))
        if shuffle:
            data = data.shuffle(len(split))
        data = data.batch(experiment.batch_size)
        return data.map(lambda images, labels: (tf.cast(images, tf.float32), labels)).prefetch(2)

    weights = None if experiment.weights == "none" else experiment.weights
    if weights == "imagenet":
        weights = cached_official_weights() or weights
    keras.utils.set_random_seed(experiment.seed)
    model = keras.Sequential(post_layers(experiment.model, experiment.image_size, weights))
    compile_as_post(model, experiment.model, experiment.learning_rate)
    return model.fit(
        dataset(splits.train, shuffle=True),
        validation_data=dataset(splits.validation),
        epochs=experiment.epochs,
        callbacks=[StopWhenDead()],
        shuffle=False,  # the data set shuffles
        verbose=0,  # pyright: ignore[reportArgumentType]
    ).history


def train_keras_seeds(options: ParityOptions, model: str, seeds: int, splits: Splits) -> None:
    """Train in Keras the seeds that are not yet in `--out`."""
    folder = options.out / "keras"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in sorted(set(range(seeds)) - set(read_keras(options, model, splits))):
        print(f"{model}, seed {seed}: training in Keras, into {folder}", flush=True)
        experiment = replace(options.adapt(RECIPES[model]), seed=seed)
        run = {**config(experiment, splits), "history": train_keras(experiment, splits)}
        write_json(folder / f"{model}-seed{seed}.json", run)


def config(experiment: Experiment, splits: Splits) -> dict[str, Any]:
    """The settings and photos that identify a Keras run."""
    return {"experiment": plain(experiment), "fingerprint": splits.fingerprint}


def read_ours(options: ParityOptions, model: str, splits: Splits) -> list[History]:
    """Our finished runs of a model in `--out`, with any seed.

    Raises:
        InputError: one has other settings or photos.
    """
    finished = []
    for folder, seed in with_seeds(options.out.glob(f"{model}-seed*")):
        experiment = absolute(replace(options.adapt(RECIPES[model]), seed=seed))
        if is_finished(folder, experiment, inputs_of(experiment, splits)):
            finished.append(folder)
    return [load_run(folder).history for folder in finished]


def read_keras(options: ParityOptions, model: str, splits: Splits) -> dict[int, History]:
    """The Keras runs of a model in `--out`, by seed.

    Raises:
        InputError: one is damaged, or has other settings or photos.
    """
    found = {}
    for path, seed in with_seeds((options.out / "keras").glob(f"{model}-seed*.json")):
        run = read_run(path)
        wanted = config(replace(options.adapt(RECIPES[model]), seed=seed), splits)
        if {name: run.get(name) for name in wanted} != wanted:
            raise InputError(f"{path} has other settings or photos; choose another --out")
        found[seed] = history_of(run, path)
    return found


def with_seeds(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    """The paths named `…-seed<number>`, each with its seed, sorted by seed."""
    named = [(path, path.stem.partition("-seed")[2]) for path in paths]
    found = [(path, int(seed)) for path, seed in named if seed.isdecimal()]
    return sorted(found, key=lambda pair: pair[1])


def read_recorded(options: ParityOptions, model: str) -> list[History]:
    """The recorded Keras runs of a model.

    Raises:
        InputError: a file is damaged, or has another number of epochs.
    """
    if options.recorded is None:
        return []
    number, epochs = model.removeprefix("model"), options.adapt(RECIPES[model]).epochs
    histories = []
    for path in sorted(options.recorded.glob(f"k_m{number}_s*.json")):
        history = history_of(read_run(path), path)
        if len(history) != epochs and not is_dead(history[-1]):
            raise InputError(f"{path} has {len(history)} epochs, not {epochs}; give --epochs")
        histories.append(history)
    return histories


def read_run(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file holds something else."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def history_of(run: dict[str, Any], path: Path) -> History:
    """The history of a Keras run, one row per epoch."""
    try:
        columns = [list(map(float, run["history"][name])) for name in COLUMNS]
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a Keras run: {error!r}") from error
    if not rows:
        raise InputError(f"{path} is not a Keras run: its history is empty")
    return rows


# The comparison.


def compare(
    model: str, ours: Sequence[History], against: str, theirs: Sequence[History]
) -> dict[str, Any]:
    """Everything the tables and the figure show for one model; dead runs are only counted."""
    sides = {OURS: ours, against: theirs}
    living = {
        side: [history for history in histories if not is_dead(history[-1])]
        for side, histories in sides.items()
    }
    died = {side: len(sides[side]) - len(living[side]) for side in sides}
    curves = {
        name: {
            side: [[row[name] for row in history] for history in histories]
            for side, histories in living.items()
        }
        for name in CURVES
    }
    _, p_value = fisher_exact([[died[side], len(living[side])] for side in sides])
    result: dict[str, Any] = {
        "model": model,
        "against": against,
        "runs": {side: len(histories) for side, histories in sides.items()},
        "died": died,
        "died_p": float(p_value),  # pyright: ignore[reportArgumentType]
        "best": {side: list(map(max, runs)) for side, runs in curves["val_accuracy"].items()},
        "last": {
            name: {side: [mean(run[-LAST:]) for run in runs] for side, runs in by_side.items()}
            for name, by_side in curves.items()
        },
        "curves": curves,
    }
    for values in (result["best"], *result["last"].values()):
        values["difference"] = difference(values[OURS], values[against])
    return result


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """Difference of the means and its standard error; None if a side has fewer than two values.

    The standard error is Welch's, √(s₁²/n₁ + s₂²/n₂): the variances may differ.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    error = math.sqrt(variance(ours) / len(ours) + variance(theirs) / len(theirs))
    return {"mean": mean(ours) - mean(theirs), "standard_error": error}


def agrees(found: dict[str, float]) -> bool:
    """Whether a difference is at most twice its standard error."""
    return abs(found["mean"]) <= 2 * found["standard_error"]


def result_tables(comparisons: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables: the criterion, and the last epochs."""
    criterion = [
        f"| model | against | died, {OURS} | died, Keras | best validation accuracy, {OURS} "
        "| Keras | difference ± standard error | within 2 standard errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    last_epochs = [
        f"| model | against | training accuracy, {OURS} | Keras | validation accuracy, {OURS} "
        "| Keras | difference ± standard error | epochs within 2 standard errors: training "
        "| validation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in comparisons:
        sides = [OURS, result["against"]]
        name = [result["model"], result["against"]]
        died = [f"{result['died'][side]} of {result['runs'][side]}" for side in sides]
        best = [tables.spread(result["best"][side]) for side in sides]
        found = result["best"]["difference"]
        verdict = "–" if found is None else "yes" if agrees(found) else "no"
        criterion.append(tables.table_line([*name, *died, *best, points(found), verdict]))
        last = [tables.spread(result["last"][curve][side]) for curve in CURVES for side in sides]
        found = points(result["last"]["val_accuracy"]["difference"])
        epochs = [
            epochs_that_agree(*(result["curves"][curve][side] for side in sides))
            for curve in CURVES
        ]
        last_epochs.append(tables.table_line([*name, *last, found, *epochs]))
    deaths = [
        f"{result['model']} against {result['against']} p = {result['died_p']:.2f}"
        for result in comparisons
        if any(result["died"].values())
    ]
    lines = [*criterion, "", f"Mean over the last {LAST} epochs:", "", *last_epochs, ""]
    lines.append("Mean ± standard deviation (lowest … highest) over the runs that lived.")
    if deaths:
        lines.append(f"Do the death rates differ? Fisher's exact test: {'; '.join(deaths)}.")
    return "\n".join(lines) + "\n"


def points(found: dict[str, float] | None) -> str:
    """`-0.8 ± 0.6 points`."""
    if found is None:
        return "too few living runs"
    return f"{100 * found['mean']:+.1f} ± {100 * found['standard_error']:.1f} points"


def epochs_that_agree(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> str:
    """Number of epochs whose means differ by at most two standard errors: `19 of 20`."""
    by_epoch = zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=bool(ours and theirs))
    differences = [difference(*values) for values in by_epoch]
    known = [found for found in differences if found is not None]
    return f"{sum(map(agrees, known))} of {len(known)}" if known else "–"


def plot(path: Path, comparisons: Sequence[dict[str, Any]]) -> None:
    """Plot mean curves of each model, with bands of one standard deviation."""
    models = list(dict.fromkeys(result["model"] for result in comparisons))
    size = (3.6 * len(models), 6.0)
    figure, panels = plots.subplots(len(CURVES), len(models), size, sharex=True)
    colours = {OURS: "tab:orange", "Keras": "tab:blue", "Keras, recorded": "0.35"}
    for column, model in enumerate(models):
        of_model = [result for result in comparisons if result["model"] == model]
        for row, (name, label) in enumerate(CURVES.items()):
            axes = panels[row * len(models) + column]
            sides = {side: runs for one in of_model for side, runs in one["curves"][name].items()}
            for side, runs in sides.items():
                epochs = list(zip(*runs, strict=True))
                if not epochs:
                    continue
                means, at = [mean(values) for values in epochs], range(1, len(epochs) + 1)
                colour = colours[side]
                axes.plot(at, means, color=colour, label=f"{side}, {len(runs)} living")
                if len(runs) > 1:
                    spreads = [stdev(values) for values in epochs]
                    low = [m - s for m, s in zip(means, spreads, strict=True)]
                    high = [m + s for m, s in zip(means, spreads, strict=True)]
                    axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.grid(alpha=0.3)
            axes.set_ylabel(label if column == 0 else "")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[column].set_title(model)
        panels[column - len(models)].set_xlabel("epoch")
        panels[column - len(models)].legend(loc="lower right", fontsize=8)
    plots.save(figure, path)


if __name__ == "__main__":
    command_script(ParityOptions, main)
