"""Export a run: choose photos, have the files written, compare them, move them into place."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ..errors import InputError, first_line, say
from ..files import expanded, make_folder
from ..reports.tables import percent
from ..runs.named import short
from ..runs.results import Log, Run, load_run
from . import keras_file, stablehlo
from .keras_network import CONVERTIBLE
from .package import Probabilities, about, accuracy, checked, difference, expected, pack
from .photos import Photos, photos_of, some_of

Format: TypeAlias = Literal["keras", "tflite", "stablehlo"]

_NAMES = {"keras": "model.keras", "tflite": "model.tflite", "stablehlo": "model.stablehlo.zip"}
_INPUTS = {
    "keras": "pixels 0…255, RGB [batch, height, width, 3], any size, float32 or uint8",
    "tflite": "float32 pixels 0…255, RGB [1, image_size, image_size, 3]",
}
_SAMPLES = 200  # training photos for the ranges of int8


def export(
    run: Run | str | Path,
    to: Format,
    out: str | Path | None = None,
    *,
    photos: Sequence[str | Path] = (),
    log: Log = say,
) -> tuple[Path, ...]:
    """Write a run's model as a file for other programs, if it predicts what the run does.

    The file turns pixels into probabilities of the classes, whose names are in it. Its predictions
    may differ from the run's, in float32, by 1e-4; those in int8 may differ more, and their
    accuracy is measured.

    Args:
        run: a run, or its folder; its photos need not be on this machine.
        to: `"keras"`; `"tflite"`, in float32 and, if the run's photos are there, in int8; or
            `"stablehlo"`, of any model.
        out: the file; by default `model.` and the format, in the run's folder.
        photos: files or folders of photos to compare on; by default the run's test photos if they
            are there, else drawings.
        log: is called with one line at a time.

    Returns:
        The files.

    Raises:
        InputError: there is no such run or photo, its model cannot take this form, or `out` cannot
            be written.
        RunError: the predictions differ. Nothing has been written then.
    """
    if to not in get_args(Format):
        raise InputError(f"unknown format '{to}'; choose keras, tflite or stablehlo")
    run = run if isinstance(run, Run) else load_run(run)
    out = _target(run, to, out)
    if to != "stablehlo" and not isinstance(run.model, CONVERTIBLE):
        raise InputError(
            f"{short(run.experiment.model)} cannot be made of Keras's layers, only models 1 to 6 "
            "can; stablehlo works for any model"
        )
    chosen = photos_of(run, photos, log)
    wanted = expected(run, chosen.images)
    make_folder(out.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as work:
            if to == "stablehlo":
                made = _stablehlo(run, chosen, Path(work))
            else:
                made = _by_keras(run, to, chosen, Path(work), log)
            for one in made:
                target, content = out.with_suffix(one.suffix), about(run, **one.about)
                log(_compared(target.name, one, wanted, chosen, content))
                pack(one.path, content)
            for one in made:
                one.path.replace(out.with_suffix(one.suffix))
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({first_line(error)}); choose another file"
        ) from error
    targets = tuple(out.with_suffix(one.suffix) for one in made)
    for target in targets:
        log(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return targets


def _target(run: Run, to: Format, out: str | Path | None) -> Path:
    path = run.folder / _NAMES[to] if out is None else expanded(out)
    suffix = Path(_NAMES[to]).suffix
    if path.suffix != suffix:
        raise InputError(f"{path} must end in {suffix}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file")
    return path


@dataclass(frozen=True, eq=False)
class _Made:
    """A file in the temporary folder."""

    path: Path
    suffix: str
    """Of the file to be."""
    about: dict[str, Any]
    """What it says of itself besides what all files say."""
    found: Probabilities
    """What it predicts for the photos to compare on."""
    tested: Probabilities | None = None
    """What it predicts for the test photos."""
    exact: bool = True
    """Whether it has to predict what the run does."""


def _compared(
    name: str, made: _Made, wanted: Probabilities, chosen: Photos, content: dict[str, Any]
) -> str:
    """How far a file is from the run, in a line; its test accuracy goes into `content`.

    Raises:
        RunError: too far.
    """
    exact = made.exact
    largest = checked(name, made.found, wanted) if exact else difference(made.found, wanted)
    line = f"{name}: largest difference {largest:.1e}, on {chosen.origin}"
    if made.tested is None or chosen.own is None:
        return line
    test = content["test_accuracy"] = accuracy(made.tested, chosen.own.test.labels)
    shown = percent(test["accuracy"], test["interval"])
    return f"{line}; test accuracy {shown} of {test['count']} photos"


def _stablehlo(run: Run, chosen: Photos, work: Path) -> list[_Made]:
    path = work / _NAMES["stablehlo"]
    content = stablehlo.write(run, path)
    return [_Made(path, path.suffix, content, stablehlo.predict(path, chosen.images))]


def _by_keras(run: Run, to: Format, chosen: Photos, work: Path, log: Log) -> list[_Made]:
    own, is_tested = chosen.own, False
    np.save(work / keras_file.PHOTOS, chosen.images)
    if to == "tflite" and own is None:
        log("note: no file in int8, as the training photos to find its ranges are not at hand")
    elif to == "tflite" and own is not None:
        np.save(work / keras_file.SAMPLES, some_of(own.train, _SAMPLES))
        is_tested = len(own.test) > 0
        if is_tested:
            np.save(work / keras_file.TEST, np.asarray(own.test.images))
    return [
        _Made(
            work / name,
            name.removeprefix("model"),
            {"input": _INPUTS[to]},
            keras_file.predictions(work, name),
            keras_file.predictions(work, name, keras_file.TEST) if is_tested else None,
            exact="int8" not in name,
        )
        for name in keras_file.written(run, to, work)
    ]
