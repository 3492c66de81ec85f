"""The weights that training starts from: random, a Keras file's, or another training's."""

import logging
from typing import Any

from flax import nnx

from ..errors import InputError
from ..files import expanded
from ..models.keras_weights import load_keras_weights
from ..models.keras_whole import load_keras_model
from ..models.layers import weights_of
from ..models.ready_made import ready_made
from . import build
from .experiment import READY_MADE, Experiment
from .results import load_run

_LOGGER = logging.getLogger(__name__)
_LEAST_SHARE = 0.5  # with fewer it is another network, though a bias or two may fit


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
    elif experiment.init == "none" and experiment.weights != "none":
        replaced = nnx.PathContains("backbone")
    model = build.build_model(experiment, num_classes, image_size, replaced)
    if build.is_keras_file(experiment.init):
        load_keras_model(model, experiment.init)
    elif experiment.init != "none":
        _start_from(experiment.init, model)
    elif experiment.weights != "none":
        load_keras_weights(model, experiment.weights, image_size=experiment.image_size)
    return model


def _start_from(init: str, model: nnx.Module) -> None:
    """Fill `model`, in place, with another training's weights, but for those of another shape."""
    first = ready_made() if init == READY_MADE else load_run(expanded(init)).model
    theirs, own = weights_of(first), weights_of(model)
    same = {p: theirs[p] for p in own if p in theirs and theirs[p].shape == own[p].shape}
    share = sum(own[p].size for p in same) / sum(weight.size for weight in own.values())
    if share < _LEAST_SHARE:
        raise InputError(
            f"{init} has only {100 * share:.0f} % of this model's weights, by name and shape: "
            "start from a run of the same model"
        )
    nnx.update(model, nnx.from_flat_state(list(same.items())))
    missing = [".".join(map(str, path)) for path in own if path not in same]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        _LOGGER.warning("%s has no weights for %s%s", init, ", ".join(missing[:4]), more)
