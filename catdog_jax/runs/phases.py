"""The phases of a training: the head alone, if it has epochs of its own, then all the rest.

Each phase is an experiment of its own, and a `fit`; to the run they are one history.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
    phases = [Phase(0, head_alone), Phase(head, experiment)]
    return [phase for phase in phases if phase.experiment.epochs > phase.start]


def phase_of(experiment: Experiment, epoch: int) -> Experiment:
    """The settings of an epoch, from 1."""
    last = phases_of(experiment)[-1].experiment
    found = (p.experiment for p in phases_of(experiment) if epoch <= p.experiment.epochs)
    return next(found, last)


def train(
    experiment: Experiment,
    model: nnx.Module,
    splits: Splits,
    history: Sequence[Row],
    saved: Path | None,
    keep: Callback,
    on_step: Callable[[int, Sums], None] | None,
) -> Iterator[EpochRecord]:
    """Train `model`, in place, through the phases that `history` has not got to the end of.

    Args:
        experiment: of the run.
        model: as it is after the last epoch of `history`.
        splits: to train and validate on.
        history: of the epochs so far; may grow meanwhile.
        saved: the last epoch's checkpoint.
        keep: called after each epoch.
        on_step: as in `fit`.

    Raises:
        InputError: an argument of `fit` is wrong; nothing has been trained then.
    """
    classes, steps = len(splits.class_names), len(splits.train.batches(experiment.batch_size))
    class_weights = build.class_weights(experiment, splits.train)
    options = [
        build.training_of(phase.experiment, model, classes, steps)
        for phase in phases_of(experiment)
    ]
    done = len(history)

    def epochs() -> Iterator[EpochRecord]:
        for phase, arguments in zip(phases_of(experiment), options, strict=True):
            last, start = phase.experiment.epochs, phase.start
            if len(history) >= last:
                continue
            optimizer = arguments["optimizer"]((last - start) * steps)
            after = None
            if done > start:
                _, state = create_state(
                    model,
                    optimizer,
                    trainable=arguments["trainable"],
                    ema=phase.experiment.ema is not None,
                )
                assert saved is not None
                accuracies = [row["val_accuracy"] for row in history[start:]]
                after = accuracies, checkpoint.restore(saved, state)
            arguments |= {"optimizer": optimizer, "class_weights": class_weights}
            arguments["callbacks"] = [keep, *arguments["callbacks"]]
            yield from fit(
                model,
                splits.train,
                splits.validation,
                start=start,
                after=after,
                on_step=on_step,
                **arguments,
            )

    return epochs()
