"""What a run is, and the post's four runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Experiment:
    """One run, completely: the same values give the same history on the same machine."""

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
