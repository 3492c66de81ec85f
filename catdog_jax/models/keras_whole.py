"""A whole model 4 or 5 from Keras: its backbone and its head, if it computes what ours does.

A `.keras` file, or an `.h5` that `model.save` wrote, describes the layers. They may be nested or
not, with any augmentation and dropout, and must rescale pixels to [-1, 1], pool as ours does, and
end in one dense layer. The file is read, never executed.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from ..errors import InputError, first_line
from .keras_files import read_dense
from .keras_weights import load_backbone, weights_file
from .transfer import Model4, Model5

_OF_BACKBONE = re.compile("Conv1|bn_Conv1|Conv_1|out_relu|expanded_conv_|block_[0-9]+_")
_INERT = re.compile("InputLayer|.*Dropout|Random.*|Sequential|Functional|Model")
_POOLS = {"GlobalMaxPooling2D": "model4", "GlobalAveragePooling2D": "model5"}
_UNKNOWN = (math.nan, math.nan)
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
    layers = [layer for layer in _layers(path) if not _OF_BACKBONE.match(layer.name)]
    try:
        dense = _checked(layers, ours)
    except ValueError as error:
        raise InputError(f"{path} is not a {ours}: {error}") from error
    tensors = read_dense(path, dense.name)
    try:
        kernel, bias = _head(tensors, dense, model.head.out_features)
    except ValueError as error:
        raise InputError(f"{path} does not fit: {error}") from error
    if kernel.shape != model.head.kernel.shape:
        raise InputError(
            f"{path} does not fit: its last layer has {kernel.shape[0]} inputs, expected "
            f"{model.head.in_features}; does alpha match?"
        )
    load_backbone(model.backbone, path)
    model.head.kernel.set_value(jnp.asarray(kernel))
    assert model.head.bias is not None
    model.head.bias.set_value(jnp.asarray(bias))


class _Layer(NamedTuple):
    """A layer as Keras describes it."""

    kind: str
    name: str
    config: dict[str, Any]
    inputs: Any


def _layers(path: Path) -> list[_Layer]:
    """All layers of a whole model in order, those of nested models in their place.

    Raises:
        InputError: the file is unreadable, or holds weights alone.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                text: Any = archive.read("config.json")
        else:
            with h5py.File(path, "r") as file:
                text = file.attrs.get("model_config")
        if text is not None:
            return list(_flattened(json.loads(text)["config"]))
    except Exception as error:  # h5py does not document what it raises
        raise InputError(f"{path} is not a readable Keras model: {first_line(error)}") from error
    raise InputError(
        f"{path} holds weights alone; save the whole model, by model.save('model.keras')"
    )


def _flattened(config: dict[str, Any]) -> Iterator[_Layer]:
    for layer in config.get("layers", ()):
        inner: dict[str, Any] = layer["config"]
        name = str(layer.get("name") or inner["name"])
        yield _Layer(layer["class_name"], name, inner, layer.get("inbound_nodes"))
        yield from _flattened(inner)


def _checked(layers: list[_Layer], ours: str) -> _Layer:
    """The last layer, if those outside the backbone compute what ours do; else a ValueError."""
    known = {*_POOLS, *_SHIFTS, "Dense"}
    for layer in layers:
        if layer.kind not in known and not _INERT.fullmatch(layer.kind):
            raise ValueError(f"it has a layer {layer.name} ({layer.kind})")
    pools = [_POOLS[layer.kind] for layer in layers if layer.kind in _POOLS]
    if len(pools) != 1:
        raise ValueError(f"it has {len(pools) or 'no'} layers of global pooling, not one")
    if pools != [ours]:
        raise ValueError(f"its global pooling is that of {pools[0]}")
    dense = [layer for layer in layers if layer.kind == "Dense"]
    if len(dense) != 1:
        raise ValueError(f"it has {len(dense) or 'no'} dense layers, not one")
    scale, offset = _rescaling(layers)
    if not (math.isclose(scale, 1 / 127.5, rel_tol=1e-3) and math.isclose(offset, -1.0)):
        raise ValueError(
            f"it takes pixels times {scale:.4g} plus {offset:.4g}, not x / 127.5 - 1; "
            "include the rescaling in the model"
        )
    return dense[0]


def _rescaling(layers: list[_Layer]) -> tuple[float, float]:
    """Scale and offset of the pixels that enter the backbone; NaN if unknown."""
    scale, offset = 1.0, 0.0
    for layer in layers:
        if layer.kind not in _SHIFTS:
            continue
        if layer.kind == "Rescaling":
            values = [layer.config.get(name) for name in ("scale", "offset")]
            factor, shift = (v if isinstance(v, float | int) else math.nan for v in values)
        else:  # `preprocess_input` in Keras 3, and in Keras 2
            numbers = _numbers(layer.inputs)
            function = layer.config.get("function", layer.kind)
            factor, shift = _UNKNOWN
            if len(numbers) == 1 and function in ("TrueDivide", "math.truediv"):
                factor, shift = 1 / (numbers[0] or math.nan), 0.0
            elif len(numbers) == 1 and function in ("Subtract", "math.subtract"):
                factor, shift = 1.0, -numbers[0]
        scale, offset = scale * factor, offset * factor + shift
    return scale, offset


def _numbers(node: Any) -> tuple[float, ...]:
    """The floating-point numbers in the description of an operation's inputs."""
    if isinstance(node, float):
        return (node,)
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return sum(map(_numbers, inner), ())


def _head(
    tensors: dict[str, Float32[np.ndarray, "..."]], dense: _Layer, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a last layer with so many outputs; a ValueError if that cannot be."""
    kernel = tensors.get("kernel", np.zeros((0, 0), np.float32))
    bias = tensors.get("bias", np.zeros(kernel.shape[-1], np.float32))
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
        raise ValueError(f"the weights of its layer {dense.name} are damaged")
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError(f"its layer {dense.name} holds NaN or infinity")
    theirs, activation = kernel.shape[1], dense.config.get("activation", "linear")
    if activation not in ("linear", "sigmoid" if theirs == 1 else "softmax"):
        raise ValueError(f"its last layer has {theirs} outputs with {activation}")
    if (theirs, outputs) == (2, 1):  # the logit of class 1 against class 0
        return kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    if (theirs, outputs) == (1, 2):
        return np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    if theirs != outputs:
        raise ValueError(f"its last layer has {theirs} outputs, here there are {outputs}")
    return kernel, bias
