"""Keras weight files ↔ MobileNetV2; strict both ways: no tensor may be missing or unexpected.

A tensor is accepted if its name, shape, type and values are plausible. Known blind spots: two
tensors of the same shape exchanged (of blocks 4 and 5, or within one normalization), axes of equal
length permuted (a transposed kernel), other finite values.
"""

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from flax import nnx

from ..data.download import fetch
from ..errors import InputError, first_line
from ..files import cache_folder, expanded
from .keras_files import Shapes, layers_by_class, numbered, read_mobilenet, turned
from .mobilenet_v2 import ConvNorm, MobileNetV2

OFFICIAL_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
OFFICIAL_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
OFFICIAL_SIZES = (96, 128, 160, 192, 224)

_LOGGER = logging.getLogger(__name__)
# First bytes of files given by mistake.
_OTHER_KINDS = {
    rb"$": "it is empty",
    rb"PK": "it is an incomplete archive",
    rb"\x80": "it is a pickle, as PyTorch writes",
    rb"(?i)\s*<(!doctype )?html": "it is a web page",
    rb"version https://git-lfs": "it only points to a file in Git LFS (`git lfs pull` fetches it)",
}


def load_keras_weights(
    model: nnx.Module, weights: str | Path = "imagenet", *, image_size: int = 160
) -> tuple[str, ...]:
    """Load the weights of a Keras MobileNetV2 into `model`, in place.

    Args:
        model: a `MobileNetV2`, or a model whose `backbone` is one; may come from `nnx.eval_shape`.
        weights: a file (`.h5`, `.weights.h5` or `.keras`) that Keras 2 or 3 saved, or
            `"imagenet"` for the official file of this alpha, which is downloaded once and cached.
        image_size: selects the official file by the image size it was trained on.

    Returns:
        The names of other layers in the file, such as a classifier's, which are not loaded.

    Raises:
        InputError: `model` has no MobileNetV2; the file cannot be downloaded or read; it holds no
            MobileNetV2 or several; a tensor is missing, unexpected, of another shape or type, not
            finite, or a negative variance. `model` is not changed then.
    """
    backbone = _backbone(model)
    top = backbone.classifier is not None
    path = weights_file(weights, alpha=backbone.alpha, image_size=image_size, include_top=top)
    left_out = load_backbone(backbone, path)
    if left_out:
        _LOGGER.warning("%s: loaded MobileNetV2, left out: %s", path, ", ".join(left_out))
    return left_out


def load_backbone(backbone: MobileNetV2, path: Path) -> tuple[str, ...]:
    """`load_keras_weights` of a file that is there, without a word on what is left out."""
    tensors, left_out = read_mobilenet(path, _shapes(backbone))
    for name, variable in keras_variables(backbone).items():
        variable.set_value(jax.device_put(np.asarray(tensors[name], variable.dtype)))
    return left_out


def save_keras_weights(model: nnx.Module, path: str | Path) -> None:
    """Write a weights file for `keras.applications.MobileNetV2(…).load_weights(path)`.

    Args:
        model: a `MobileNetV2`, or a model whose `backbone` is one.
        path: ends in `.weights.h5`; an existing file is replaced.
    """
    path = expanded(path)
    variables = keras_variables(_backbone(model))
    if not path.name.endswith(".weights.h5"):
        raise InputError(f"{path} must end in .weights.h5 for Keras to read it")
    classes = layers_by_class(variables).items()
    groups = {
        layer: numbered(name, i) for name, layers in classes for i, layer in enumerate(layers)
    }
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with h5py.File(unfinished, "w") as file:
            for name, variable in variables.items():
                layer = name.split("/")[0]
                group = file.require_group(f"layers/{groups[layer]}/vars")
                group.attrs["name"] = layer
                array = np.asarray(variable[...])
                group[str(len(group))] = array.reshape(turned(name, array.shape))
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {first_line(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def weights_file(
    weights: str | Path, *, alpha: float = 1.0, image_size: int = 160, include_top: bool = False
) -> Path:
    """The path of `weights`, a file or `"imagenet"` (downloaded once), if it is a Keras file.

    A quick check before photos are decoded; `load_keras_weights` checks the content.

    Raises:
        InputError: there is no such file, or it is of another kind.
    """
    if weights == "imagenet":
        return _official_file(alpha, image_size, include_top=include_top)
    path = expanded(weights)
    try:
        problem = _other_kind(path)
    except InputError:
        raise
    except Exception as error:  # zipfile raises many types of errors for damaged archives
        problem = first_line(error)
    if problem:
        raise InputError(
            f"{path} is not a readable Keras weights file: {problem}; give a MobileNetV2 that "
            "Keras saved as one file, by model.save('model.keras')"
        )
    return path


def _other_kind(path: Path) -> str | None:
    """What `path` is, if it is not a file that Keras saves."""
    if path.is_dir():
        saved_model = (path / "saved_model.pb").is_file()
        return "it is a TensorFlow SavedModel" if saved_model else "it is a folder"
    if not path.is_file():
        if path.with_name(f"{path.name}.index").is_file():
            return "it is a TensorFlow checkpoint"
        raise InputError(f"no weights file at {path}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
        if "model.weights.h5" in entries:
            return None
        torch = any(name.endswith("data.pkl") for name in entries)
        return "it is a PyTorch file" if torch else "it is an archive without model.weights.h5"
    with path.open("rb") as file:
        start = file.read(100)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return None
    kinds = (kind for pattern, kind in _OTHER_KINDS.items() if re.match(pattern, start))
    return next(kinds, "it is neither HDF5 nor a .keras archive")


def _backbone(model: nnx.Module) -> MobileNetV2:
    backbone = model if isinstance(model, MobileNetV2) else getattr(model, "backbone", None)
    if not isinstance(backbone, MobileNetV2):
        raise InputError(f"{type(model).__name__} has no MobileNetV2 to load or save weights of")
    return backbone


def _shapes(backbone: MobileNetV2) -> Shapes:
    return {name: variable.shape for name, variable in keras_variables(backbone).items()}


def keras_variables(backbone: MobileNetV2) -> dict[str, Any]:
    """The variable for each tensor's name, in Keras's order."""
    variables: dict[str, Any] = {}

    def add(conv: str, norm: str, layer: ConvNorm) -> None:
        variables[f"{conv}/kernel"] = layer.conv.kernel
        variables[f"{norm}/gamma"] = layer.norm.scale
        variables[f"{norm}/beta"] = layer.norm.bias
        variables[f"{norm}/moving_mean"] = layer.norm.mean
        variables[f"{norm}/moving_variance"] = layer.norm.var

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
        variables["predictions/bias"] = backbone.classifier.bias
    return variables


def cached_official_weights(alpha: float = 1.0, image_size: int = 160) -> Path | None:
    """The official file without the top, if it has been downloaded."""
    path = _official_path(alpha, image_size, include_top=False)
    return path if path.is_file() else None


def _official_path(alpha: float, image_size: int, *, include_top: bool) -> Path:
    top = "" if include_top else "_no_top"
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_{image_size}{top}.h5"
    return cache_folder() / "weights" / name


def _official_file(alpha: float, image_size: int, *, include_top: bool) -> Path:
    if alpha not in OFFICIAL_ALPHAS or image_size not in OFFICIAL_SIZES:
        raise InputError(
            f"there are no ImageNet weights for alpha {alpha} at {image_size} pixels; there are "
            f"for alpha {OFFICIAL_ALPHAS} at {OFFICIAL_SIZES}; others: --weights FILE"
        )

    def make() -> MobileNetV2:
        return MobileNetV2(alpha, include_top=include_top, rngs=nnx.Rngs(0))

    path = _official_path(alpha, image_size, include_top=include_top)
    try:
        return fetch(
            OFFICIAL_URL + path.name,
            path,
            lambda path: read_mobilenet(path, _shapes(nnx.eval_shape(make))),
        )
    except InputError as error:
        raise InputError(f"{error} (--weights FILE)") from error
