"""A learning-rate range test (Smith 2017, arXiv:1506.01186)."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optax
from jaxtyping import Float

from ..data.splits import Splits
from ..errors import InputError, RunError
from ..reports import plots
from ..training.loop import fit
from ..training.metrics import Sums
from . import build
from .experiment import Experiment
from .initial import initial_model
from .phases import phases_of

_SMOOTHING = 0.95
_DIVERGED = 4.0  # times the least smoothed loss, as in fastai


@dataclass(frozen=True, eq=False)
class RateCurve:
    """The training loss while the learning rate grows from step to step."""

    rates: Float[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    """Of each batch, in nats."""

    @property
    def smoothed(self) -> Float[np.ndarray, " steps"]:
        """A moving average of the losses, corrected for its start at zero."""
        average, smoothed = 0.0, []
        for step, loss in enumerate(self.losses, 1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss)
            smoothed.append(average / (1 - _SMOOTHING**step))
        return np.array(smoothed)

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at the least smoothed loss, where training is fast and still safe."""
        return float(self.rates[int(self.smoothed.argmin())]) / 10


def find_learning_rate(
    experiment: Experiment,
    splits: Splits,
    *,
    least: float = 1e-6,
    most: float = 1.0,
    steps: int = 100,
) -> RateCurve:
    """Train for a few steps at rates that grow from `least` to `most`, until the loss diverges.

    Of an experiment in two phases, the last one, begun without the first.

    Args:
        experiment: whose model, optimizer, augmentation and data are tried.
        splits: its data.
        least: the first learning rate.
        most: the last one.
        steps: number of batches.

    Raises:
        InputError: `least` and `most` are not in order, or there are too few steps.
    """
    if not 0 < least < most or steps < 10:
        raise InputError("lr-find needs 0 < least < most, and 10 steps or more")
    rates = least * (most / least) ** (np.arange(steps) / (steps - 1))
    per_epoch = len(splits.train.batches(experiment.batch_size))
    epochs = -(-steps // per_epoch)
    model = initial_model(experiment, len(splits.class_names), splits.train.images.shape[1])
    at_rate_one = replace(
        phases_of(experiment)[-1].experiment,
        epochs=epochs,
        learning_rate=1.0,
        schedule="constant",
        warmup=0.0,
        patience=None,
    )
    options = build.training_of(at_rate_one, model, len(splits.class_names), per_epoch)
    growing = optax.scale_by_schedule(
        lambda step: least * (most / least) ** (step / (steps - 1))  # pyright: ignore
    )
    options["optimizer"] = optax.chain(options["optimizer"](steps), growing)
    losses: list[float] = []
    seen = {"epoch": -1, "loss": 0.0, "count": 0}

    def note(epoch: int, sums: Sums) -> None:
        if epoch != seen["epoch"]:
            seen.update(epoch=epoch, loss=0.0, count=0)
        loss, count = float(sums["loss"]), int(sums["count"])
        losses.append((loss - seen["loss"]) / (count - seen["count"]))
        seen.update(loss=loss, count=count)
        smoothed = RateCurve(rates[: len(losses)], np.array(losses)).smoothed
        if len(losses) == steps or smoothed[-1] > _DIVERGED * smoothed.min():
            raise _Enough

    few = splits.validation.take(np.arange(min(len(splits.validation), experiment.batch_size)))
    with suppress(_Enough, RunError):  # RunError: the loss is not finite any more
        for _ in fit(model, splits.train, few, on_step=note, on_device=False, **options):
            pass
    return RateCurve(rates[: len(losses)], np.array(losses))


class _Enough(Exception):  # noqa: N818
    """Ends the training."""


def plot_rates(path: Path, curve: RateCurve, title: str) -> None:
    """Draw the loss over the learning rate, with the suggestion."""
    figure, (axes,) = plots.subplots(1, 1, (6, 4))
    axes.plot(curve.rates, curve.losses, color=plots.TRAINING_COLOUR, alpha=0.3, label="batch")
    axes.plot(curve.rates, curve.smoothed, color=plots.TRAINING_COLOUR, label="smoothed")
    axes.axvline(curve.suggestion, color="0.35", linestyle="--", label=f"{curve.suggestion:.1e}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.2 * max(curve.smoothed[0], float(np.quantile(curve.smoothed, 0.9))))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(title)
    axes.legend()
    plots.save(figure, path)
