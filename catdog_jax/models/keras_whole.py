"""A whole model 4 or 5 from Keras: its backbone and its head, if it computes what ours does.

A `.keras` file, or an `.h5` that `model.save` wrote, describes the layers. They may be nested or
not, with any augmentation and dropout, and must rescale pixels to [-1, 1], pool as ours does, and
end in one dense layer. The file is read, never executed.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from ..errors import InputError
from .keras_files import read_architecture, read_dense
from .keras_weights import load_backbone, weights_file
from .transfer import Model4, Model5

_OF_BACKBONE = re.compile("Conv1|bn_Conv1|Conv_1|out_relu|expanded_conv_|block_[0-9]+_")
_INERT = re.compile("InputLayer|.*Dropout|Random.*|Sequential|Functional|Model")
_POOLS = {"GlobalMaxPooling2D": "model4", "GlobalAveragePooling2D": "model5"}
_SHIFTS = ("Rescaling", "TrueDivide", "Subtract", "TFOpLambda")  # what rescales pixels


def load_keras_model(model: nnx.Module, path: str | Path) -> None:
    """Load a Keras file of a whole model into ours, in place: ours then predicts the same.

    A file with two logits fills a model with one, and the other way round: the probabilities are
    equal.

    Args:
        model: a model 4 or 5.
        path: a `.keras` file, or an `.h5` file of the whole model.

    Raises:
        InputError: the file cannot be read, holds weights alone, or computes something else.
            `model` is not changed then.
    """
    if not isinstance(model, Model4 | Model5):
        raise InputError(f"a Keras file of a whole model is for models 4 and 5, not {path} here")
    path = weights_file(path)
    ours = "model4" if isinstance(model, Model4) else "model5"
    layers = [layer for layer in _flattened(read_architecture(path)) if not _in_backbone(layer)]
    try:
        _check_layers(layers, ours)
        dense = next(layer for layer in layers if layer["class_name"] == "Dense")["config"]
        kernel, bias = _head(read_dense(path, dense["name"]), dense, model.head.out_features)
    except ValueError as error:
        raise InputError(f"{path} is not a {ours}: {error}") from error
    if kernel.shape != model.head.kernel.shape:
        raise InputError(
            f"{path} is not a {ours} of this width: its last layer has {kernel.shape[0]} inputs, "
            f"here it has {model.head.in_features}"
        )
    load_backbone(model.backbone, path)
    model.head.kernel.set_value(jnp.asarray(kernel))
    assert model.head.bias is not None
    model.head.bias.set_value(jnp.asarray(bias))


def _flattened(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All layers of a model's description, those of nested models in their place."""
    for layer in config.get("layers", ()):
        yield layer
        yield from _flattened(layer["config"])


def _in_backbone(layer: dict[str, Any]) -> bool:
    return _OF_BACKBONE.match(layer["config"].get("name", "")) is not None


def _check_layers(layers: list[dict[str, Any]], ours: str) -> None:
    """Raise a ValueError unless the layers outside the backbone compute what model 4 or 5 does."""
    classes = [layer["class_name"] for layer in layers]
    known = {*_POOLS, *_SHIFTS, "Dense"}
    for layer, name in zip(layers, classes, strict=True):
        if name not in known and not _INERT.fullmatch(name):
            raise ValueError(f"it has a layer {layer['config'].get('name', '')} ({name})")
    pools = [_POOLS[name] for name in classes if name in _POOLS]
    if len(pools) != 1:
        raise ValueError(f"it has {len(pools) or 'no'} layers of global pooling, not one")
    if pools != [ours]:
        raise ValueError(f"its global pooling is that of {pools[0]}")
    if classes.count("Dense") != 1:
        raise ValueError(f"it has {classes.count('Dense') or 'no'} dense layers, not one")
    scale, offset = _rescaling(layers)
    if not (math.isclose(scale, 1 / 127.5, rel_tol=1e-3) and math.isclose(offset, -1.0)):
        raise ValueError(
            f"it takes pixels times {scale:.4g} plus {offset:.4g}, not x / 127.5 - 1; "
            "include the rescaling in the model"
        )


def _rescaling(layers: list[dict[str, Any]]) -> tuple[float, float]:
    """Scale and offset of the pixels that enter the backbone."""
    scale, offset = 1.0, 0.0
    for layer in layers:
        kind, config = layer["class_name"], layer["config"]
        if kind not in _SHIFTS:
            continue
        if kind == "Rescaling":
            factor, shift = float(config["scale"]), float(config["offset"])
        else:  # `preprocess_input` in Keras 3, and in Keras 2
            (number,) = _numbers(layer.get("inbound_nodes")) or (math.nan,)
            divides = kind == "TrueDivide" or config.get("function") == "math.truediv"
            subtracts = kind == "Subtract" or config.get("function") == "math.subtract"
            factor = 1 / number if divides else 1.0 if subtracts else math.nan
            shift = -number if subtracts else 0.0
        scale, offset = scale * factor, offset * factor + shift
    return scale, offset


def _numbers(node: Any) -> tuple[float, ...]:
    """The floating-point numbers in the description of an operation's inputs."""
    if isinstance(node, float):
        return (node,)
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return sum(map(_numbers, inner), ())


def _head(
    tensors: dict[str, Float32[np.ndarray, "..."]], config: dict[str, Any], outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a last layer with so many outputs; a ValueError if that cannot be."""
    kernel = tensors.get("kernel", np.zeros((0, 0), np.float32))
    bias = tensors.get("bias", np.zeros(kernel.shape[-1], np.float32))
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
        raise ValueError(f"the weights of its layer {config['name']} are damaged")
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError(f"its layer {config['name']} holds NaN or infinity")
    theirs, activation = kernel.shape[1], config.get("activation", "linear")
    if activation not in ("linear", "sigmoid" if theirs == 1 else "softmax"):
        raise ValueError(f"its last layer has {theirs} outputs with {activation}")
    if (theirs, outputs) == (2, 1):  # the logit of class 1 against class 0
        return kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    if (theirs, outputs) == (1, 2):
        return np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    if theirs != outputs:
        raise ValueError(f"its last layer has {theirs} outputs, here there are {outputs}")
    return kernel, bias
