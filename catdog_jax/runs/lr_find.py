"""A learning-rate range test (Smith 2017, arXiv:1506.01186)."""

import inspect
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import optax
from jaxtyping import Float

from ..data.splits import Splits
from ..errors import InputError, RunError
from ..training.loop import fit
from ..training.metrics import Sums
from . import build, named
from .experiment import Experiment
from .initial import initial_model
from .phases import phases_of

_SMOOTHING = 0.04  # standard deviation of the average over neighbouring steps, in all steps
_FALL = 0.9
_DIVERGED = 4.0
_RECENT = 5
_FEWEST = 50


@dataclass(frozen=True, eq=False)
class RateCurve:
    """The training loss while the learning rate grows from step to step."""

    rates: Float[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    """Of each batch, in nats."""

    @property
    def smoothed(self) -> Float[np.ndarray, " steps"]:
        """The losses, averaged over steps before and after: an average of the past would lag."""
        steps = np.arange(len(self.losses))
        distances = (steps[:, None] - steps) / max(1.0, _SMOOTHING * len(steps))
        weights = np.exp(-(distances**2) / 2)
        return weights @ self.losses / weights.sum(axis=1)

    @property
    def suggestion(self) -> float | None:
        """Where the loss has done nine tenths of its fall: training is fast and still stable.

        None if it never fell: by 1 % or less, or by less than twice the first batches' spread.
        """
        start, smoothed = self.losses[: max(5, len(self.losses) // 10)], self.smoothed
        fall = start.mean() - smoothed.min()
        if fall <= max(2 * start.std(), 0.01 * abs(start.mean())):
            return None
        return float(self.rates[int(np.argmax(smoothed <= start.mean() - _FALL * fall))])

    @property
    def verdict(self) -> str:
        """The suggestion in a line."""
        if self.suggestion is None:
            return (
                "no suggestion: the loss never fell clearly below its start; try a smaller "
                "--least, a larger --most or more --steps"
            )
        return f"suggestion: --learning-rate {self.suggestion:.1e}"


def find_learning_rate(
    experiment: Experiment,
    splits: Splits,
    *,
    least: float = 1e-6,
    most: float = 1.0,
    steps: int = 100,
) -> RateCurve:
    """Train for a few steps at rates that grow from `least` to `most`, until the loss diverges.

    The loss has diverged if that of recent steps is four times the least such. Of an experiment in
    two phases, the last one is tried, begun without the first.

    Args:
        experiment: whose model, optimizer, augmentation and data are tried.
        splits: its data.
        least: the first learning rate.
        most: the last one.
        steps: number of batches.

    Raises:
        InputError: `least` and `most` are not in order, there are too few steps, or the optimizer
            takes no learning rate.
        RunError: not even the first loss is finite.
    """
    if not 0 < least < most < math.inf or steps < _FEWEST:
        raise InputError(f"lr-find needs 0 < least < most, and {_FEWEST} steps or more")
    if named.is_code(experiment.optimizer) and not _takes_rate(experiment.optimizer):
        raise InputError(f"{named.short(experiment.optimizer)} takes no learning_rate to be found")
    growth = (most / least) ** (1 / (steps - 1))
    rates = least * growth ** np.arange(steps)
    per_epoch = len(splits.train.batches(experiment.batch_size))
    at_rate_one = replace(
        phases_of(experiment)[-1].experiment,
        epochs=-(-steps // per_epoch),
        learning_rate=1.0,
        schedule="constant",
        warmup=0.0,
        patience=None,
        callbacks=(),
    )
    classes = len(splits.class_names)
    model = initial_model(experiment, classes, splits.train.images.shape[1])
    options = build.training_of(at_rate_one, model, classes, per_epoch)
    options["optimizer"] = optax.chain(
        options["optimizer"](steps), optax.scale_by_schedule(lambda step: least * growth**step)
    )
    losses: list[float] = []
    recent: list[float] = []
    seen = {"epoch": -1, "loss": 0.0, "count": 0}

    def note(epoch: int, sums: Sums) -> None:
        if epoch != seen["epoch"]:
            seen.update(epoch=epoch, loss=0.0, count=0)
        loss, count = float(sums["loss"]), int(sums["count"])
        losses.append((loss - seen["loss"]) / (count - seen["count"]))
        seen.update(loss=loss, count=count)
        recent.append(mean(losses[-_RECENT:]))
        if len(losses) == steps or recent[-1] > _DIVERGED * min(recent):
            raise _Enough

    few = splits.validation.take(np.arange(min(len(splits.validation), experiment.batch_size)))
    weights = build.class_weights(experiment, splits.train)
    options |= {"on_device": False, "on_step": note, "class_weights": weights}
    try:
        with suppress(_Enough):
            for _ in fit(model, splits.train, few, **options):
                pass
    except RunError:  # the loss is not finite any more
        if not losses:
            raise
    return RateCurve(rates[: len(losses)], np.array(losses))


def _takes_rate(optimizer: str) -> bool:
    own = named.load(optimizer)  # an optax transformation itself cannot be called
    return callable(own) and "learning_rate" in inspect.signature(own).parameters


class _Enough(Exception):  # noqa: N818
    """Ends the training."""
