"""The demonstration: the ladder of models on drawings, then the classifier of the package."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..data import sketches
from ..errors import say
from ..reports.tables import percent
from ..training.metrics import wilson_interval
from .build import load_splits
from .classifier import Classifier, Photo, classifier
from .experiment import Experiment
from .results import Log, Run
from .series import run_series
from .terminal import answer_line

_TRIES = 4


def demo(
    experiments: Sequence[Experiment],
    out: Path,
    photos: Iterable[Photo] = (),
    *,
    log: Log = say,
) -> list[Run]:
    """Train each model on drawings, and let the classifier of the package answer.

    Args:
        experiments: of the same data; one that dies is tried again with the next seeds.
        out: the folder of the series.
        photos: for the classifier of the package to answer on.
        log: is called with one line at a time.

    Returns:
        The runs, without those that died.

    Raises:
        InputError, RunError: as for `run_series`.
    """
    splits = load_splits(experiments[0])
    count = len(splits.validation)
    log(f"Validation accuracy on {count} drawings, learned from {len(splits.train):,} others:")
    trained = [_train(experiment, out, log) for experiment in experiments]
    asked = classifier()
    log(f"Now {asked.about}.")
    log(f"  {_on_drawings(asked)}, though it learned from photos alone")
    for record in asked.answers(photos):
        log(f"  {answer_line(record)}")
    return [one for one in trained if one is not None]


def _train(experiment: Experiment, out: Path, log: Log) -> Run | None:
    """The first run that does not die, of a few seeds; None if all die."""
    for seed in range(_TRIES):
        (trained,) = run_series([replace(experiment, seed=seed)], out, log=_quiet)
        if not trained.is_dead and trained.metrics:
            best = trained.metrics["best"]
            log(f"  {experiment.model}  {percent(best['val_accuracy'], best['interval'])}")
            return trained
        log(f"  {experiment.model}  died with seed {seed}: all its outputs became zero")
    return None


def _on_drawings(asked: Classifier, count: int = 100) -> str:
    """The accuracy of the classifier of the package on drawings of its own size."""
    images, labels = sketches.draw(count, asked.image_size, seed=1)
    correct = int((asked.predict(images).classes == labels).sum())
    return f"{percent(correct / count, wilson_interval(correct, count))} of {count} drawings"


def _quiet(line: str) -> None:
    del line
