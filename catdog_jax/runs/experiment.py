"""The settings of a run: plain values, each defined once with its meaning, range and default.

They are saved in `config.json`, and the command line is made from them. Values that name code (a
model, an optimizer, an augmentation, a loss, a filter, a callback) are built-in names, or
`FILE.py:NAME` or `package.module:NAME` for your own; see `catdog_jax.runs.named`.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..data.splits import LARGEST_IMAGE, SMALLEST_IMAGE, checked_sizes
from ..errors import InputError

_LEAST, _GREATEST = 1e-38, 3e38  # of float32, which the settings become


class Range(NamedTuple):
    """The smallest and the largest value of a setting, inclusive."""

    least: float
    most: float

    def __str__(self) -> str:
        if self.most < _GREATEST:
            return f"{self.least:g} to {self.most:.10g}"
        if self.least == -_GREATEST:
            return ""
        return "0 or more" if self.least == 0 else "above 0"


_Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX takes larger ones and drops the higher bits
_Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Experiment:
    """One run: the same values give the same history on the same machine.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    model: str
    """model1 (plain CNN), model2 (augmented), model3 (rescaled), model4 (transfer), model5
    (fine-tuned), model6 (residual), model6_deep, or your own: FILE.py:NAME, a class or function
    that takes rngs (and, if it names them, num_classes and image_size) and returns an NNX
    module."""
    model_options: tuple[str, ...] = ()
    """Arguments of the model, as NAME=VALUE."""
    weights: str = "none"
    """Pretrained weights of the model's MobileNetV2: imagenet (downloaded once), a Keras file, or
    none."""
    init: str = "none"
    """What to start from in place of weights: a run of the same model (its folder; weights of
    another shape are left out), ready-made (the classifier that comes with the package, a
    model6_deep), a Keras file of a whole model 4 or 5, or none."""
    trainable: str = "all"
    """What is trained: all, a part of the model by name (head), its last N stages (last=N, model5
    has 20), or an nnx filter FILE.py:NAME."""
    data: str = "cats_and_dogs_filtered"
    """cats_vs_dogs (TFDS), cats_and_dogs_filtered (downloads the post's zip), sketches (drawn by a
    program), or a folder or zip of photos with one sub-folder per class."""
    data_dir: str | None = None
    """Folder of TFDS's prepared data, or for the downloaded zip."""
    image_size: Annotated[int, Range(SMALLEST_IMAGE, LARGEST_IMAGE)] = 160
    """Height and width the photos are resized to, in pixels."""
    sizes: tuple[int, int, int] | None = None
    """Photos to train, validate and test on; None: the data set's default."""
    split_seed: _Seed = 0
    """Decides which photo goes into which split. Separate from seed, so that a spread over seeds is
    that of training alone."""
    batch_size: Annotated[int, Range(1, 2**16)] = 32
    """Photos in a step."""
    epochs: Annotated[int, Range(1, 10**6)] = 20
    """Passes over the training photos."""
    head_epochs: Annotated[int, Range(0, 10**6)] = 0
    """How many of the epochs come first and train only the model's part named head, without
    augmentation: models 4 and 5 then compute a photo's features only once. schedule, warmup,
    layer_decay, ema and patience apply only to the epochs after them."""
    head_learning_rate: Annotated[float, Range(_LEAST, _GREATEST)] = 1e-3
    """The constant learning rate of the head's epochs."""
    optimizer: str = "adam"
    """adam, adamw, sgd (momentum 0.9), keras_adam, or FILE.py:NAME, an optax transformation
    or a function that returns one and may take learning_rate, steps and steps_per_epoch."""
    learning_rate: Annotated[float, Range(_LEAST, _GREATEST)] = 1e-3
    """The peak of the learning rate schedule."""
    scale_learning_rate: bool = False
    """For another batch size than the recipe's: change all learning rates with it, linearly for
    sgd, with its square root for the others."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after warm-up; cosine falls to zero."""
    warmup: Annotated[float, Range(0, 10**6)] = 0.0
    """Epochs over which the learning rate rises from zero."""
    layer_decay: Annotated[float, Range(0, 1)] = 1.0
    """Factor on the learning rate for each stage of the model between a weight and the output."""
    weight_decay: Annotated[float, Range(0, _GREATEST)] = 0.0
    """Of kernels, not of biases or scales: decoupled with adamw, an L2 penalty with the others."""
    clip: Annotated[float, Range(_LEAST, _GREATEST)] | None = None
    """The largest global norm of a step's gradients."""
    loss: str = "cross_entropy"
    """cross_entropy (sigmoid for one logit, softmax for several), or FILE.py:NAME, a function
    (logits, labels) -> one number per image; with mixup or label_smoothing labels are
    probabilities, [batch, classes]."""
    label_smoothing: _Share = 0.0
    """Share of each label that is spread over all classes, which makes it probabilities."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """A factor for each class's training losses; balanced: inversely proportional to its count."""
    augment: tuple[str, ...] = ()
    """Random changes to training photos, in order: flip, mirror, rotation=SHARE_OF_A_TURN,
    crop=LEAST_AREA, colour=STRENGTH, mixup=ALPHA, or FILE.py:NAME, a function (key, image) -> image
    or (key, images, labels) -> (images, labels)."""
    ema: _Share | None = None
    """Decay of a moving average of the weights: it is evaluated and is the saved model, while
    training continues from the weights themselves."""
    patience: Annotated[int, Range(1, 10**6)] | None = None
    """Stop after this many epochs without a better validation accuracy."""
    threshold: Annotated[float, Range(-_GREATEST, _GREATEST)] = 0.0
    """A single logit above it means class 1. 0 is a probability of one half; Keras uses 0.5."""
    mirror_test: bool = False
    """Predict the mean of the logits for a photo and for its mirror image (not in the history)."""
    stop_when_dead: bool = True
    """Stop a run whose outputs are all zero: without a gradient it cannot recover."""
    callbacks: tuple[str, ...] = ()
    """Your own functions, FILE.py:NAME, called as (record, state) after each epoch."""
    tensorboard: bool = False
    """Also write the history as TensorBoard events, into the run folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model's computations; weights and losses stay float32."""
    on_device: bool | None = None
    """Keep the photos on the devices and run each epoch as one program; None: on a GPU if
    they fit into half of the free memory, on a TPU into a quarter."""
    seed: _Seed = 0
    """Of initial weights, the order of photos, dropout and augmentation."""

    def __post_init__(self) -> None:
        """Check types and ranges: values may come from a command line or a file."""
        for name, hint in _hints().items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise InputError(f"{name} must be {_words(hint)}, not {value!r}")
        if self.sizes is not None:
            checked_sizes(self.sizes)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Experiment":
        """The inverse of `dataclasses.asdict`, after a round trip through JSON.

        Raises:
            InputError: a setting is missing, unknown or out of range.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = [name for name in plain if name not in known]
        missing = [n for n, f in known.items() if f.default is MISSING and n not in plain]
        if unknown or missing:
            raise InputError(f"no such setting: {unknown[0]}" if unknown else f"no {missing[0]}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plain.items()
        }
        return cls(**values)


PATHS = ("data", "data_dir", "weights", "init")
"""Settings that may be paths: their content counts, not where it is."""

READY_MADE = "ready-made"
"""As `init`: the classifier that comes with the package."""


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Experiment, include_extras=True)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, limits = args[0], args[1]
        return _fits(value, kind) and limits.least <= value <= limits.most
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is ... and isinstance(value, tuple) else args
        return type(value) is tuple and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _words(hint: Any) -> str:
    """A type and its range in words, as `a whole number, 1 to 65536`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_words(args[0])}, {args[1]}".removesuffix(", ")
    if origin in (Union, types.UnionType):
        return ", or ".join(map(_words, args))
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        kind = {str: "texts", float: "numbers", int: "whole numbers"}[args[0]]
        return kind if args[-1] is ... else f"{len(args)} {kind}"
    return {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "True or False",
        type(None): "None",
    }[hint]


def range_of(hint: Any) -> str:
    """The range of a setting's type in words, as `1 to 65536`, or nothing."""
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1])
    return "".join(map(range_of, get_args(hint)))
