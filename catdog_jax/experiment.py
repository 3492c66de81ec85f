"""Runs: the one place that composes data, augmentation, model, training, evaluation and report."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from tqdm import tqdm

from . import checkpoint, report
from .augment import Augmentation, random_flip, random_rotation
from .checkpoint import Record, Rows
from .data import Split, Splits, class_counts, load_data, majority_baseline
from .errors import InputError, RunError, first_line, say
from .evaluate import Dtype, Sums, metrics_of, predict_logits, probabilities, wilson_interval
from .files import claimed, expanded, is_empty, is_file, sha256, uninterrupted, written_whole
from .models import create_model, load_keras_weights
from .parallel import set_up_jax
from .recipes import Experiment
from .train import EpochRecord, TrainState, create_state, fit, keras_adam

Log = Callable[[str], None]

CONFIG, HISTORY, METRICS = "config.json", "history.csv", "metrics.json"
CHECKPOINT = "checkpoint"
_PACKAGES = ("catdog_jax", "jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its history and what `metrics.json` holds."""

    folder: Path
    history: list[dict[str, float]]
    metrics: dict[str, Any]


def run(experiment: Experiment, out: Path, *, splits: Splits | None = None, log: Log = say) -> Run:
    """Train, evaluate and report one experiment into the folder `out`.

    A folder that already holds this very experiment is read if it is finished; else training goes
    on after the last epoch that was saved, to the same history as without the interruption.

    Args:
        experiment: what to run.
        out: the run folder; made if absent.
        splits: the data, if loaded already; must be what `experiment` names.
        log: takes one line at a time.

    Raises:
        InputError: a model, source, weights file or checkpoint is wrong, another run is writing to
            `out`, or it holds something else. Nothing has been written then.
        RunError: the training failed; what was written until then stays.
        KeyboardInterrupt: on Ctrl-C, once what is being written is written and `log` has been given
            the command that goes on.
    """
    set_up_jax()
    splits = load_splits(experiment) if splits is None else splits
    if is_finished(out, experiment, splits):
        log(f"{out} holds this run already; reading it")
        return load_run(out)
    model = initial_model(experiment, len(splits.class_names))
    to_go_on = f"to go on: catdog-jax train --resume {shlex.quote(str(out))}"
    with claimed(out):
        try:
            record = _train(experiment, out, model, splits, log)
            return _report(experiment, out, model, splits, record, log)
        except KeyboardInterrupt:
            if is_file(out / CONFIG):
                log(f"interrupted; {to_go_on}")
            raise
        except BrokenPipeError:  # of `log`: its reader has left
            raise
        except RunError as error:
            raise RunError(f"{error}{_kept(out)}") from error
        except OSError as error:
            raise RunError(
                f"{out} could not be written to ({first_line(error)}){_kept(out)}; "
                f"make room, then, {to_go_on}"
            ) from error


def _kept(out: Path) -> str:
    saved = checkpoint.epochs(out / CHECKPOINT)
    return f"; the state after epoch {saved[-1]} is kept in {out}" if saved else ""


def resume(folder: Path, *, log: Log = say) -> Run:
    """Go on with an interrupted run by its own `config.json`; a finished one is read.

    Raises:
        InputError: `folder` is no run, or as `run` says.
        RunError: as `run` says.
    """
    experiment, _ = read_config(folder)
    return run(experiment, folder, log=log)


def _train(
    experiment: Experiment, out: Path, model: nnx.Module, splits: Splits, log: Log
) -> Record:
    """Train `model` to the end, after the last saved epoch; gives the last checkpoint's record."""
    inputs = inputs_of(experiment, splits)
    record = Record(
        format=checkpoint.FORMAT,
        experiment=plain(experiment),
        inputs=inputs,
        class_names=list(splits.class_names),
        history=[],
        on_device=False,
    )
    _, state = create_state(model, keras_adam(experiment.learning_rate), seed=experiment.seed)
    saved = checkpoint.epochs(out / CHECKPOINT)
    if saved:
        path = out / CHECKPOINT / str(saved[-1])
        record = _read_record(path, experiment, inputs)
        state = checkpoint.restore(path, state)
        # Without the best epoch's the run could not be judged in the end.
        best = checkpoint.best_epoch(record["history"])
        _read_record(path.with_name(str(best)), experiment, inputs)
    _write_json(out / CONFIG, _config(experiment, splits, inputs))
    log(f"{experiment.model}, seed {experiment.seed}: {device()}, into {out}")
    if saved:
        log(f"going on after epoch {saved[-1]}, the last that was saved")
    history = record["history"]
    # A dead run is not gone on with, but its model must be there to be judged.
    epochs = len(history) if _has_died(experiment, history) else experiment.epochs
    for epoch in _epochs(replace(experiment, epochs=epochs), model, splits, (len(history), state)):
        row = {name: getattr(epoch, name) for name in report.COLUMNS}
        history.append(row)
        record["on_device"] = epoch.on_device
        with uninterrupted():
            checkpoint.save(out / CHECKPOINT, epoch.state, record)
            report.write_history(out / HISTORY, history)
        log(_line(row, experiment.epochs, len(splits.train)))
        if _has_died(experiment, history):
            log("died: all outputs are zero (loss ln 64), so no gradient is left; stopping here")
            break
    return record


def _has_died(experiment: Experiment, history: Rows) -> bool:
    return experiment.stop_when_dead and bool(history) and report.is_dead(history[-1])


def _report(
    experiment: Experiment,
    out: Path,
    model: nnx.Module,
    splits: Splits,
    record: Record,
    log: Log,
) -> Run:
    """Judge the trained `model` and the best epoch's, and write what makes `out` a finished run."""
    history = record["history"]
    best = checkpoint.best_epoch(history)
    test_last = _test(model, splits.test, experiment)
    _restore(model, out / CHECKPOINT / str(best), experiment, record["inputs"])
    metrics = {
        "model": experiment.model,
        "seed": experiment.seed,
        "dead": report.is_dead(history[-1]),
        "best": _best(history, best, len(splits.validation)),
        "validation": _test(model, splits.validation, experiment),
        "test": _test(model, splits.test, experiment),
        "test_last": test_last,
        "baseline": {
            "validation": majority_baseline(splits.validation),
            "test": majority_baseline(splits.test) if len(splits.test) else None,
        },
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": _images_per_second(history, len(splits.train)),
        "device": device(),
        "on_device": record["on_device"],
        "versions": {name: version(name) for name in _PACKAGES}
        | {"python": sys.version.split()[0]},
    }
    report.write_history(out / HISTORY, history)
    report.plot_history(out / "history.png", history, f"{experiment.model}, seed {experiment.seed}")
    # Written last: a folder with this file is a finished run.
    _write_json(out / METRICS, metrics)
    for line in result_lines(metrics):
        log(line)
    return Run(out, history, metrics)


def is_finished(out: Path, experiment: Experiment, splits: Splits) -> bool:
    """Whether `out` holds this very run, on these very photos and weights, finished.

    Raises:
        InputError: it holds something else.
    """
    if is_empty(out):
        return False
    difference = f"it has no {CONFIG}"
    if is_file(out / CONFIG):
        there, data = read_config(out)
        difference = _difference(there, data["inputs"], experiment, inputs_of(experiment, splits))
    if difference:
        raise InputError(
            f"{out} already exists and is not this run: {difference}; choose another folder"
        )
    return is_file(out / METRICS)


def load_run(folder: Path) -> Run:
    """Read a finished run's folder.

    Raises:
        InputError: it is none.
    """
    for name in (CONFIG, HISTORY, METRICS):
        if not is_file(folder / name):
            raise InputError(f"{folder} is not a finished run: it has no {name}")
    try:
        history = report.read_history(folder / HISTORY)
    except Exception as error:  # csv's own, and whatever a damaged line makes of itself
        raise InputError(f"{folder / HISTORY} is damaged: {error}") from error
    metrics = read_json(folder / METRICS)
    try:
        report.check_metrics(metrics)
    except Exception as error:
        raise InputError(f"{folder / METRICS} is damaged: {error!r}") from error
    return Run(folder, history, metrics)


def load_model(folder: Path, which: str = "best") -> tuple[nnx.Module, Experiment, tuple[str, ...]]:
    """The model of a run with its trained weights, its experiment and its class names.

    Args:
        folder: a run folder.
        which: `"best"`, the epoch of the best validation accuracy, or `"last"`.

    Raises:
        InputError: `which` is neither, `folder` is no run, or its checkpoint is not this model's.
    """
    if which not in ("best", "last"):
        raise InputError(f"unknown checkpoint '{which}'; choose best or last")
    while True:
        saved = checkpoint.epochs(folder / CHECKPOINT)
        try:
            return _load_model(folder, which, saved)
        except InputError:
            # A run still in training may have removed this checkpoint, for having a later one.
            if checkpoint.epochs(folder / CHECKPOINT) == saved:
                raise


def _load_model(
    folder: Path, which: str, saved: Sequence[int]
) -> tuple[nnx.Module, Experiment, tuple[str, ...]]:
    experiment, data = read_config(folder)
    if not saved:
        raise InputError(f"{folder} has no checkpoint yet; train at least one epoch")
    epoch = saved[-1]
    last = _read_record(folder / CHECKPOINT / str(epoch), experiment, data["inputs"])
    if last["class_names"] != data["class_names"]:
        raise InputError(
            f"{folder / CONFIG} has the classes {', '.join(data['class_names'])}, "
            f"its checkpoint {', '.join(last['class_names'])}"
        )
    if which == "best":
        epoch = checkpoint.best_epoch(last["history"])
    set_up_jax()
    class_names = tuple(data["class_names"])
    model = build_model(experiment, len(class_names))
    _restore(model, folder / CHECKPOINT / str(epoch), experiment, data["inputs"])
    return model, experiment, class_names


def evaluate_run(
    folder: Path,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    which: str = "best",
    log: Log = say,
) -> dict[str, Any]:
    """Loss and accuracy of a run's model on a split of its data, or of another source.

    Raises:
        InputError: no such run, split or source; an empty split; other classes.
    """
    if split not in ("train", "validation", "test"):
        raise InputError(f"unknown split '{split}'; choose train, validation or test")
    model, experiment, class_names = load_model(folder, which)
    if data is not None:
        experiment = replace(experiment, data=data, data_dir=data_dir, sizes=None)
    elif data_dir is not None:
        experiment = replace(experiment, data_dir=data_dir)
    splits = load_splits(experiment)
    if splits.class_names != class_names:
        raise InputError(
            f"{folder} was trained on the classes {', '.join(class_names)}, "
            f"but {experiment.data} has {', '.join(splits.class_names)}"
        )
    if data is None and splits.fingerprint != read_config(folder)[1]["inputs"]["photos"]:
        log(f"note: {experiment.data} has changed since this run was trained")
    result = _test(model, getattr(splits, split), experiment)
    if result is None:
        raise InputError(f"{experiment.data} has no {split} images")
    return result


def predict(
    model: nnx.Module,
    images: UInt8[np.ndarray, "count height width 3"],
    class_names: Sequence[str],
    *,
    batch_size: int = 32,
    dtype: Dtype = "float32",
) -> Float[np.ndarray, "count classes"]:
    """Probabilities of each class for images of the size the model was trained on.

    Args:
        model: of `load_model`.
        images: pixels 0…255.
        class_names: the classes in the order of their labels.
        batch_size: how many at once.
        dtype: what the model computes in.
    """
    unknown = np.zeros(len(images), np.int32)
    split = Split(images, unknown, tuple(class_names), names=("",) * len(images))
    logits = predict_logits(model, split.batches(batch_size), dtype=dtype)
    return probabilities(logits, len(class_names))


def load_splits(experiment: Experiment, *, strict: bool = False) -> Splits:
    """The data that `experiment` names; `strict` refuses them if a photo cannot be read."""
    return load_data(
        experiment.data,
        experiment.image_size,
        experiment.data_dir,
        experiment.split_seed,
        sizes=experiment.sizes,
        strict=strict,
    )


def build_model(experiment: Experiment, num_classes: int) -> nnx.Module:
    """The model that `experiment` names, with random weights.

    Raises:
        InputError: no such model, or not one of the four that classify photos.
    """
    options: dict[str, Any] = {"image_size": experiment.image_size, "num_classes": num_classes}
    if experiment.model in ("model1", "model2", "model3"):
        options["blog_logits"] = experiment.blog_logits
    elif experiment.model == "mobilenet_v2":
        raise InputError("mobilenet_v2 is a backbone, not an experiment; train model4 instead")
    return create_model(experiment.model, rngs=nnx.Rngs(experiment.seed), **options)


def initial_model(experiment: Experiment, num_classes: int) -> nnx.Module:
    """The model that training starts from: random weights, and a backbone's pretrained ones.

    Raises:
        InputError: a wrong model name or weights file.
    """
    model = build_model(experiment, num_classes)
    if experiment.weights != "none":
        load_keras_weights(model, experiment.weights, image_size=experiment.image_size)
    return model


@cache  # the same function objects, so that a second run of a model is not compiled again
def augmentations(*, flip: bool, rotation: float) -> tuple[Augmentation, ...]:
    """What is done to training images, in order; `rotation` as a share of a full turn."""
    chosen: list[Augmentation] = []
    if flip:
        chosen.append(random_flip)
    if rotation:
        chosen.append(partial(random_rotation, factor=rotation))
    return tuple(chosen)


def device() -> str:
    """What JAX computes on, as `2 × cpu` or `1 × NVIDIA H200`."""
    devices = jax.devices()
    name = platform.machine() + " cpu" if devices[0].platform == "cpu" else devices[0].device_kind
    return f"{len(devices)} × {name}"


def describe(splits: Splits) -> list[str]:
    """What a data set holds, in lines: class counts, majority baseline, unreadable photos, copies.

    A class that a split lacks is said to be missing: the split cannot tell anything about it.
    """
    lines = []
    for name in ("train", "validation", "test"):
        split: Split = getattr(splits, name)
        counts = ", ".join(
            f"{count or 'no'} {label}" for label, count in class_counts(split).items()
        )
        baseline = (
            f"; always guessing the commonest: {report.percent(majority_baseline(split))}"
            if len(split)
            else ""
        )
        lines.append(f"{name:>10}: {len(split):>6,} images ({counts}{baseline})")
    if splits.skipped:
        lines.append(f"   skipped: {len(splits.skipped)} unreadable photos")
        lines += _first_few([f"{photo.name}: {photo.reason}" for photo in splits.skipped], splits)
    if splits.shared:
        lines.append(f"    shared: {len(splits.shared)} photos are in an earlier split, too")
        twins = [
            f"{photo.split}: {photo.name} = {photo.other_split}: {photo.other_name}"
            for photo in splits.shared
        ]
        lines += _first_few(twins, splits)
    return lines


def _first_few(photos: Sequence[str], splits: Splits) -> list[str]:
    few = list(photos[:20])
    if len(photos) > len(few):
        few.append(f"and {len(photos) - len(few)} more, in {splits.folder / 'meta.json'}")
    return [f"            {line}" for line in few]


def result_lines(metrics: dict[str, Any]) -> list[str]:
    """A run's results in a few lines."""
    best = metrics["best"]
    lines = [
        f"best validation accuracy {report.percent(best['val_accuracy'], best['interval'])} "
        f"in epoch {best['epoch']} (always guessing the commonest class: "
        f"{report.percent(metrics['baseline']['validation'])})"
    ]
    if metrics["test"]:
        lines.append(f"test accuracy of that epoch: {accuracy_line(metrics['test'])}")
        lines.append(f"test accuracy of the last epoch: {accuracy_line(metrics['test_last'])}")
    if metrics["dead"]:
        lines.append("this run died: its loss is ln 64, its outputs all zero; try another seed")
    return lines


def accuracy_line(result: dict[str, Any]) -> str:
    """`96.5 % [94.2, 98.1] of 192 images, loss 0.1234`, with the right threshold's beside it."""
    text = (
        f"{report.percent(result['accuracy'], result['interval'])} of {result['count']} images, "
        f"loss {result['loss']:.4f}"
    )
    if "accuracy_at_half" in result:
        text += f" ({report.percent(result['accuracy_at_half'])} at probability 0.5)"
    return text


def _epochs(
    experiment: Experiment, model: nnx.Module, splits: Splits, after: tuple[int, TrainState]
) -> Iterator[EpochRecord]:
    with _progress(experiment, len(splits.train), after[0]) as on_step:
        yield from fit(
            model,
            splits.train.shuffled(experiment.batch_size, seed=experiment.seed),
            splits.validation.batches(experiment.batch_size),
            epochs=experiment.epochs,
            optimizer=keras_adam(experiment.learning_rate),
            augmentations=augmentations(flip=experiment.flip, rotation=experiment.rotation),
            threshold=experiment.threshold,
            seed=experiment.seed,
            dtype=experiment.dtype,
            on_device=experiment.on_device,
            after=after,
            on_step=on_step,
        )


@contextmanager
def _progress(
    experiment: Experiment, images: int, done: int
) -> Iterator[Callable[[int, Sums], None] | None]:
    """A bar over the whole run, `done` epochs of it before, with loss, accuracy and time left."""
    if not sys.stderr.isatty():
        yield None
        return
    done = done * images
    total = experiment.epochs * images
    with tqdm(total=total, initial=done, unit=" images", leave=False) as bar:
        shown = 0.0

        def on_step(epoch: int, sums: Sums) -> None:
            nonlocal shown
            # Reading the sums waits for the device, so not at every step.
            if time.monotonic() - shown < 0.5:
                return
            shown = time.monotonic()
            count = int(sums["count"])
            bar.set_postfix(
                loss=f"{float(sums['loss']) / count:.4f}",
                accuracy=f"{int(sums['correct']) / count:.3f}",
                refresh=False,
            )
            bar.update(epoch * images + count - bar.n)

        yield on_step


def _line(row: dict[str, float], epochs: int, images: int) -> str:
    return (
        f"epoch {row['epoch']:>2}/{epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}"
        f"  val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}"
        f"  {row['seconds']:.1f} s  {images / row['seconds']:.0f} images/s"
    )


def _best(history: Sequence[dict[str, float]], epoch: int, count: int) -> dict[str, Any]:
    accuracy = history[epoch - 1]["val_accuracy"]
    interval = wilson_interval(round(accuracy * count), count)
    return {"epoch": epoch, "val_accuracy": accuracy, "interval": interval}


def _test(model: nnx.Module, split: Split, experiment: Experiment) -> dict[str, Any] | None:
    if not len(split):
        return None
    batches = split.batches(experiment.batch_size)
    logits = predict_logits(model, batches, dtype=experiment.dtype)
    metrics = metrics_of(logits, split.labels, experiment.threshold)
    result = asdict(metrics) | {"interval": wilson_interval(metrics.correct, metrics.count)}
    if logits.shape[-1] == 1 and experiment.threshold != 0.0:
        result["accuracy_at_half"] = metrics_of(logits, split.labels, 0.0).accuracy
    return result


def _images_per_second(history: Sequence[dict[str, float]], images: int) -> float:
    """Of the median epoch, the first, which compiles, left out where there are others."""
    seconds = [row["seconds"] for row in history]
    return images / float(np.median(seconds[1:] or seconds))


def _config(experiment: Experiment, splits: Splits, inputs: dict[str, str]) -> dict[str, Any]:
    return {
        "experiment": plain(experiment),
        "inputs": inputs,
        "data": {
            "class_names": splits.class_names,
            "train": class_counts(splits.train),
            "validation": class_counts(splits.validation),
            "test": class_counts(splits.test),
            "skipped": [asdict(photo) for photo in splits.skipped],
            "shared": [asdict(photo) for photo in splits.shared],
        },
    }


def inputs_of(experiment: Experiment, splits: Splits) -> dict[str, str]:
    """Fingerprints of the files that decide what training gives.

    Raises:
        InputError: the weights file cannot be read.
    """
    weights = experiment.weights
    if weights not in ("imagenet", "none"):  # of a download, its own record sees a change
        try:
            weights = sha256(expanded(weights))
        except OSError as error:
            raise InputError(f"no weights file at {weights}: {first_line(error)}") from error
    return {"photos": splits.fingerprint, "weights file": weights}


def plain(experiment: Experiment) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(asdict(experiment)))


def read_config(folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """What a run's `config.json` says of the experiment, and of its data.

    Raises:
        InputError: there is none, or it does not say it.
    """
    if not is_file(folder / CONFIG):
        raise InputError(f"{folder} is not a run: it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    try:
        experiment, names = config["experiment"], config["data"]["class_names"]
        if type(names) is not list or {type(name) for name in names} != {str}:
            raise TypeError("its class_names are no list of names")  # noqa: TRY301
        inputs = {name: str(config["inputs"][name]) for name in ("photos", "weights file")}
        return _experiment(experiment), {"class_names": names, "inputs": inputs}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} is not a run's configuration: {error}") from error


def _experiment(plain: dict[str, Any]) -> Experiment:
    """A setting that came after `plain` was written had what is its default now."""
    sizes = plain.get("sizes")
    return Experiment(**{**plain, "sizes": sizes if sizes is None else tuple(sizes)})


def _difference(
    there: Experiment, inputs_there: dict[str, str], here: Experiment, inputs_here: dict[str, str]
) -> str:
    """The first thing that tells two runs apart, with both sides, or nothing."""
    left, right = {**plain(there), **inputs_there}, {**plain(here), **inputs_here}
    for name, value in left.items():
        if value != right[name]:
            if name in inputs_here:
                return f"its {name} had the fingerprint {value}, now it is {right[name]}"
            return f"its {name} is {value}, this run's {right[name]}"
    return ""


def _read_record(path: Path, experiment: Experiment, inputs: dict[str, str]) -> Record:
    """What a checkpoint says of itself, if it is of this experiment on these photos.

    Raises:
        InputError: it is of others, or cannot be read.
    """
    record = checkpoint.read(path)
    try:
        there = _experiment(record["experiment"])
        difference = _difference(there, record["inputs"], experiment, inputs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not say of which run it is: {error!r}") from error
    if difference:
        raise InputError(f"{path} is not a checkpoint of this run: {difference}")
    return record


def _restore(model: nnx.Module, path: Path, experiment: Experiment, inputs: dict[str, str]) -> None:
    """Fill `model`, in place, with the weights of a checkpoint of this very run."""
    _read_record(path, experiment, inputs)
    _, state = create_state(model, keras_adam(experiment.learning_rate))
    state = checkpoint.restore(path, state)
    nnx.update(model, state.params, state.frozen)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")
