"""The same accuracy histories as Keras: four models over several seeds, in Keras and here.

    python experiments/keras_parity.py --data PATH/cats_and_dogs_filtered.zip --weights FILE

Trains each model here and in Keras (TensorFlow, which the installation brings) on the same photos,
or reads what `--out` and `--keras` hold already, and writes `keras_parity.md`, `.json` and `.png`
into `--out`: mean and spread of the best validation accuracy, final accuracies, how many runs of
model 1 died, and the mean curves with bands. The criterion: the means of the best validation
accuracies differ by at most twice the standard error of their difference. On two CPU cores a run
of 20 epochs takes 3 (model 4) to 8 minutes here. What came out, with seeds and hardware, is in
`experiments/results/README.md`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import fisher_exact

from catdog_jax.cli import ReproduceOptions, reproduce_post, script
from catdog_jax.data import Split, Splits
from catdog_jax.errors import InputError
from catdog_jax.experiment import load_splits
from catdog_jax.recipes import RECIPES, Experiment
from catdog_jax.report import History, is_dead, percent

OURS, KERAS = "catdog_jax", "Keras"
COLOURS = {OURS: "tab:orange", KERAS: "tab:blue"}
CURVES = {"accuracy": "training accuracy", "val_accuracy": "validation accuracy"}


@dataclass(frozen=True)
class ParityOptions(ReproduceOptions):
    """Options of the comparison."""

    seeds: int = 5
    """How many seeds, from 0; in Keras, too, where it has to be trained."""
    out: Path = Path("runs/keras_parity")
    """Folder of our runs, which are not repeated, and of the results."""
    keras: Path | None = None
    """Folder of Keras's runs, k_m1_s0.json and so on (OUT/keras). A model with none is trained."""


def main(options: ParityOptions) -> None:
    """Compare the accuracy histories of the four models with Keras's."""
    runs = reproduce_post(options)
    folder = options.keras or options.out / "keras"
    comparisons = []
    for model in options.models:
        theirs = read_keras(folder, model) or train_keras_series(model, options, folder)
        ours = [run.history for run in runs if run.metrics["model"] == model]
        comparisons.append(compare(model, ours, theirs))
    table = tables(comparisons)
    (options.out / "keras_parity.md").write_text(table, "utf-8")
    (options.out / "keras_parity.json").write_text(json.dumps(comparisons, indent=2) + "\n")
    plot(options.out / "keras_parity.png", comparisons)
    print(table)
    print(f"keras_parity.md, .json and .png are in {options.out}")


# Keras.


def post_layers(model: str, image_size: int, weights: Any = None) -> list[Any]:
    """The layers of one of the four models as the post writes them.

    Args:
        model: `model1` … `model4`.
        image_size: height and width of the images.
        weights: of model 4's backbone, as Keras takes them: a file, `imagenet`, or None.
    """
    from keras import layers
    from keras.applications import MobileNetV2

    def dense(units: int) -> Any:
        return layers.Dense(units, activation="relu")

    def convs(padding: str, *filters: int) -> list[Any]:
        made = []
        for count in filters:
            made.append(layers.Conv2D(count, 3, padding=padding, activation="relu"))
            made.append(layers.MaxPooling2D())
        return made

    if model == "model1":
        *without_last_pooling, _ = convs("valid", 32, 32, 64)
        return [*without_last_pooling, layers.Flatten(), dense(64), layers.Dropout(0.1)]
    augmentation = [layers.RandomFlip("horizontal_and_vertical"), layers.RandomRotation(0.2)]
    if model == "model2":
        trunk = [*augmentation, *convs("same", 16, 32, 64), layers.Flatten()]
        return [*trunk, dense(128), dense(64), layers.Dropout(0.1)]
    rescaled = [layers.Rescaling(1 / 127.5, offset=-1), *augmentation]
    if model == "model3":
        trunk = [*rescaled, *convs("same", 16, 32, 64), layers.Flatten()]
        return [*trunk, layers.Dropout(0.2), dense(128), dense(64)]
    backbone = MobileNetV2((image_size, image_size, 3), include_top=False, weights=weights)
    backbone.trainable = False
    head = [layers.GlobalMaxPooling2D(), layers.Dropout(0.1), layers.Dense(1)]
    return [*rescaled, backbone, *head]


def train_keras(experiment: Experiment, splits: Splits) -> dict[str, Any]:
    """Train a model in Keras on the very photos we train on; gives what is kept of a run."""
    import keras
    import tensorflow as tf

    class Times(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = tf.timestamp()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            times.append(float(tf.timestamp() - self.start))

    def dataset(split: Split, *, shuffle: bool = False) -> Any:
        data = tf.data.Dataset.from_tensor_slices((split.images, split.labels))
        if shuffle:
            data = data.shuffle(len(split))
        data = data.batch(experiment.batch_size)
        return data.map(lambda images, labels: (tf.cast(images, tf.float32), labels)).prefetch(2)

    keras.utils.set_random_seed(experiment.seed)
    weights = None if experiment.weights == "none" else experiment.weights
    model = keras.Sequential(post_layers(experiment.model, experiment.image_size, weights))
    loss = (
        keras.losses.BinaryCrossentropy(from_logits=True)
        if experiment.model == "model4"
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    optimizer = keras.optimizers.Adam(experiment.learning_rate)
    model.compile(optimizer, loss, metrics=["accuracy"])
    times: list[float] = []
    history = model.fit(
        dataset(splits.train, shuffle=True),
        validation_data=dataset(splits.validation),
        epochs=experiment.epochs,
        callbacks=[Times()],
        shuffle=False,  # the data set does it
        verbose="0",
    ).history
    return {
        "model": int(experiment.model.removeprefix("model")),
        "seed": experiment.seed,
        "history": history,
        "times": times,
        "test": model.evaluate(dataset(splits.test), verbose="0"),
    }


def train_keras_series(model: str, options: ParityOptions, folder: Path) -> list[History]:
    """Train a model in Keras with each seed and keep the runs in `folder`."""
    experiment = options.adapt(RECIPES[model])
    splits = load_splits(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        print(f"{model}, seed {seed}: Keras, into {folder}")
        run = train_keras(replace(experiment, seed=seed), splits)
        (folder / f"k_m{run['model']}_s{seed}.json").write_text(json.dumps(run) + "\n", "utf-8")
    return read_keras(folder, model)


def read_keras(folder: Path, model: str) -> list[History]:
    """Keras's histories of a model, an epoch a row, from `k_m<model>_s<seed>.json`.

    Raises:
        InputError: a file is not such a run.
    """
    histories = []
    for path in sorted(folder.glob(f"k_m{model.removeprefix('model')}_s*.json")):
        try:
            columns = json.loads(path.read_text("utf-8"))["history"]
            names = ("loss", "accuracy", "val_loss", "val_accuracy")
            rows = zip(*(map(float, columns[name]) for name in names), strict=True)
            histories.append([dict(zip(names, row, strict=True)) for row in rows])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a Keras run: {error!r}") from error
    return histories


# The comparison.


def compare(model: str, ours: Sequence[History], theirs: Sequence[History]) -> dict[str, Any]:
    """What the tables and the figure show of one model. Dead runs are counted and left out."""
    living = {
        side: [history for history in histories if not is_dead(history[-1])]
        for side, histories in ((OURS, ours), (KERAS, theirs))
    }
    sizes = {OURS: len(ours), KERAS: len(theirs)}
    result: dict[str, Any] = {"model": model, "runs": sizes}
    result["died"] = {side: sizes[side] - len(living[side]) for side in sizes}
    counts = [[result["died"][side], len(living[side])] for side in sizes]
    _, result["died_p"] = map(float, fisher_exact(counts))
    result["best"] = {
        side: [max(row["val_accuracy"] for row in history) for history in histories]
        for side, histories in living.items()
    }
    result["difference"] = difference(result["best"][OURS], result["best"][KERAS])
    for name in CURVES:
        result[name] = {
            side: [[row[name] for row in history] for history in histories]
            for side, histories in living.items()
        }
    return result


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """Difference of two means and its standard error, or None where one has no spread to tell.

    The error is Welch's: √(s₁²/n₁ + s₂²/n₂), the two spreads not being taken for equal.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    error = math.sqrt(variance(ours) / len(ours) + variance(theirs) / len(theirs))
    return {"mean": mean(ours) - mean(theirs), "standard_error": error}


def agrees(found: dict[str, float]) -> bool:
    """Whether a difference is at most twice its standard error."""
    return abs(found["mean"]) <= 2 * found["standard_error"]


def tables(comparisons: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables: the criterion, and the histories behind it."""
    lines = [
        f"| model | died, {OURS} | died, {KERAS} | best validation accuracy, {OURS} | {KERAS} "
        "| difference ± standard error | within 2 standard errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in comparisons:
        died = [f"{result['died'][side]} of {result['runs'][side]}" for side in (OURS, KERAS)]
        best = [spread(result["best"][side]) for side in (OURS, KERAS)]
        found = result["difference"]
        size, verdict = "too few living runs", "–"
        if found:
            size = f"{100 * found['mean']:+.1f} ± {100 * found['standard_error']:.1f} points"
            verdict = "yes" if agrees(found) else "no"
        lines.append("| " + " | ".join([result["model"], *died, *best, size, verdict]) + " |")
    lines += [
        "",
        f"| model | last epoch: training accuracy, {OURS} | {KERAS} | validation accuracy, {OURS} "
        f"| {KERAS} | epochs within 2 standard errors: training | validation |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in comparisons:
        cells = [result["model"]]
        for name in CURVES:
            for side in (OURS, KERAS):
                cells.append(spread([curve[-1] for curve in result[name][side]]))
        cells += [epochs_that_agree(result[name]) for name in CURVES]
        lines.append("| " + " | ".join(cells) + " |")
    deaths = [
        f"{result['model']}: p = {result['died_p']:.2f}"
        for result in comparisons
        if any(result["died"].values())
    ]
    lines += ["", "Mean ± standard deviation over the runs that lived."]
    if deaths:
        lines += [f"Difference of the death rates (Fisher's exact test): {'; '.join(deaths)}."]
    return "\n".join(lines) + "\n"


def spread(shares: Sequence[float]) -> str:
    """`94.1 ± 0.5 %`, or less where there are fewer than two."""
    if not shares:
        return "–"
    if len(shares) == 1:
        return f"{percent(shares[0])} (one run)"
    return f"{100 * mean(shares):.1f} ± {100 * stdev(shares):.1f} %"


def epochs_that_agree(curves: dict[str, list[list[float]]]) -> str:
    """In how many epochs the two means differ by at most two standard errors: `19 of 20`."""
    found = [
        difference(ours, theirs)
        for ours, theirs in zip(by_epoch(curves[OURS]), by_epoch(curves[KERAS]), strict=False)
    ]
    told = [one for one in found if one is not None]
    return f"{sum(map(agrees, told))} of {len(told)}" if told else "–"


def by_epoch(curves: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """The values of all runs in each epoch, as far as the shortest goes."""
    return list(zip(*curves, strict=False))


def plot(path: Path, comparisons: Sequence[dict[str, Any]]) -> None:
    """Draw the mean curves of each model with bands of one standard deviation."""
    figure = Figure(figsize=(3.6 * len(comparisons), 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(CURVES), len(comparisons), squeeze=False, sharex=True)
    for column, result in enumerate(comparisons):
        for row, (name, label) in enumerate(CURVES.items()):
            axes = panels[row][column]
            for side, colour in COLOURS.items():
                values = by_epoch(result[name][side])
                if not values:
                    continue
                epochs, runs = range(1, len(values) + 1), len(values[0])
                means = [mean(epoch) for epoch in values]
                axes.plot(epochs, means, color=colour, label=f"{side}, {runs} living")
                if runs > 1:
                    spreads = [stdev(epoch) for epoch in values]
                    low = [m - s for m, s in zip(means, spreads, strict=True)]
                    high = [m + s for m, s in zip(means, spreads, strict=True)]
                    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.grid(alpha=0.3)
            axes.set_ylabel(label if column == 0 else "")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0][column].set_title(result["model"])
        panels[-1][column].set_xlabel("epoch")
        panels[-1][column].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    script(main, ParityOptions)
