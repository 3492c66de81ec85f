"""`predictions.npz`: the best model's answers about held-out photos, to report on without them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..data.photo_facts import brightness, original_sizes
from ..data.splits import Split
from ..errors import InputError
from ..files import is_file, written_whole
from ..reports.answers import Answers
from .experiment import Experiment
from .history import best_epoch
from .predictions import Predictions
from .results import Run

ANSWERS = "predictions.npz"
_ARRAYS = ("names", "labels", "predicted", "probabilities", "brightness", "megapixels")


def answers_of(
    predictions: Predictions, split: Split, experiment: Experiment | None = None
) -> Answers:
    """A model's predictions on a split; with an experiment, also the facts about its photos."""
    unknown = np.full(len(split), np.nan)
    megapixels = None
    if experiment is not None:
        sizes = original_sizes(experiment.data, experiment.data_dir, split.names)
        pixels = [sizes.get(name, (np.nan, np.nan)) for name in split.names]
        megapixels = np.prod(np.array(pixels, float).reshape(-1, 2), axis=1) / 1e6
    return Answers(
        names=split.names,
        class_names=predictions.class_names,
        labels=predictions.true_classes,
        predicted=predictions.classes,
        probabilities=predictions.probabilities,
        brightness=unknown if experiment is None else brightness(split.images),
        megapixels=unknown if megapixels is None else megapixels,
    )


def write_answers(folder: Path, epoch: int, answers: Mapping[str, Answers]) -> None:
    """Write the answers of the model of an epoch, by split, into a run's folder."""
    arrays = {
        f"{split}.{name}": np.asarray(getattr(one, name))
        for split, one in answers.items()
        for name in _ARRAYS
    }
    with written_whole(folder / ANSWERS, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, epoch=epoch, **arrays)


def recorded_answers(run: Run) -> dict[str, Answers]:
    """The answers in a run's folder by split; nothing if there are none of its best epoch.

    Raises:
        InputError: the file is damaged.
    """
    path = run.folder / ANSWERS
    if not run.history or not is_file(path):
        return {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if int(file["epoch"]) != best_epoch(run.history):
                return {}
            splits = dict.fromkeys(name.partition(".")[0] for name in file if "." in name)
            return {split: _answers(file, split, run.class_names) for split in splits}
    except Exception as error:  # damaged archives raise errors of many types
        raise InputError(f"{path} is damaged ({error!r}); delete it to report without") from error


def _answers(file: Mapping[str, np.ndarray], split: str, class_names: tuple[str, ...]) -> Answers:
    arrays = {name: file[f"{split}.{name}"] for name in _ARRAYS}
    count, classes = arrays["probabilities"].shape
    if any(len(array) != count for array in arrays.values()) or classes != len(class_names):
        raise ValueError(f"the lengths of the {split} arrays differ")
    names = tuple(arrays.pop("names").tolist())
    return Answers(names=names, class_names=class_names, **arrays)
