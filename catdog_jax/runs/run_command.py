"""The command that repeats a run."""

import shlex
from typing import Any

from .experiment import Experiment
from .naming import changed


def command_of(experiment: Experiment) -> str:
    """`catdog-jax train model3 --data photos/ --epochs 5`: what differs from the model's recipe."""
    words = ["catdog-jax", "train", experiment.model]
    for name in [*changed(experiment), *["seed"] * (experiment.seed != 0)]:
        value = getattr(experiment, name)
        given = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(_word, given)]
    return shlex.join(words)


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
