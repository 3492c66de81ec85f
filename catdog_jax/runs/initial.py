"""The weights that training starts from: random, a Keras file's, or those of another run."""

from typing import Any

import numpy as np
from flax import nnx

from ..errors import InputError
from ..files import expanded
from ..models.keras_weights import load_keras_weights
from . import build
from .experiment import Experiment
from .results import load_run


def initial_model(
    experiment: Experiment, num_classes: int, image_size: int | None = None
) -> nnx.Module:
    """The model that training starts from, pretrained weights included.

    Raises:
        InputError: the model, its weights file or the run it starts from is wrong.
    """
    model = build.build_model(experiment, num_classes, image_size)
    if experiment.weights != "none":
        load_keras_weights(model, experiment.weights, image_size=experiment.image_size)
    if experiment.init != "none":
        _start_from(experiment.init, model)
    return model


def _start_from(run: str, model: nnx.Module) -> None:
    """Fill `model`, in place, with a run's weights, but for those of another shape."""
    found, own = _weights(load_run(expanded(run)).model), _weights(model)
    same = {path: value for path, value in found.items() if _fits(value, own.get(path))}
    if not any(path[-1] == "kernel" for path in same):
        raise InputError(f"{run} has no weights of the same name and shape as this model")
    nnx.update(model, nnx.from_flat_state([(path, nnx.Param(v)) for path, v in same.items()]))


def _weights(model: nnx.Module) -> dict[Any, np.ndarray]:
    """Parameters and batch statistics by path."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def _fits(value: np.ndarray, own: np.ndarray | None) -> bool:
    return own is not None and value.shape == own.shape
