"""The files of a run folder, and whether they belong to a given run."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

from ..data.load import SOURCES
from ..data.splits import Splits, class_counts
from ..errors import InputError, first_line
from ..files import expanded, is_empty, is_file, sha256, written_whole
from ..models import ready_made
from . import build, checkpoint, named
from .checkpoint import Record
from .experiment import PATHS, READY_MADE, Experiment
from .history import best_epoch

CONFIG, HISTORY, METRICS = "config.json", "history.csv", "metrics.json"
CHECKPOINT, CODE, REPORT = "checkpoint", "code", "report.html"

Inputs = dict[str, str]
"""Fingerprints of a run's inputs: photos, weights file, the run it starts from, code."""

_CODE_SETTINGS = ("model", "trainable", "optimizer", "loss", "augment", "callbacks")


class Config(TypedDict):
    """The content of `config.json`."""

    experiment: dict[str, Any]
    inputs: Inputs
    data: dict[str, Any]
    """Class names, image shape, counts; photos that were skipped or are in two splits."""


def absolute(experiment: Experiment) -> Experiment:
    """`experiment` with absolute paths."""

    def path(name: str) -> str:
        return str(expanded(name).absolute())

    def code(name: str) -> str:
        file, _, attribute = name.rpartition(":")
        return f"{path(file)}:{attribute}" if file.endswith(".py") else name

    data, weights = experiment.data, experiment.weights
    return replace(
        _map_code(experiment, code),
        data=data if data in (*SOURCES, build.ARRAYS) else path(data),
        data_dir=experiment.data_dir and path(experiment.data_dir),
        weights=path(weights) if weights not in ("imagenet", "none") else weights,
        init=path(experiment.init)
        if experiment.init not in ("none", READY_MADE)
        else experiment.init,
    )


def _map_code(experiment: Experiment, change: Callable[[str], str]) -> Experiment:
    def changed(value: str) -> str:
        return change(value) if named.is_code(value) else value

    settings = {name: getattr(experiment, name) for name in _CODE_SETTINGS}
    return replace(
        experiment,
        **{
            name: changed(value) if isinstance(value, str) else tuple(map(changed, value))
            for name, value in settings.items()
        },
    )


def _code_files(experiment: Experiment) -> dict[str, Path]:
    """The files of the experiment's code, by `my_net.py` or `package.module`."""
    files: dict[str, Path] = {}

    def note(name: str) -> str:
        where, file = named.place(name), named.source(name)
        key = where if isinstance(where, str) else where.name
        if file is not None and files.setdefault(key, file) != file:
            raise InputError(f"{files[key]} and {file} have the same name; rename one of them")
        return name

    _map_code(experiment, note)
    return files


def inputs_of(experiment: Experiment, splits: Splits, *, known: Inputs | None = None) -> Inputs:
    """Fingerprints of the inputs that decide the result of training.

    Args:
        experiment: names weights and code.
        splits: the photos.
        known: the inputs of a run in which training has begun, so that the weights it started
            from are no longer needed.

    Raises:
        InputError: a file cannot be read.
    """
    files = _code_files(experiment)
    inputs = {"photos": splits.fingerprint}
    if known is None:
        inputs["weights file"] = "none"
        if weights := build.weights_path(experiment):
            files["weights file"] = weights
        if build.is_keras_file(experiment.init):
            files["init"] = expanded(experiment.init)
        elif experiment.init == READY_MADE:
            files["init"] = ready_made.WEIGHTS
        elif experiment.init != "none":
            first = expanded(experiment.init)
            its_experiment, config = read_config(first)
            best = saved_checkpoint(first, its_experiment, config["inputs"])
            files["init"] = best / checkpoint.DIGESTS
    else:
        inputs |= {name: known[name] for name in ("weights file", "init") if name in known}
    for name, path in files.items():
        try:
            inputs[name] = sha256(path)
        except (OSError, ValueError) as error:  # ValueError: no possible path
            raise InputError(f"{path} cannot be read ({first_line(error)})") from error
    return inputs


def keep_code(experiment: Experiment, out: Path) -> None:
    """Copy the experiment's `FILE.py` into `out`, so that the folder works elsewhere."""
    for name, path in _code_files(experiment).items():
        if name.endswith(".py"):
            (out / CODE).mkdir(exist_ok=True)
            if path != out / CODE / name:
                shutil.copyfile(path, out / CODE / name)


def with_code_of(folder: Path, experiment: Experiment, inputs: Inputs | None = None) -> Experiment:
    """`experiment` with copies from `folder` in place of code files that no longer exist.

    With `inputs`, also in place of files that have changed since (to use a model, not to train it).
    """

    def located(name: str) -> str:
        path = named.place(name)
        if isinstance(path, str):
            return name
        copy = folder.absolute() / CODE / path.name
        there = is_file(path) and (inputs is None or sha256(path) == inputs.get(path.name))
        return name if there or not copy.is_file() else f"{copy}:{name.rpartition(':')[2]}"

    return _map_code(experiment, located)


def is_finished(out: Path, experiment: Experiment, inputs: Inputs) -> bool:
    """Whether `out` holds this run, with these inputs, finished.

    Raises:
        InputError: it holds something else.
    """
    if is_empty(out):
        return False
    found = f"it has no {CONFIG}"
    if is_file(out / CONFIG):
        there, config = read_config(out)
        found = difference(there, config["inputs"], experiment, inputs)
        if not found and there.epochs != experiment.epochs:
            found = (
                f"its epochs are {there.epochs}, this run's {experiment.epochs} (to lengthen it: "
                f"--resume with --epochs)"
            )
    if found:
        raise InputError(
            f"{out} already exists and is not this run: {found}; choose another folder"
        )
    return is_file(out / METRICS)


def config_of(experiment: Experiment, splits: Splits, inputs: Inputs) -> Config:
    """The content of `config.json`."""
    return Config(
        experiment=plain(experiment),
        inputs=inputs,
        data={
            "class_names": list(splits.class_names),
            "image_shape": list(splits.train.images.shape[1:]),
            "train": class_counts(splits.train),
            "validation": class_counts(splits.validation),
            "test": class_counts(splits.test),
            "skipped": [asdict(photo) for photo in splits.skipped],
            "shared": [asdict(photo) for photo in splits.shared],
            "passed_over": dict(splits.passed_over),
        },
    )


def plain(experiment: Experiment) -> dict[str, Any]:
    """As read back from JSON: lists instead of tuples."""
    return json.loads(json.dumps(asdict(experiment)))


def read_config(folder: Path) -> tuple[Experiment, Config]:
    """The experiment of a run, and its whole `config.json`.

    Raises:
        InputError: the file is missing or wrong.
    """
    if not is_file(folder / CONFIG):
        if run := next(folder.glob(f"*/{CONFIG}"), None):
            raise InputError(f"{folder} holds several runs; name one, such as {run.parent}")
        raise InputError(f"{folder} is not a run: it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    try:
        names, shape = config["data"]["class_names"], config["data"]["image_shape"]
        if not all(isinstance(name, str) for name in names) or not all(n > 0 for n in shape):
            raise TypeError("its class_names or image_shape are wrong")  # noqa: TRY301
        if not {"photos", "weights file"} <= config["inputs"].keys():
            raise TypeError("its inputs are missing")  # noqa: TRY301
        return Experiment.from_plain(config["experiment"]), config
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder / CONFIG} is not a run's configuration: {said}") from error


def difference(
    there: Experiment, inputs_there: Mapping[str, str], here: Experiment, inputs_here: Inputs
) -> str:
    """The first difference between two runs, with both sides, or nothing.

    The content of photos, weights and code counts, not their paths; the number of epochs does not,
    since a run can be lengthened.
    """
    left, right = identity(there), identity(here)
    for name, value in left.items():
        if value != right[name]:
            return f"its {name} is {value}, this run's {right[name]}"
    for name in [*inputs_there, *inputs_here]:
        one, other = inputs_there.get(name), inputs_here.get(name)
        if one != other:
            return f"its {name} had the fingerprint {one}, now it is {other}"
    return ""


def identity(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide what a run is, but for its epochs and inputs."""
    values = plain(_map_code(experiment, named.short))
    return {name: v for name, v in values.items() if name not in (*PATHS, "epochs")}


def saved_checkpoint(
    folder: Path, experiment: Experiment, inputs: Inputs, *, best: bool = True
) -> Path:
    """The path of a run's checkpoint of the best epoch, or of the last one.

    Raises:
        InputError: no epoch is saved, or the last checkpoint is damaged.
    """
    saved = checkpoint.epochs(folder / CHECKPOINT)
    if not saved:
        raise InputError(f"{folder} has no checkpoint yet; train at least one epoch")
    path = folder / CHECKPOINT / str(saved[-1])
    if not best:
        return path
    record = read_record(path, experiment, inputs)
    return path.with_name(str(best_epoch(record["history"])))


def read_record(path: Path, experiment: Experiment, inputs: Inputs) -> Record:
    """The record of a checkpoint of this run.

    Raises:
        InputError: it belongs to another run, or cannot be read.
    """
    record = checkpoint.read(path)
    there = Experiment.from_plain(record["experiment"])
    found = difference(there, record["inputs"], experiment, inputs)
    if found:
        raise InputError(f"{path} is not a checkpoint of this run: {found}")
    return record


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    with written_whole(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")
