"""The networks by name."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from flax import nnx

from ..errors import InputError
from .building import built
from .cnn import Model1, Model2, Model3
from .mobilenet_v2 import MobileNetV2
from .resnet import Model6
from .transfer import Model4, Model5

MODELS: Mapping[str, Callable[..., nnx.Module]] = MappingProxyType(
    {
        "model1": Model1,
        "model2": Model2,
        "model3": Model3,
        "model4": Model4,
        "model5": Model5,
        "model6": Model6,
        "model6_deep": partial(Model6, widths=(24, 48, 96, 192), blocks=(2, 2, 2, 1), stride=2),
        "mobilenet_v2": MobileNetV2,
    }
)


def create_model(name: str, *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """Build a model by its name: one of `MODELS`.

    Args:
        name: `"model1"` … `"model6"`, `"model6_deep"` or `"mobilenet_v2"`.
        rngs: source of the initial weights, as `nnx.Rngs(0)`.
        **options: the model's own, such as `image_size` or `num_classes`.

    Raises:
        InputError: no model has this name.
    """
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'; choose one of: {', '.join(MODELS)}")
    return built(lambda rngs: MODELS[name](rngs=rngs, **options), rngs)
