"""Optimizers by name, with learning-rate schedules, weight decay and clipping: optax chains."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ..errors import InputError

Schedule = Literal["constant", "cosine"]


def scale_by_keras_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Adam's direction as Keras computes it.

    Keras adds `eps` to the root of the second moment before correcting its bias, `optax` after. In
    step t Keras's is as if eps were eps / √(1 - b2^t), thirty times as much in the first step (both
    forms are in Kingma & Ba 2015, section 2, arXiv:1412.6980).
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        steps = jax.tree.map(lambda m, v: (scale * m / (jnp.sqrt(v) + eps)).astype(m.dtype), mu, nu)
        return steps, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def keras_adam(learning_rate: optax.ScalarOrSchedule = 1e-3) -> optax.GradientTransformation:
    """Keras's Adam, see `scale_by_keras_adam`."""
    return optax.chain(scale_by_keras_adam(), optax.scale_by_learning_rate(learning_rate))


DIRECTIONS: Mapping[str, Callable[[], optax.GradientTransformation]] = MappingProxyType(
    {
        "adam": optax.scale_by_adam,
        "adamw": optax.scale_by_adam,
        "sgd": lambda: optax.trace(0.9),
        "keras_adam": scale_by_keras_adam,
    }
)
"""The update direction of each optimizer, before the learning rate."""


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    steps: int,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """An optimizer of `DIRECTIONS`.

    Args:
        name: its name.
        learning_rate: the peak of the schedule.
        steps: of the whole training.
        schedule: after warm-up; "cosine" falls to zero at the last step.
        warmup_steps: over which the learning rate rises from zero.
        weight_decay: of kernels, not of biases and scales; decoupled (adamw) or L2 (the others).
        clip: the largest global norm of the gradients.

    Raises:
        InputError: no optimizer has this name.
    """
    if name not in DIRECTIONS:
        raise InputError(f"unknown optimizer '{name}'; choose one of: {', '.join(DIRECTIONS)}")
    rate = _rate(learning_rate, schedule, warmup_steps, steps)
    decay = [optax.add_decayed_weights(weight_decay, mask=_kernels)] if weight_decay else []
    clipping = [optax.clip_by_global_norm(clip)] if clip else []
    direction = [DIRECTIONS[name]()]
    update = direction + decay if name == "adamw" else decay + direction
    return optax.chain(*clipping, *update, optax.scale_by_learning_rate(rate))


def rate_scale(name: str, batch_size: int, usual: int) -> float:
    """The factor on a learning rate found with batches of `usual` photos.

    Linear for SGD (Goyal et al. 2017, arXiv:1706.02677), the square root for Adam, whose steps do
    not grow with the gradient (Malladi et al. 2022, arXiv:2205.10287).
    """
    ratio = batch_size / usual
    return ratio if name == "sgd" else math.sqrt(ratio)


def _rate(peak: float, schedule: Schedule, warmup: int, steps: int) -> optax.ScalarOrSchedule:
    if schedule == "constant":
        return optax.linear_schedule(0.0, peak, warmup) if warmup else peak
    end = max(steps, warmup + 1)  # training may end before the warm-up does
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, end)


def _kernels(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda array: array.ndim > 1, params)
