"""What a run is, and the post's four runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ..data.load import LARGEST_IMAGE, MOST_PHOTOS, SMALLEST_IMAGE
from ..errors import InputError


@dataclass(frozen=True)
class Experiment:
    """One run, completely: the same values give the same history on the same machine.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    model: str
    """A name of `catdog_jax.models.MODELS`."""
    data: str = "cats_and_dogs_filtered"
    """A source, as `catdog_jax.load_data` takes it."""
    data_dir: str | None = None
    """Where TFDS finds its prepared data, or a download is kept."""
    weights: str = "none"
    """A backbone's: `imagenet` (the official file, downloaded once), a file's path, or `none`."""
    image_size: int = 160
    """Height and width of the images."""
    sizes: tuple[int, int, int] | None = None
    """Images to train, validate and test on; by default the source's own."""
    split_seed: int = 0
    """Which images are set apart. Not varied with `seed`: a spread over seeds is the training's."""
    batch_size: int = 32
    epochs: int = 20
    learning_rate: float = 1e-3
    flip: bool = False
    """Random flips, horizontal and vertical."""
    rotation: float = 0.0
    """Random rotation within ± this share of a full turn."""
    blog_logits: bool = True
    """Models 1 to 3: the post's 64 relu'd outputs as logits, rather than one logit a class."""
    threshold: float = 0.5
    """One logit: the logit (not the probability) above which Keras's accuracy counts a dog."""
    stop_when_dead: bool = True
    """End a run whose outputs are all zero: it has no gradient left and cannot recover."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in; weights are stored, and losses summed, in float32."""
    on_device: bool | None = None
    """Keep the photos on the devices, an epoch one program over them; None: where it pays."""
    seed: int = 0
    """Of initial weights, order of images, dropout and augmentation."""

    def __post_init__(self) -> None:
        """Check the values, which may come from a command line or a file."""
        for name, (rule, holds) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise InputError(f"{name} must be {rule}, not {value!r}")


Rule = tuple[str, Callable[[Any], bool]]


def _whole(least: int, most: int) -> Rule:
    return (
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _number(rule: str, least: float, most: float = 3e38) -> Rule:
    return rule, lambda value: type(value) in (int, float) and least <= value <= most


def _sizes(value: Any) -> bool:
    if value is None:
        return True
    return (
        type(value) is tuple
        and [type(size) for size in value] == [int, int, int]
        and min(value) >= 0
        and max(value) <= MOST_PHOTOS
        and min(value[:2]) >= 1
    )


_TEXT: Rule = ("a text", lambda value: type(value) is str)
_FLAG: Rule = ("True or False", lambda value: type(value) is bool)
_SEED = _whole(0, 2**32 - 1)  # JAX would take a larger one and drop what is beyond

# What each setting must be, in words and as a test.
_RULES: Mapping[str, Rule] = {
    "model": _TEXT,
    "data": _TEXT,
    "data_dir": ("a text or None", lambda value: value is None or type(value) is str),
    "weights": _TEXT,
    "image_size": _whole(SMALLEST_IMAGE, LARGEST_IMAGE),
    "sizes": (f"three whole numbers, of at least 1, 1 and 0 and at most {MOST_PHOTOS}", _sizes),
    "split_seed": _SEED,
    "batch_size": _whole(1, 2**16),
    "epochs": _whole(1, 10**6),
    "learning_rate": _number("a number above 0", 1e-38),
    "flip": _FLAG,
    "rotation": _number("a number from 0 to 1", 0, 1),
    "blog_logits": _FLAG,
    "threshold": _number("a finite number", -3e38),
    "stop_when_dead": _FLAG,
    "dtype": ("float32 or bfloat16", lambda value: value in ("float32", "bfloat16")),
    "on_device": ("True, False or None", lambda value: value is None or type(value) is bool),
    "seed": _SEED,
}


RECIPES: Mapping[str, Experiment] = MappingProxyType(
    {
        "model1": Experiment("model1"),
        "model2": Experiment("model2", flip=True, rotation=0.2),
        # The rescaling, its one difference in input, is part of the model.
        "model3": Experiment("model3", flip=True, rotation=0.2),
        "model4": Experiment(
            "model4", weights="imagenet", learning_rate=1e-4, flip=True, rotation=0.2
        ),
    }
)
"""The four models as the post trains them, by name."""
