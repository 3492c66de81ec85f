"""The end of a run: evaluate its model, write `metrics.json`, `history.png`, `report.html`."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ..data.splits import Split, Splits, majority_baseline
from ..errors import first_line
from ..reports.plots import plot_history
from ..training import hosts
from ..training.memory import peak_memory
from ..training.metrics import wilson_interval
from . import named
from .checkpoint import Record
from .experiment import Experiment
from .history import best_epoch, is_dead, write_history
from .phases import phase_of, phases_of
from .predictions import Predictions, judged, predictions_of
from .results import Log, Run, load_run, put_checkpoint
from .run_folder import CHECKPOINT, HISTORY, METRICS, REPORT, write_json
from .run_page import AtHand, write_run_page
from .saved_answers import answers_of, write_answers
from .terminal import result_lines

_PACKAGES = ("catdog_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def report(
    experiment: Experiment,
    out: Path,
    model: nnx.Module,
    splits: Splits,
    record: Record,
    log: Log,
    known: np.ndarray | None = None,
) -> Run:
    """Evaluate the models of the last and the best epoch, and write the files of a finished run.

    Args:
        experiment: of the run.
        out: its folder.
        model: of the last epoch.
        splits: its photos.
        record: of its last checkpoint.
        log: gets the results.
        known: logits of the best epoch's model for the validation photos, if training has them.
    """
    best, last = best_epoch(record["history"]), len(record["history"])

    def predict(split: Split, epoch: int, logits: np.ndarray | None = None) -> Predictions | None:
        if not len(split):
            return None
        phase = phase_of(experiment, epoch)  # the same programs as in training
        return predictions_of(model, split, phase, splits.class_names, checked=True, logits=logits)

    of_last = predict(splits.test, last)
    put_checkpoint(model, out / CHECKPOINT / str(best), experiment, record["inputs"])
    found = {
        "validation": predict(splits.validation, best, None if experiment.mirror_test else known),
        "test": of_last if best == last else predict(splits.test, best),
    }
    # The rest is for one process: the others only get the result.
    return hosts.from_first(_write, experiment, out, model, splits, record, of_last, found, log)


def _write(
    experiment: Experiment,
    out: Path,
    model: nnx.Module,
    splits: Splits,
    record: Record,
    of_last: Predictions | None,
    found: Mapping[str, Predictions | None],
    log: Log,
) -> Run:
    """Write the files of a finished run.

    Args:
        experiment: of the run.
        out: its folder.
        model: of the best epoch.
        splits: its photos.
        record: of its last checkpoint.
        of_last: predictions of the last epoch's model on the test photos.
        found: those of the best epoch's model on validation and test photos.
        log: gets the results.
    """
    history = record["history"]
    best = best_epoch(history)
    validation, test, on_validation = splits.validation, splits.test, found["validation"]

    def judge(predictions: Predictions | None) -> dict[str, Any] | None:
        return predictions and judged(predictions, experiment)

    accuracy = history[best - 1]["val_accuracy"]
    interval = wilson_interval(round(accuracy * len(validation)), len(validation))
    start = [phase.start for phase in phases_of(experiment) if phase.start < len(history)][-1]
    # The first epoch of the last phase compiles, so the median leaves it out if there are others.
    seconds = [row["seconds"] for row in history]
    of_last_phase = seconds[start + 1 :] or seconds[start:]
    metrics = {
        "model": named.short(experiment.model),
        "seed": experiment.seed,
        "epochs": len(history),
        "dead": is_dead(history[-1]),
        "best": {"epoch": best, "val_accuracy": accuracy, "interval": interval},
        "validation": judge(on_validation),
        "test": judge(found["test"]),
        "test_last": judge(of_last),
        # Below it, `predict` says "not sure".
        "sure_above": float(np.quantile(on_validation.confidence, 0.1)) if on_validation else 0.0,
        "baseline": {
            "validation": majority_baseline(validation),
            "test": majority_baseline(test) if len(test) else None,
        },
        "seconds": sum(seconds),
        "images_per_second": len(splits.train) / float(np.median(of_last_phase)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))),
        "peak_memory": peak_memory(),
        "device": record["device"],
        "on_device": record["on_device"],
        "versions": _versions(),
    }
    write_history(out / HISTORY, history)
    fate = f": died in epoch {len(history)}" if metrics["dead"] else ""
    plot_history(
        out / "history.png",
        history,
        f"{metrics['model']}, seed {experiment.seed}{fate}",
        baseline=metrics["baseline"]["validation"],
        fine_tuning_after=start or None,
    )
    answers = {
        name: answers_of(one, getattr(splits, name), experiment)
        for name, one in found.items()
        if one is not None
    }
    write_answers(out, best, answers)
    try:
        write_run_page(
            out / REPORT, replace(load_run(out), metrics=metrics), answers, AtHand(model, splits)
        )
    except Exception as error:  # training must not have been in vain
        log(
            f"note: {REPORT} could not be made ({first_line(error)}); catdog-jax report tries again"
        )
    # Last: this file marks a finished run.
    write_json(out / METRICS, metrics)
    for line in result_lines(metrics):
        log(line)
    return load_run(out)


def _versions() -> dict[str, str]:
    """Of what was used; catdog_jax itself has none if it was not installed."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
