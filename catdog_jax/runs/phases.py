"""The phases of a training: first the head alone, if `head_epochs` says so, then the rest.

Each phase is an experiment and a `fit` of its own; the run has one history of them all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from flax import nnx

from ..data.splits import Splits
from ..training.loop import Callback, EpochRecord, fit
from ..training.metrics import Sums
from ..training.state import create_state
from . import build, checkpoint
from .experiment import Experiment
from .history import Row


@dataclass(frozen=True)
class Phase:
    """A part of a training."""

    start: int
    """How many epochs come before it."""
    experiment: Experiment
    """Its settings; `epochs` is the number of its last epoch."""


def phases_of(experiment: Experiment) -> list[Phase]:
    """The phases of an experiment, in order."""
    head = min(experiment.head_epochs, experiment.epochs)
    if not head:
        return [Phase(0, experiment)]
    head_alone = replace(
        experiment,
        epochs=head,
        trainable="head",
        augment=(),
        learning_rate=experiment.head_learning_rate,
        layer_decay=1.0,
        schedule="constant",
        warmup=0.0,
        ema=None,
        patience=None,
    )
    rest = [Phase(head, experiment)] if head < experiment.epochs else []
    return [Phase(0, head_alone), *rest]


def phase_of(experiment: Experiment, epoch: int) -> Experiment:
    """The settings of an epoch, from 1."""
    return [phase.experiment for phase in phases_of(experiment) if phase.start < epoch][-1]


def train(
    experiment: Experiment,
    model: nnx.Module,
    splits: Splits,
    done: Sequence[Row],
    saved: Path | None,
    keep: Callback,
    on_step: Callable[[int, Sums], None] | None,
) -> Iterator[EpochRecord]:
    """Train `model`, in place, through the phases that are not done yet.

    Args:
        experiment: of the run.
        model: as it is after the epochs `done`.
        splits: to train and validate on.
        done: the history so far.
        saved: the checkpoint of its last epoch.
        keep: called after each epoch.
        on_step: as in `fit`.

    Raises:
        InputError: an argument of `fit` is wrong, in any phase; nothing has been trained then.
    """
    steps = len(splits.train.batches(experiment.batch_size))
    class_weights = build.class_weights(experiment, splits.train)

    def fit_phase(phase: Phase) -> Iterator[EpochRecord]:
        options = build.training_of(phase.experiment, model, len(splits.class_names), steps)
        optimizer = options["optimizer"]((phase.experiment.epochs - phase.start) * steps)
        after = None
        if saved is not None and phase.start < len(done):
            averaged = options["ema"] is not None
            _, state = create_state(model, optimizer, trainable=options["trainable"], ema=averaged)
            accuracies = [row["val_accuracy"] for row in done[phase.start :]]
            after = accuracies, checkpoint.restore(saved, state)
        options |= {"optimizer": optimizer, "class_weights": class_weights}
        options["callbacks"] = [keep, *options["callbacks"]]
        return fit(
            model,
            splits.train,
            splits.validation,
            start=phase.start,
            after=after,
            on_step=on_step,
            **options,
        )

    left = [phase for phase in phases_of(experiment) if phase.experiment.epochs > len(done)]
    # Made now, so that all arguments are checked; each starts when the one before has ended.
    return chain.from_iterable([fit_phase(phase) for phase in left])
