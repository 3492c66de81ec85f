"""Runs: the one place that composes data, augmentation, model, training, evaluation and report."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from ..data.load import Split, Splits, majority_baseline
from ..errors import InputError, RunError, first_line, say
from ..files import claimed, is_file, uninterrupted
from ..reports import report
from ..training.loop import EpochRecord, TrainState, create_state, fit, keras_adam
from ..training.mesh import set_up_jax
from ..training.metrics import Dtype, metrics_of, predict_logits, probabilities, wilson_interval
from . import checkpoint
from .build import augmentations, build_model, device, initial_model, load_splits
from .checkpoint import Record, Rows
from .messages import epoch_line, progress, result_lines
from .recipes import Experiment
from .run_folder import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    METRICS,
    Run,
    config,
    inputs_of,
    is_finished,
    load_run,
    plain,
    read_config,
    read_record,
    write_json,
)

Log = Callable[[str], None]

_PACKAGES = ("catdog_jax", "jax", "jaxlib", "flax", "optax", "numpy")


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
    try:
        splits = load_splits(experiment) if splits is None else splits
        if is_finished(out, experiment, splits):
            log(f"{out} holds this run already; reading it")
            return load_run(out)
        model = initial_model(experiment, len(splits.class_names))
        with claimed(out):
            return _train_and_report(experiment, out, model, splits, log)
    except KeyboardInterrupt:
        if is_file(out / CONFIG):
            log(f"interrupted; {_to_go_on(out)}")
        raise


def _train_and_report(
    experiment: Experiment, out: Path, model: nnx.Module, splits: Splits, log: Log
) -> Run:
    try:
        record = _train(experiment, out, model, splits, log)
        return _report(experiment, out, model, splits, record, log)
    except BrokenPipeError:  # of `log`: its reader has left
        raise
    except RunError as error:
        raise RunError(f"{error}{_kept(out)}") from error
    except OSError as error:
        raise RunError(
            f"{out} could not be written to ({first_line(error)}){_kept(out)}; "
            f"make room, then, {_to_go_on(out)}"
        ) from error


def _to_go_on(out: Path) -> str:
    return f"to go on: catdog-jax train --resume {shlex.quote(str(out))}"


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
    saved = checkpoint.epochs(out / CHECKPOINT)
    after = None
    if saved:
        path = out / CHECKPOINT / str(saved[-1])
        record = read_record(path, experiment, inputs)
        after = saved[-1], _state(model, path, experiment)
        # Without the best epoch's the run could not be judged in the end.
        best = checkpoint.best_epoch(record["history"])
        read_record(path.with_name(str(best)), experiment, inputs)
    write_json(out / CONFIG, config(experiment, splits, inputs))
    log(f"{experiment.model}, seed {experiment.seed}: {device()}, into {out}")
    if saved:
        log(f"going on after epoch {saved[-1]}, the last that was saved")
    history = record["history"]
    # A dead run is not gone on with, but its model must be there to be judged.
    epochs = len(history) if _has_died(experiment, history) else experiment.epochs
    for epoch in _epochs(replace(experiment, epochs=epochs), model, splits, after):
        row = {name: getattr(epoch, name) for name in report.COLUMNS}
        history.append(row)
        record["on_device"] = epoch.on_device
        with uninterrupted():
            checkpoint.save(out / CHECKPOINT, epoch.state, record)
            report.write_history(out / HISTORY, history)
        log(epoch_line(row, experiment.epochs, len(splits.train)))
        if _has_died(experiment, history):
            log("died: all outputs are zero (loss ln 64), so no gradient is left; stopping here")
            break
    return record


def _has_died(experiment: Experiment, history: Rows) -> bool:
    return experiment.stop_when_dead and bool(history) and report.is_dead(history[-1])


def _epochs(
    experiment: Experiment, model: nnx.Module, splits: Splits, after: tuple[int, TrainState] | None
) -> Iterator[EpochRecord]:
    with progress(experiment, len(splits.train), after[0] if after else 0) as on_step:
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
    write_json(out / METRICS, metrics)
    for line in result_lines(metrics):
        log(line)
    return Run(out, history, metrics)


def _best(history: Sequence[dict[str, float]], epoch: int, count: int) -> dict[str, Any]:
    accuracy = history[epoch - 1]["val_accuracy"]
    interval = wilson_interval(round(accuracy * count), count)
    return {"epoch": epoch, "val_accuracy": accuracy, "interval": interval}


def _images_per_second(history: Sequence[dict[str, float]], images: int) -> float:
    """Of the median epoch, the first, which compiles, left out where there are others."""
    seconds = [row["seconds"] for row in history]
    return images / float(np.median(seconds[1:] or seconds))


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
    last = read_record(folder / CHECKPOINT / str(epoch), experiment, data["inputs"])
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


def _restore(model: nnx.Module, path: Path, experiment: Experiment, inputs: dict[str, str]) -> None:
    """Fill `model`, in place, with the weights of a checkpoint of this very run."""
    read_record(path, experiment, inputs)
    state = _state(model, path, experiment)
    nnx.update(model, state.params, state.frozen)


def _state(model: nnx.Module, path: Path, experiment: Experiment) -> TrainState:
    _, state = create_state(model, keras_adam(experiment.learning_rate))
    return checkpoint.restore(path, state)


def has_died(folder: Path) -> bool:
    """Whether the model of a run died in training, so that its answers mean nothing.

    Raises:
        InputError: its last checkpoint cannot be read.
    """
    saved = checkpoint.epochs(folder / CHECKPOINT)
    history = checkpoint.read(folder / CHECKPOINT / str(saved[-1]))["history"] if saved else []
    return bool(history) and report.is_dead(history[-1])


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
