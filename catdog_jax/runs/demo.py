"""The demonstration: the ladder of models on drawings, then the classifier of the package."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..data import sketches
from ..errors import say
from ..reports.tables import answer_line, percent
from ..training.metrics import wilson_interval
from . import build
from .classifier import Classifier, Photo, classifier
from .experiment import Experiment
from .results import Log, Run
from .series import run_series

_TRIES = 6


def demo(
    experiments: Sequence[Experiment],
    out: Path,
    photos: Iterable[Photo] = (),
    *,
    log: Log = say,
) -> list[Run]:
    """Train each model on drawings, and let the classifier of the package answer.

    Args:
        experiments: of the same data; one that dies or learns nothing is tried again with the
            next seeds.
        out: the folder of the series.
        photos: for the classifier of the package to answer on.
        log: is called with one line at a time.

    Returns:
        The runs that learned something; those that were tried again are deleted.

    Raises:
        InputError, RunError: as for `run_series`.
    """
    for experiment in experiments:
        build.check(experiment)
    splits = build.load_splits(experiments[0])
    count = len(splits.validation)
    log(
        f"Validation accuracy on {count} drawings of heads that lie any way, learned from "
        f"{len(splits.train):,} others:"
    )
    trained = [_train(experiment, out, log) for experiment in experiments]
    asked = classifier()
    log(f"Now {asked.about}.")
    log(f"  {_on_drawings(asked)}, though it learned from photos alone")
    for record in asked.answers(photos):
        log(f"  {answer_line(record)}")
    return [one for one in trained if one is not None]


def _train(experiment: Experiment, out: Path, log: Log) -> Run | None:
    """The first run that learns something, of a few seeds; None if there is none."""
    trained: Run | None = None
    for seed in range(_TRIES):
        if trained is not None:  # it would be averaged with the next on the page
            shutil.rmtree(trained.folder)
        (trained,) = run_series([replace(experiment, seed=seed)], out, log=_quiet)
        if trained.is_dead or not trained.metrics:
            log(f"  {experiment.model}  died with seed {seed}: all its outputs became zero")
            continue
        best, chance = trained.metrics["best"], trained.metrics["baseline"]["validation"]
        accuracy = percent(best["val_accuracy"], best["interval"])
        if best["interval"][0] > chance:
            log(f"  {experiment.model}  {accuracy}")
            return trained
        log(f"  {experiment.model}  with seed {seed} no better than guessing: {accuracy}")
    return None


def _on_drawings(asked: Classifier, count: int = 100) -> str:
    """The accuracy of the classifier of the package on drawings of its own size, heads up."""
    images, labels = sketches.draw(count, asked.image_size, seed=1, tilt=30)
    correct = int((asked.predict(images).classes == labels).sum())
    accuracy = percent(correct / count, wilson_interval(correct, count))
    return f"{accuracy} of {count} upright drawings"


def _quiet(line: str) -> None:
    del line
