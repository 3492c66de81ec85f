"""Results of a run: history, metrics, model and predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import optax
from flax import nnx

from ..data.arrays import Arrays, as_split
from ..data.load import unused_photos
from ..data.splits import SPLIT_NAMES, Split, Splits
from ..errors import InputError, say
from ..files import expanded, is_file
from ..reports import tables
from ..training.hosts import from_first
from ..training.state import create_state, put_weights
from . import build, checkpoint
from .experiment import Experiment
from .history import Row, best_epoch, is_dead
from .phases import phase_of
from .predictions import Predictions, judged, predictions_of
from .run_folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    Inputs,
    read_config,
    read_json,
    read_record,
    saved_checkpoint,
    with_code_of,
)
from .unseen import without_seen

Log: TypeAlias = Callable[[str], None]
Which: TypeAlias = Literal["best", "last"]


@dataclass(frozen=True, eq=False)
class Run:
    """A run on disk, finished or not, as read by `load_run`."""

    folder: Path
    experiment: Experiment
    """Its settings."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    image_size: int
    """Of the photos, in pixels."""
    inputs: Inputs
    """Hashes of the photos, the weights file, the run it started from, and the code."""
    history: list[Row]
    """A dictionary for each epoch, as in `history.csv`."""
    metrics: dict[str, Any] | None
    """The content of `metrics.json`; None if the run is unfinished."""
    checkpoint: Which = "best"
    """Which epoch's model: the best or the last."""

    @property
    def is_dead(self) -> bool:
        """Whether the model died in training: its answer is the same for any photo."""
        return bool(self.history) and is_dead(self.history[-1])

    @property
    def sure_above(self) -> float:
        """The confidence of all but the least sure tenth of the validation photos; 0 if unknown."""
        return (self.metrics or {}).get("sure_above", 0.0)

    @cached_property
    def model(self) -> nnx.Module:
        """The model of the best epoch, or of the last one if `checkpoint` says so.

        Raises:
            InputError: no epoch is saved, or the checkpoint is damaged or of another model.
        """
        while True:
            saved = checkpoint.epochs(self.folder / CHECKPOINT)
            try:
                return self._load()
            except InputError:
                # A run in training may have replaced this checkpoint by a better one.
                if checkpoint.epochs(self.folder / CHECKPOINT) == saved:
                    raise

    def _load(self) -> nnx.Module:
        experiment, best = self.experiment, self.checkpoint == "best"
        path = from_first(saved_checkpoint, self.folder, experiment, self.inputs, best=best)
        classes, all_of_it = len(self.class_names), nnx.Everything()
        model = build.build_model(experiment, classes, self.image_size, all_of_it)
        put_checkpoint(model, path, experiment, self.inputs)
        return model

    def predict(
        self,
        data: str | Path | Split | Arrays | np.ndarray | None = None,
        *,
        split: str = "test",
        data_dir: str | None = None,
        unseen: bool = False,
        seen_to: str | Path | None = None,
        log: Log = say,
    ) -> Predictions:
        """The model's predictions on photos.

        Args:
            data: a source for `load_data`, a split, images, or images and labels; by default the
                run's own data.
            split: which part of a source: train, validation, test, or all its photos.
            data_dir: as in `load_data`.
            unseen: leave out photos that look like one the run was trained or validated on, in
                whatever size or encoding.
            seen_to: CSV file that lists those that `unseen` leaves out, and what each looks like.
            log: gets a line if class names were matched (cat = cats), the data have changed, or
                photos were left out.

        Raises:
            InputError: there are no such photos, or they or their classes do not fit the model.
        """
        if seen_to is not None and not unseen:
            raise InputError("seen-to lists what unseen leaves out; give both")
        if isinstance(data, Split | tuple | np.ndarray):
            if unseen:
                raise InputError("unseen needs a source of photos, not arrays")
            return self._predict([as_split(data) if isinstance(data, tuple) else data])
        if split not in (*SPLIT_NAMES, "all"):
            raise InputError(f"unknown split '{split}'; choose train, validation, test or all")
        changes: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
        if data is not None:
            # A path is never a name: Path("sketches") is a folder.
            named = data if isinstance(data, str) else str(expanded(data).absolute())
            changes |= {"data": named, "data_dir": data_dir, "sizes": None}
        source = replace(self.experiment, **changes)
        load = build.load_splits_again if data is None else build.load_splits
        splits = load(source, image_size=self.image_size)
        if data is None and splits.fingerprint != self.inputs["photos"]:
            log(f"note: {source.data} has changed since this run was trained")
        names = SPLIT_NAMES if split == "all" else (split,)
        parts = [getattr(splits, name) for name in names]
        if split == "all":
            parts.append(unused_photos(splits))
        chosen = [part for part in parts if len(part)]
        if not chosen:
            raise InputError(f"{source.data} has no {split} photos")
        chosen = self._with_our_classes(chosen, splits, log)
        if unseen:
            own = splits if data is None else None
            listed = None if seen_to is None else expanded(seen_to)
            chosen = without_seen(self, chosen, own, log, listed)
        return self._predict(chosen)

    def _with_our_classes(self, parts: list[Split], splits: Splits, log: Log) -> list[Split]:
        theirs = splits.class_names
        if theirs == self.class_names:
            return parts
        ours = {_alike(name): label for label, name in enumerate(self.class_names)}
        found = [ours.get(_alike(name)) for name in theirs]
        if None in found or len({*found}) < len(found) or len(ours) < len(self.class_names):
            raise InputError(
                f"{self.folder} was trained on the classes {', '.join(self.class_names)}, "
                f"but {splits.source} has {', '.join(theirs)}"
            )
        pairs = zip(theirs, found, strict=True)
        log(f"classes matched: {', '.join(f'{a} = {self.class_names[b]}' for a, b in pairs)}")  # pyright: ignore
        labels = np.array(found, np.int32)
        return [
            replace(part, labels=labels[part.labels], class_names=self.class_names)
            for part in parts
        ]

    def _predict(self, parts: Sequence[Split | np.ndarray]) -> Predictions:
        found = [
            predictions_of(self.model, part, self.experiment, self.class_names) for part in parts
        ]
        first = found[0]
        if len(found) == 1:
            return first
        return replace(
            first,
            names=sum((part.names for part in found), ()),
            **{
                name: np.concatenate([getattr(part, name) for part in found])
                for name in ("logits", "labels", "losses")
            },
        )

    def judge(self, predictions: Predictions) -> dict[str, Any]:
        """Loss, accuracy and its interval, as in `metrics.json`."""
        return judged(predictions, self.experiment)


def load_run(folder: str | Path, *, checkpoint: Which = "best") -> Run:
    """Read a run's folder; the model is loaded at first use.

    Args:
        folder: made by `run`, or a copy.
        checkpoint: take the model of the epoch with the best validation accuracy, or of the last.

    Raises:
        InputError: it is not a run, or it is damaged.
    """
    folder = expanded(folder)
    if checkpoint not in ("best", "last"):
        raise InputError(f"unknown checkpoint '{checkpoint}'; choose best or last")
    experiment, config = read_config(folder)
    names, inputs = config["data"]["class_names"], config["inputs"]
    history, saved = [], _saved(folder)
    if saved:
        record = read_record(folder / CHECKPOINT / str(saved[-1]), experiment, inputs)
        history = record["history"]
        if record["class_names"] != names:
            raise InputError(
                f"{folder / CONFIG} has the classes {', '.join(names)}, its checkpoint "
                f"{', '.join(record['class_names'])}"
            )
    return Run(
        folder=folder,
        experiment=with_code_of(folder, experiment, inputs),
        class_names=tuple(names),
        image_size=config["data"]["image_shape"][0],
        inputs=inputs,
        history=history,
        metrics=_read_metrics(folder, history) if is_file(folder / METRICS) else None,
        checkpoint=checkpoint,
    )


def _saved(folder: Path) -> list[int]:
    return checkpoint.epochs(folder / CHECKPOINT)


def _read_metrics(folder: Path, history: list[Row]) -> dict[str, Any]:
    if not history:
        raise InputError(f"{folder} has no saved epoch; was it copied without {CHECKPOINT}/?")
    metrics = read_json(folder / METRICS)
    try:
        entry = tables.Entry({}, metrics["seed"], metrics["epochs"], history, metrics)
        tables.series_table([entry])
        tables.runs_table([entry])
        best = best_epoch(history)
        if metrics["best"]["val_accuracy"] != history[best - 1]["val_accuracy"]:
            raise ValueError("its best accuracy is not the history's")  # noqa: TRY301
    except Exception as error:  # anything missing or of another type
        raise InputError(
            f"{folder / METRICS} is damaged ({error!r}); delete it and resume the run to write it "
            "again"
        ) from error
    return metrics


def put_checkpoint(model: nnx.Module, path: Path, experiment: Experiment, inputs: Inputs) -> None:
    """Fill `model`, in place, with the weights of a checkpoint of this run."""
    from_first(read_record, path, experiment, inputs)
    phase = phase_of(experiment, int(path.name))
    _, state = create_state(
        model,
        optax.identity(),
        trainable=build.trainable_of(phase, model),
        ema=phase.ema is not None,
    )
    put_weights(model, checkpoint.restore(path, state, weights_only=True))


def _alike(name: str) -> str:
    """`cat` for cat, Cats, CAT: class names are compared in this form."""
    return name.strip().casefold().removesuffix("s")
