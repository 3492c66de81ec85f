"""What a run folder says of its run, and whether that is the one that is asked for."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.load import Splits, class_counts
from ..errors import InputError, first_line
from ..files import expanded, is_empty, is_file, sha256, written_whole
from ..reports import report
from . import checkpoint
from .checkpoint import Record
from .recipes import Experiment

CONFIG, HISTORY, METRICS = "config.json", "history.csv", "metrics.json"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its history and what `metrics.json` holds."""

    folder: Path
    history: list[dict[str, float]]
    metrics: dict[str, Any]


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
    saved = checkpoint.epochs(folder / CHECKPOINT)
    if not saved or checkpoint.read(folder / CHECKPOINT / str(saved[-1]))["history"] != history:
        raise InputError(
            f"{folder / HISTORY} is not what its checkpoint says; delete {METRICS} and go on with "
            f"the run, which writes both anew: catdog-jax train --resume {shlex.quote(str(folder))}"
        )
    metrics = read_json(folder / METRICS)
    try:
        report.check_metrics(metrics)
        best = checkpoint.best_epoch(history)
        said = metrics["best"]["epoch"], metrics["best"]["val_accuracy"], metrics["dead"]
        if said != (best, history[best - 1]["val_accuracy"], report.is_dead(history[-1])):
            raise ValueError("its best epoch is not the history's")  # noqa: TRY301
    except Exception as error:
        raise InputError(f"{folder / METRICS} is damaged: {error!r}") from error
    return Run(folder, history, metrics)


def config(experiment: Experiment, splits: Splits, inputs: dict[str, str]) -> dict[str, Any]:
    """What `config.json` is to hold: all that `read_config` takes, and of which photos they are."""
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
        except (OSError, ValueError) as error:  # ValueError: no possible path
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


def read_record(path: Path, experiment: Experiment, inputs: dict[str, str]) -> Record:
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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")
