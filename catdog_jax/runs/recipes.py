"""Recipes: the post's four runs, and three that go further, as values.

The post's quirks are set here and are not the library's defaults.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from .experiment import Experiment

POST = ("model1", "model2", "model3", "model4")
"""The post's models."""

_BLOG_LOGITS = ("blog_logits=True",)  # the softmax runs over 64 relu'd outputs, as in the post
_AUGMENT = ("flip", "rotation=0.2")

_MODEL6 = Experiment(
    "model6",
    image_size=128,
    batch_size=64,
    epochs=300,  # under 40 minutes on two CPU cores
    optimizer="adamw",
    schedule="cosine",
    warmup=5.0,
    weight_decay=1.0,
    label_smoothing=0.1,
    augment=("mirror", "crop=0.3", "colour=0.3", "mixup=0.2"),
    ema=0.998,
    mirror_test=True,
)

RECIPES: Mapping[str, Experiment] = MappingProxyType(
    {
        "model1": Experiment("model1", _BLOG_LOGITS, optimizer="keras_adam"),
        "model2": Experiment("model2", _BLOG_LOGITS, optimizer="keras_adam", augment=_AUGMENT),
        # The network rescales its input, and its dropout is stronger and comes earlier.
        "model3": Experiment("model3", _BLOG_LOGITS, optimizer="keras_adam", augment=_AUGMENT),
        "model4": Experiment(
            "model4",
            weights="imagenet",
            trainable="head",
            optimizer="keras_adam",
            learning_rate=1e-4,
            augment=_AUGMENT,
            threshold=0.5,  # of the logit, as in Keras's accuracy; a probability of 0.62
        ),
        "model5": Experiment(
            "model5",
            weights="imagenet",
            image_size=224,  # as the weights were trained; 160 costs a point of accuracy
            head_epochs=10,
            optimizer="adamw",
            learning_rate=1e-4,
            schedule="cosine",
            warmup=1.0,
            weight_decay=0.01,
            label_smoothing=0.1,
            augment=("mirror", "crop=0.5"),
            ema=0.99,
            mirror_test=True,
        ),
        "model6": _MODEL6,
        "model6_deep": replace(_MODEL6, model="model6_deep", epochs=400),
    }
)
"""By model; where nothing else is set, 20 epochs, batches of 32, photos of 160×160."""


OF_PARTS: Mapping[str, Any] = MappingProxyType(
    {"weights": "none", "trainable": "all", "model_options": (), "head_epochs": 0}
)
"""The settings about a model's own parts, and their values where a recipe does not use them."""


def recipe(model: str) -> Experiment:
    """The recipe of `model`; for your own model, the defaults."""
    return RECIPES.get(model) or Experiment(model)
