"""Keras weight files → MobileNetV2, strict both ways: no tensor missing, none left over.

A tensor is believed if its name, shape, type and numbers can be right. What nobody can tell from
those passes: two tensors of one shape that have changed places (of blocks 4 and 5, or of one
normalization), axes of one length permuted (a kernel turned about), other finite numbers.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from ..cache import cache_folder
from ..data.download import fetch
from ..errors import InputError, first_line
from ..files import expanded
from .mobilenet_v2 import ConvNorm, MobileNetV2

OFFICIAL_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
OFFICIAL_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
OFFICIAL_SIZES = (96, 128, 160, 192, 224)

_PATIENCE = 25  # seconds for a file, whatever is wrong with it
# It imports from this process's folders, and no others.
_READER = (
    "import json, sys; sys.path, *given = json.load(sys.stdin)\n"
    "from catdog_jax.models.keras_files import answer; answer(*given)"
)

_Tensors: TypeAlias = dict[str, Float32[np.ndarray, "..."]]
_Shapes: TypeAlias = dict[str, tuple[int, ...]]


def load_keras_weights(
    model: nnx.Module, weights: str | Path = "imagenet", *, image_size: int = 160
) -> None:
    """Fill `model`, in place, with the weights of a Keras MobileNetV2.

    Args:
        model: a `MobileNetV2`, or a model whose `backbone` is one.
        weights: a file (`.h5`, `.weights.h5` or `.keras`), or `"imagenet"` for the official file
            of this alpha, which is downloaded once and cached.
        image_size: with `"imagenet"`, which of the official files, by the size it was trained at.

    Raises:
        InputError: `model` has no MobileNetV2; the file cannot be had or read; it holds no
            MobileNetV2 or several; a tensor is missing, left over, of another shape or type, not
            finite, or a negative variance. `model` is then unchanged.
    """
    backbone = model if isinstance(model, MobileNetV2) else getattr(model, "backbone", None)
    if not isinstance(backbone, MobileNetV2):
        raise InputError(f"{type(model).__name__} has no MobileNetV2 to load weights into")
    path = _official_file(backbone, image_size) if weights == "imagenet" else expanded(weights)
    tensors = _read(path, _shapes(backbone))
    for name, variable in _variables(backbone).items():
        variable[...] = jnp.asarray(tensors[name], variable.dtype)


def _read(path: Path, shapes: _Shapes) -> _Tensors:
    """The tensors with the given names and shapes, read by a process of their own.

    Raises:
        InputError: the file holds others, or cannot be read.
    """
    unreadable = f"{path} is not a readable Keras weights file"
    try:
        if not path.is_file():
            raise InputError(f"no weights file at {path}")
        reader = subprocess.run(
            [sys.executable, "-I", "-c", _READER],
            input=json.dumps([sys.path, str(path), shapes]).encode(),
            capture_output=True,
            check=False,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each would take memory
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{unreadable}: no end was found in it in {_PATIENCE} s") from error
    except OSError as error:
        raise InputError(f"{unreadable}: {first_line(error)}") from error
    if reader.returncode == 2:
        raise InputError(os.fsdecode(reader.stdout))
    if reader.returncode:
        said = reader.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise InputError(f"{unreadable}: it crashed its reader ({said or reader.returncode})")
    with np.load(io.BytesIO(reader.stdout), allow_pickle=False) as tensors:
        return dict(tensors)


def _shapes(backbone: MobileNetV2) -> _Shapes:
    return {name: variable.shape for name, variable in _variables(backbone).items()}


def _variables(backbone: MobileNetV2) -> dict[str, nnx.Variable]:
    """Each Keras tensor name with the variable it fills."""
    variables: dict[str, nnx.Variable] = {}

    def add(conv: str, norm: str, layer: ConvNorm) -> None:
        variables[f"{conv}/kernel"] = layer.conv.kernel
        stored = {
            "gamma": layer.norm.scale,
            "beta": layer.norm.bias,
            "moving_mean": layer.norm.mean,
            "moving_variance": layer.norm.var,
        }
        for name, variable in stored.items():
            assert variable is not None
            variables[f"{norm}/{name}"] = variable

    add("Conv1", "bn_Conv1", backbone.stem)
    for index, block in enumerate(backbone.blocks):
        prefix = f"block_{index}" if index else "expanded_conv"
        for part in ("expand", "depthwise", "project"):
            layer = getattr(block, part)
            if layer is not None:
                add(f"{prefix}_{part}", f"{prefix}_{part}_BN", layer)
    add("Conv_1", "Conv_1_bn", backbone.last)
    if backbone.classifier is not None:
        variables["predictions/kernel"] = backbone.classifier.kernel
        assert backbone.classifier.bias is not None
        variables["predictions/bias"] = backbone.classifier.bias
    return variables


def cached_official_weights(alpha: float = 1.0, image_size: int = 160) -> Path | None:
    """The official no-top file, if it has been downloaded."""
    path = cache_folder() / "weights" / _official_name(alpha, image_size, include_top=False)
    return path if path.is_file() else None


def _official_name(alpha: float, image_size: int, *, include_top: bool) -> str:
    top = "" if include_top else "_no_top"
    return f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_{image_size}{top}.h5"


def _official_file(backbone: MobileNetV2, image_size: int) -> Path:
    if backbone.alpha not in OFFICIAL_ALPHAS or image_size not in OFFICIAL_SIZES:
        raise InputError(
            f"no official weights for alpha {backbone.alpha} at {image_size} pixels; "
            f"alphas are {OFFICIAL_ALPHAS}, sizes {OFFICIAL_SIZES}"
        )
    name = _official_name(backbone.alpha, image_size, include_top=backbone.classifier is not None)
    path = cache_folder() / "weights" / name
    return fetch(OFFICIAL_URL + name, path, lambda path: _read(path, _shapes(backbone)))
