"""What an experiment names, made: its data, its model, its augmentations."""

import platform
from functools import cache, partial
from typing import Any

import jax
from flax import nnx

from ..data.load import Splits, load_data
from ..errors import InputError
from ..models.create import create_model, load_keras_weights
from ..training.augment import Augmentation, random_flip, random_rotation
from .recipes import Experiment


def load_splits(experiment: Experiment, *, strict: bool = False) -> Splits:
    """The data that `experiment` names; `strict` refuses them if a photo cannot be read."""
    return load_data(
        experiment.data,
        experiment.image_size,
        experiment.data_dir,
        experiment.split_seed,
        sizes=experiment.sizes,
        strict=strict,
    )


def build_model(experiment: Experiment, num_classes: int) -> nnx.Module:
    """The model that `experiment` names, with random weights.

    Raises:
        InputError: no such model, or not one of the four that classify photos.
    """
    options: dict[str, Any] = {"image_size": experiment.image_size, "num_classes": num_classes}
    if experiment.model in ("model1", "model2", "model3"):
        options["blog_logits"] = experiment.blog_logits
    elif experiment.model == "mobilenet_v2":
        raise InputError("mobilenet_v2 is a backbone, not an experiment; train model4 instead")
    return create_model(experiment.model, rngs=nnx.Rngs(experiment.seed), **options)


def initial_model(experiment: Experiment, num_classes: int) -> nnx.Module:
    """The model that training starts from: random weights, and a backbone's pretrained ones.

    Raises:
        InputError: a wrong model name or weights file.
    """
    model = build_model(experiment, num_classes)
    if experiment.weights != "none":
        load_keras_weights(model, experiment.weights, image_size=experiment.image_size)
    return model


@cache  # the same function objects, so that a second run of a model is not compiled again
def augmentations(*, flip: bool, rotation: float) -> tuple[Augmentation, ...]:
    """What is done to training images, in order; `rotation` as a share of a full turn."""
    chosen: list[Augmentation] = []
    if flip:
        chosen.append(random_flip)
    if rotation:
        chosen.append(partial(random_rotation, factor=rotation))
    return tuple(chosen)


def device() -> str:
    """What JAX computes on, as `2 × cpu` or `1 × NVIDIA H200`."""
    devices = jax.devices()
    name = platform.machine() + " cpu" if devices[0].platform == "cpu" else devices[0].device_kind
    return f"{len(devices)} × {name}"
