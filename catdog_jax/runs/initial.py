"""The weights that training starts from: random, a Keras file's, or those of another run."""

import logging
from typing import Any

from flax import nnx

from ..errors import InputError
from ..files import expanded
from ..models.keras_weights import load_keras_weights
from ..models.keras_whole import load_keras_model
from ..models.layers import weights_of
from . import build
from .experiment import Experiment
from .results import load_run

_LOGGER = logging.getLogger(__name__)


def initial_model(
    experiment: Experiment, num_classes: int, image_size: int | None = None
) -> nnx.Module:
    """The model that training starts from, pretrained weights included.

    Raises:
        InputError: the model, its weights file or the run it starts from is wrong.
    """
    replaced: Any = None
    if build.is_keras_file(experiment.init):
        replaced = nnx.Any(nnx.Param, nnx.BatchStat)
    elif experiment.weights != "none":
        replaced = nnx.PathContains("backbone")
    model = build.build_model(experiment, num_classes, image_size, replaced)
    if build.is_keras_file(experiment.init):
        load_keras_model(model, experiment.init)
        return model
    if experiment.weights != "none":
        load_keras_weights(model, experiment.weights, image_size=experiment.image_size)
    if experiment.init != "none":
        _start_from(experiment.init, model)
    return model


def _start_from(run: str, model: nnx.Module) -> None:
    """Fill `model`, in place, with a run's weights, but for those of another shape."""
    theirs, own = weights_of(load_run(expanded(run)).model), weights_of(model)
    same = {p: theirs[p] for p in own if p in theirs and theirs[p].shape == own[p].shape}
    if not same:
        raise InputError(f"{run} has no weights of the same name and shape as this model")
    nnx.update(model, nnx.from_flat_state(list(same.items())))
    missing = [".".join(map(str, path)) for path in own if path not in same]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        _LOGGER.warning("%s has no weights for %s%s", run, ", ".join(missing[:4]), more)
