"""From an experiment's names to objects: its data, its model, and the arguments of `fit`."""

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from ..data.load import load_data
from ..data.splits import Split, Splits, hard_labels
from ..errors import InputError, RunError
from ..models.building import built
from ..models.create import MODELS
from ..models.keras_weights import weights_file
from ..training.augment import Augmentation, named_augmentation
from ..training.depth import last_stages, scale_by_depth
from ..training.features import has_fixed_features
from ..training.hosts import first_then_others, is_first
from ..training.loop import Callback, EpochRecord
from ..training.losses import Loss, cross_entropy, smoothed
from ..training.optimizers import DIRECTIONS, make_optimizer, rate_scale
from ..training.state import TrainState, split_trained
from . import named
from .events import event_writer
from .experiment import Experiment
from .recipes import recipe

ARRAYS = "arrays"
"""The source of `splits_from_arrays`."""


def load_splits(
    experiment: Experiment, *, image_size: int | None = None, strict: bool = False
) -> Splits:
    """The data of `experiment`; `strict` refuses unreadable photos.

    Raises:
        InputError: there are no such data, or they were arrays.
    """
    if experiment.data == ARRAYS:
        raise InputError(
            "this run was trained on arrays: pass them as `data`, or call run again with the same "
            "splits to resume it"
        )
    return first_then_others(
        lambda: load_data(
            experiment.data,
            image_size or experiment.image_size,
            experiment.data_dir,
            experiment.split_seed,
            sizes=experiment.sizes,
            strict=strict,
        )
    )


def load_splits_again(experiment: Experiment, *, image_size: int | None = None) -> Splits:
    """As `load_splits`, of a run: its photos may be gone.

    Raises:
        InputError: as for `load_splits`.
    """
    try:
        return load_splits(experiment, image_size=image_size)
    except InputError as error:
        if Path(experiment.data).is_absolute() and not Path(experiment.data).exists():
            raise InputError(
                f"{experiment.data} does not exist any more; give its new path with --data"
            ) from error
        raise


def build_model(
    experiment: Experiment,
    num_classes: int,
    image_size: int | None = None,
    replaced: Any = None,
) -> nnx.Module:
    """The model of `experiment` with random weights.

    Args:
        experiment: says which.
        num_classes: number of classes.
        image_size: by default that of the experiment.
        replaced: an `nnx` filter of what a file will replace: there is no need to draw it.

    Raises:
        InputError: no such model, an option it does not take, or not an NNX module.
    """
    offered = {"image_size": image_size or experiment.image_size, "num_classes": num_classes}
    factory = named.find(experiment.model, MODELS, "model")
    chosen = named.options(experiment.model_options)

    def make(rngs: nnx.Rngs) -> Any:
        return named.call(factory, {"rngs": rngs, **offered}, chosen, name=experiment.model)

    rngs = nnx.Rngs(experiment.seed)
    # Your code runs as plain Python: it may print values, or keep arrays where JAX finds none.
    ours = not named.is_code(experiment.model)
    model = built(make, rngs, replaced=replaced) if ours else make(rngs)
    if not isinstance(model, nnx.Module):
        raise InputError(f"{experiment.model} gives a {type(model).__name__}, not an NNX module")
    return model


def check(experiment: Experiment) -> None:
    """Check an experiment before its photos are decoded.

    Raises:
        InputError: it names something that does not exist, or weights cannot be downloaded.
    """
    named.find(experiment.model, MODELS, "model")
    named.options(experiment.model_options)
    weights_path(experiment)
    if is_keras_file(experiment.init):
        weights_file(experiment.init)
    training_of(experiment, None, 2, 1)
    if named.is_code(experiment.trainable):
        named.load(experiment.trainable)
    if experiment.tensorboard:
        event_writer()


def is_keras_file(init: str) -> bool:
    """Whether an experiment's `init` is a Keras file of a whole model, not a run."""
    return init.endswith((".keras", ".h5"))


def weights_path(experiment: Experiment) -> Path | None:
    """The file of the experiment's pretrained weights, downloaded if it is missing.

    None if it has none, or starts from something else (`init`).

    Raises:
        InputError: it does not exist or cannot be downloaded.
    """
    if experiment.weights == "none" or experiment.init != "none":
        return None
    if experiment.weights != "imagenet":
        return weights_file(experiment.weights)
    model: Any = nnx.eval_shape(lambda: build_model(experiment, 2))
    backbone = getattr(model, "backbone", model)
    return weights_file(
        "imagenet",
        alpha=getattr(backbone, "alpha", 1.0),
        image_size=experiment.image_size,
        include_top=getattr(backbone, "classifier", None) is not None,
    )


def training_of(
    experiment: Experiment, model: nnx.Module | None, num_classes: int, steps_per_epoch: int
) -> dict[str, Any]:
    """The experiment's arguments for `fit`; without a model, all but what depends on it.

    Raises:
        InputError: an unknown optimizer, loss, augmentation or callback.
    """
    return {
        "epochs": experiment.epochs,
        "batch_size": experiment.batch_size,
        "optimizer": _optimizer(experiment, model, steps_per_epoch),
        "loss": loss_of(experiment, num_classes),
        "augment": [_augmentation(name, num_classes) for name in experiment.augment],
        "trainable": None if model is None else trainable_of(experiment, model),
        "ema": experiment.ema,
        "patience": experiment.patience,
        "threshold": experiment.threshold,
        "seed": experiment.seed,
        "dtype": experiment.dtype,
        "on_device": experiment.on_device,
        "callbacks": [_callback(name) for name in experiment.callbacks if is_first()],
    }


def loss_of(experiment: Experiment, num_classes: int) -> Loss:
    """The loss of training and evaluation."""
    loss = named.find(experiment.loss, {"cross_entropy": cross_entropy}, "loss")
    amount = experiment.label_smoothing
    return smoothed(loss, amount, num_classes) if amount else loss


def trainable_of(experiment: Experiment, model: nnx.Module) -> Any:
    """The `nnx` filter of the parameters of `model` to train.

    Raises:
        InputError: the model has no such stages, or there is no such code.
    """
    name = experiment.trainable
    if name == "all":
        return nnx.Param
    if named.is_code(name):
        return named.load(name)
    if name.startswith("last="):
        count = name.removeprefix("last=")
        return last_stages(model, int(count) if count.isdecimal() else 0)
    return nnx.All(nnx.Param, nnx.PathContains(name))


def leaves_features_fixed(experiment: Experiment, model: nnx.Module) -> bool:
    """Whether training leaves the features that `model` finds in a photo unchanged."""
    _, params, _ = split_trained(model, trainable_of(experiment, model))
    return has_fixed_features(model, params)


def class_weights(experiment: Experiment, train: Split) -> tuple[float, ...] | None:
    """A factor for each class's losses; balanced ones average to 1 over the photos.

    Raises:
        InputError: they cannot be balanced because a class has no photos.
    """
    if experiment.class_weights != "balanced":
        return experiment.class_weights
    classes = hard_labels(train)
    counts = np.bincount(classes, minlength=len(train.class_names))
    if not counts.all():
        missing = train.class_names[int(counts.argmin())]
        raise InputError(f"class_weights cannot be balanced: no training photo of {missing}")
    return tuple((len(classes) / (len(counts) * counts)).tolist())


def _optimizer(
    experiment: Experiment, model: nnx.Module | None, steps_per_epoch: int
) -> Callable[[int], optax.GradientTransformation]:
    if named.is_code(experiment.optimizer):
        make = _own_optimizer(experiment, steps_per_epoch)
    elif experiment.optimizer in DIRECTIONS:
        usual, scale = recipe(experiment.model).batch_size, 1.0
        if experiment.scale_learning_rate:
            scale = rate_scale(experiment.optimizer, experiment.batch_size, usual)
        make = partial(
            make_optimizer,
            experiment.optimizer,
            learning_rate=experiment.learning_rate * scale,
            schedule=experiment.schedule,
            warmup_steps=round(experiment.warmup * steps_per_epoch),
            weight_decay=experiment.weight_decay,
            clip=experiment.clip,
        )
    else:
        raise named.unknown(experiment.optimizer, DIRECTIONS, "optimizer")
    if model is None or experiment.layer_decay == 1.0:
        return lambda steps: make(steps=steps)
    by_depth = scale_by_depth(model, experiment.layer_decay)
    return lambda steps: optax.chain(make(steps=steps), by_depth)


def _own_optimizer(
    experiment: Experiment, steps_per_epoch: int
) -> Callable[..., optax.GradientTransformation]:
    name, own = experiment.optimizer, named.load(experiment.optimizer)
    ours = ("schedule", "warmup", "weight_decay", "clip", "scale_learning_rate")
    unused = [n for n in ours if getattr(experiment, n) != getattr(Experiment, n)]
    if unused:
        raise InputError(
            f"{unused[0]} only applies to built-in optimizers; set it in {name} itself"
        )

    def optimizer(steps: int) -> optax.GradientTransformation:
        offered = {
            "learning_rate": experiment.learning_rate,
            "steps": steps,
            "steps_per_epoch": steps_per_epoch,
        }
        made = own
        if not isinstance(made, optax.GradientTransformation):
            made = named.call(own, offered, name=name)
        if not isinstance(made, optax.GradientTransformation):
            raise InputError(f"{name} gives a {type(made).__name__}, not an optax transformation")
        return made

    return optimizer


def _callback(name: str) -> Callback:
    function = named.find(name, {}, "callback")

    def callback(record: EpochRecord, state: TrainState) -> None:
        try:
            function(record, state)
        except Exception as error:
            raise RunError(f"{name} failed ({named.where_it_failed(error)})") from error

    return callback


def _augmentation(text: str, num_classes: int) -> Augmentation:
    return named.load(text) if named.is_code(text) else named_augmentation(text, num_classes)


def device(count: int) -> str:
    """The devices used, as `2 × x86_64 cpu` or `1 × NVIDIA H200`."""
    first = jax.devices()[0]
    name = f"{platform.machine()} cpu" if first.platform == "cpu" else first.device_kind
    return f"{count} × {name}"
