"""Runs: composes data, model, training, checkpoints and report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from ..data.splits import Splits
from ..errors import InputError, RunError, first_line, say
from ..files import expanded, is_file, lock_folder
from ..training import hosts
from ..training.evaluation import check_fit
from ..training.loop import EpochRecord
from ..training.memory import trim_memory
from ..training.state import TrainState, split_trained
from . import build, checkpoint, named
from .checkpoint import Record
from .events import events
from .experiment import Experiment
from .history import COLUMNS, Row, best_epoch, is_dead
from .initial import initial_model
from .naming import default_folder
from .phases import Phase, phases_of, train
from .report import report
from .results import Log, Run, load_run, put_checkpoint
from .run_folder import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    METRICS,
    Inputs,
    absolute,
    config_of,
    difference,
    identity,
    inputs_of,
    is_finished,
    keep_code,
    plain,
    read_config,
    with_code_of,
    write_json,
)
from .saving import last_saved, saving
from .terminal import epoch_line, progress, resume_hint


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    splits: Splits | None = None,
    log: Log = say,
) -> Run:
    """Train, evaluate and report one experiment in a folder.

    If the folder already holds this experiment, a finished run is only read; an unfinished one
    continues after its last saved epoch, with the same history as without the interruption.

    Args:
        experiment: to run.
        out: the run folder; by default in `runs/`, named after the experiment.
        splits: the data, if already loaded: those of `experiment`, or arrays of your own.
        log: is called with one line at a time.

    Raises:
        InputError: a model, source, weights file or checkpoint is wrong, another run is writing to
            `out`, or it holds something else. Nothing has been written then.
        RunError: training failed; what was saved before stays.
        KeyboardInterrupt: on Ctrl-C, after current writes are finished and `log` has got the
            command that resumes the run.
    """
    out = default_folder(experiment) if out is None else expanded(out)
    experiment, log = absolute(experiment), _of_first(log)
    with _resume_hint_on_interrupt(out, log):
        hosts.from_first(build.check, experiment)
        if splits is None:
            splits = build.load_splits(experiment)
        elif splits.source == build.ARRAYS:
            experiment = replace(experiment, data=build.ARRAYS)
        hosts.check_same("photos", splits.fingerprint)
        inputs = hosts.from_first(inputs_of, experiment, splits)
        if hosts.from_first(is_finished, out, experiment, inputs):
            log(f"{out} holds this run already; reading it")
            return hosts.from_first(load_run, out)
        return _train_and_report(experiment, out, splits, inputs, log)


def resume(
    folder: str | Path,
    *,
    epochs: int | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    finish: bool = False,
    log: Log = say,
) -> Run:
    """Continue a run with its own `config.json`; a finished run is read, or lengthened.

    Args:
        folder: the run folder.
        epochs: new total number of epochs.
        data: new path of the same photos, if they have moved.
        data_dir: as in `load_data`, if it has moved.
        finish: do not train further, evaluate and report as it is.
        log: is called with one line at a time.

    Raises:
        InputError: `folder` is not a run, the photos are others, or as for `run`.
        RunError: as for `run`.
    """
    folder, log = expanded(folder), _of_first(log)
    found = hosts.from_first(load_run, folder)
    done, (before, _) = len(found.history), hosts.from_first(read_config, folder)
    changes = {"epochs": epochs, "data": data, "data_dir": data_dir}
    experiment = replace(before, **{n: value for n, value in changes.items() if value is not None})
    if epochs is not None and epochs < done:
        raise InputError(f"{folder} has {done} epochs already; give --epochs {done} or more")
    if finish and epochs is not None:
        raise InputError(
            "finish ends a run as it is, epochs lengthens it; give only one of the two"
        )
    if finish and not done:
        raise InputError(f"{folder} has no epoch to evaluate yet; train at least one")
    if found.metrics is not None and (finish or epochs in (None, done)):
        log(f"{folder} is finished; reading it")
        return found
    of_own = named.is_code(experiment.optimizer)
    if experiment.epochs != before.epochs and (experiment.schedule != "constant" or of_own):
        own = f"schedule of {named.short(experiment.optimizer)}"
        schedule = own if of_own else f"{experiment.schedule} schedule"
        log(f"note: the {schedule} now ends with epoch {epochs}")
    experiment = absolute(with_code_of(folder, experiment))
    with _resume_hint_on_interrupt(folder, log):
        splits = build.load_splits_again(experiment)
        hosts.check_same("photos", splits.fingerprint)
        known = found.inputs if done else None
        inputs = hosts.from_first(inputs_of, experiment, splits, known=known)
        changed = difference(before, found.inputs, experiment, inputs)
        if changed:
            raise InputError(f"{folder} cannot be resumed: {changed}")
        return _train_and_report(experiment, folder, splits, inputs, log, finish=finish)


def _of_first(log: Log) -> Log:
    """The first process's log; the others say nothing."""
    return log if hosts.is_first() else lambda line: None


@contextmanager
def _resume_hint_on_interrupt(out: Path, log: Log) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if is_file(out / CONFIG):
            log(f"interrupted; {resume_hint(out)}")
        raise


def _train_and_report(
    experiment: Experiment,
    out: Path,
    splits: Splits,
    inputs: Inputs,
    log: Log,
    *,
    finish: bool = False,
) -> Run:
    hosts.check_same_settings({**identity(experiment), "epochs": experiment.epochs})
    begun = bool(hosts.from_first(checkpoint.epochs, out / CHECKPOINT))
    model = model_to_train(experiment, splits, begun=begun)
    with lock_folder(out) if hosts.is_first() else nullcontext():
        try:
            record, known = _train(experiment, out, model, splits, inputs, log, finish=finish)
            trim_memory()  # of the steps
            return report(experiment, out, model, splits, record, log, known)
        except BrokenPipeError:  # from `log`: its reader has gone
            raise
        except RunError as error:
            raise RunError(f"{error}{_kept(out)}") from error
        except OSError as error:
            raise RunError(
                f"{out} could not be written to ({first_line(error)}){_kept(out)}; "
                f"free some space; {resume_hint(out)}"
            ) from error


def _kept(out: Path) -> str:
    saved = checkpoint.epochs(out / CHECKPOINT)
    return f"; the state after epoch {saved[-1]} is kept in {out}" if saved else ""


def model_to_train(experiment: Experiment, splits: Splits, *, begun: bool = False) -> nnx.Module:
    """The model to start from; if the run has `begun`, without weights, for its checkpoint.

    With several processes, only the first one's has pretrained weights.

    Raises:
        InputError: model, weights, data and the parts to train do not fit each other.
    """
    height = splits.train.images.shape[1]
    if splits.source != build.ARRAYS and height != experiment.image_size:
        raise InputError(
            f"the photos are {height} pixels high, the experiment's image_size is "
            f"{experiment.image_size}"
        )
    classes = len(splits.class_names)
    with hosts.alone():
        if begun or not hosts.is_first():  # the first process's weights are everyone's, see `fit`
            model = build.build_model(experiment, classes, height, nnx.Everything())
        else:
            model = initial_model(experiment, classes, height)
    # `fit` checks this, too, but only after the folder was created.
    check_fit(model, splits.train, loss=build.loss_of(experiment, classes))
    steps = len(splits.train.batches(experiment.batch_size))
    for phase in (Phase(0, experiment), *phases_of(experiment)):  # the last may be left out
        split_trained(model, build.trainable_of(phase.experiment, model))
        options = build.training_of(phase.experiment, model, classes, steps)
        options["optimizer"]((phase.experiment.epochs - phase.start) * steps)
    build.class_weights(experiment, splits.train)
    return model


def _train(
    experiment: Experiment,
    out: Path,
    model: nnx.Module,
    splits: Splits,
    inputs: Inputs,
    log: Log,
    *,
    finish: bool,
) -> tuple[Record, np.ndarray | None]:
    """Train `model` from the last saved epoch to the end.

    Returns the last checkpoint's record, and the best epoch's `EpochRecord.val_logits`.
    """
    record = Record(
        format=checkpoint.FORMAT,
        experiment=plain(experiment),
        inputs=inputs,
        class_names=list(splits.class_names),
        history=[],
        device="",
        on_device=False,
    )
    path, saved = hosts.from_first(last_saved, out, experiment, inputs)
    if path is not None:
        record = Record(**{**record, **saved})
        record["experiment"] = plain(experiment)  # the photos may have moved
        put_checkpoint(model, path, experiment, inputs)
    history, logits = record["history"], None

    def keep(epoch: EpochRecord, state: TrainState) -> None:
        nonlocal logits
        history.append({name: getattr(epoch, name) for name in COLUMNS})
        if best_epoch(history) == epoch.epoch:
            logits = epoch.val_logits
        record["device"], record["on_device"] = build.device(epoch.devices), epoch.on_device
        if hosts.is_first():
            save(state, record)
            write_events(history[-1])

    folder = out / "tensorboard" if experiment.tensorboard and hosts.is_first() else None
    with (
        progress(experiment, len(splits.train), len(history)) as on_step,
        events(folder, len(history)) as write_events,
        saving(out / CHECKPOINT, out / HISTORY) as save,
    ):
        epochs = train(experiment, model, splits, history, path, keep, on_step)
        if hosts.is_first():
            (out / METRICS).unlink(missing_ok=True)  # it marks a finished run
            write_json(out / CONFIG, config_of(experiment, splits, inputs))
            keep_code(experiment, out)
        log(f"{named.short(experiment.model)}, seed {experiment.seed}, into {out}")
        if 0 < experiment.epochs <= experiment.head_epochs and experiment.trainable != "head":
            log(f"note: all {experiment.epochs} epochs train the head alone, as head_epochs says")
        if path is not None:
            log(f"resuming after epoch {path.name}, the last one saved")
        if finish or _has_died(experiment, history):  # do not train, only evaluate
            return record, None
        for epoch in epochs:
            log(epoch_line(epoch, experiment.epochs, len(splits.train)))
            if _has_died(experiment, history):
                log("died: all outputs are zero (loss ln 64), so there is no gradient; stopping")
                break
        else:
            if len(history) < experiment.epochs:
                log(f"stopped: no better validation accuracy for {experiment.patience} epochs")
    return record, logits


def _has_died(experiment: Experiment, history: Sequence[Row]) -> bool:
    return experiment.stop_when_dead and bool(history) and is_dead(history[-1])
