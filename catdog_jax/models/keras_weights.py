"""Keras weight files → MobileNetV2, strict both ways: no tensor missing, none left over.

Four layouts, told apart by what is inside: the legacy `.h5` of the official downloads (weights
or whole model), Keras 3's `.weights.h5`, its `.keras` archive, and any of these for a larger model
that holds a MobileNetV2 as one of its layers. Files are only read as arrays, never executed.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import h5py
import jax.numpy as jnp
import numpy as np
import pooch
from flax import nnx

from ..cache import cache_folder
from ..errors import InputError
from .mobilenet_v2 import ConvNorm, MobileNetV2

OFFICIAL_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
OFFICIAL_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
OFFICIAL_SIZES = (96, 128, 160, 192, 224)

# Keras 3 numbers a layer's variables where older files name them.
_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
_FIRST_LAYER = "Conv1"

Tensors = dict[str, np.ndarray]


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
        InputError: `model` has no MobileNetV2; the file cannot be had or read; a tensor is missing,
            left over, of another shape or not finite. `model` is then unchanged.
    """
    backbone = model if isinstance(model, MobileNetV2) else getattr(model, "backbone", None)
    if not isinstance(backbone, MobileNetV2):
        raise InputError(f"{type(model).__name__} has no MobileNetV2 to load weights into")
    path = (
        _official_file(backbone, image_size)
        if weights == "imagenet"
        else Path(weights).expanduser()
    )
    tensors = read_keras_tensors(path)
    wanted = _variables(backbone)
    _check(path, tensors, {name: variable.shape for name, variable in wanted.items()})
    for name, variable in wanted.items():
        variable[...] = jnp.asarray(tensors[name], variable.dtype)


def read_keras_tensors(path: Path) -> Tensors:
    """The tensors of the one MobileNetV2 in a Keras file, as `{"layer/variable": array}`.

    Depthwise kernels come as `[3, 3, 1, channels]`, other shapes as Keras has them.

    Raises:
        InputError: the file is missing, unreadable, or holds no MobileNetV2 or several.
    """
    if not path.is_file():
        raise InputError(f"no weights file at {path}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        else:
            source = path
        with h5py.File(source, "r") as file:
            found = _find_mobilenets(file)
            if len(found) != 1:
                raise InputError(
                    f"{path} holds {len(found) or 'no'} MobileNetV2 (layers named as in "
                    "keras.applications); give a file with exactly one"
                )
            return {name: _as_array(name, dataset) for name, dataset in found[0].items()}
    except (
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path} is not a readable Keras weights file: {error}") from error


def _find_mobilenets(file: h5py.File) -> list[dict[str, h5py.Dataset]]:
    """The datasets of each MobileNetV2: its first layer's and those of the layers beside it."""
    by_model: dict[str, dict[str, h5py.Dataset]] = {}
    named = list(_named_datasets(file))
    models = {scope for scope, layer, _, _ in named if layer == _FIRST_LAYER}
    for scope, layer, variable, dataset in named:
        if scope in models:
            by_model.setdefault(scope, {})[f"{layer}/{variable}"] = dataset
    return list(by_model.values())


def _named_datasets(file: h5py.File) -> Iterator[tuple[str, str, str, h5py.Dataset]]:
    """Every dataset with the group that holds its layer, its layer's and its variable's name."""
    datasets: list[h5py.Dataset] = []
    file.visititems(
        lambda _, node: datasets.append(node) if isinstance(node, h5py.Dataset) else None
    )
    for dataset in datasets:
        path = PurePosixPath(str(dataset.name))
        parent = dataset.parent
        if path.parent.name == "vars" and "name" in parent.attrs:
            # Keras 3: <scope>/conv2d_7/vars/0, where the attribute `name` tells the layer.
            layer = str(parent.attrs["name"])
            yield str(path.parents[2]), layer, _variable_name(layer, path.name), dataset
        else:
            # Before: <scope>/<layer>/<layer>/kernel:0, or <scope>/<layer>/kernel:0 in a submodel.
            layer, variable = path.parent.name, path.name.removesuffix(":0")
            repeated = path.parent.parent.name == layer
            scope = path.parents[2] if repeated else path.parents[1]
            yield str(scope), layer, variable.replace("depthwise_kernel", "kernel"), dataset


def _variable_name(layer: str, index: str) -> str:
    is_norm = layer.endswith(("_BN", "_bn")) or layer.startswith("bn_")
    names = _NORM_VARIABLES if is_norm else ("kernel", "bias")
    return names[int(index)] if index.isdigit() and int(index) < len(names) else index


def _as_array(name: str, dataset: h5py.Dataset) -> np.ndarray:
    array = np.asarray(dataset)
    # Keras keeps depthwise kernels as [height, width, channels, 1].
    return array.swapaxes(2, 3) if name.endswith("depthwise/kernel") and array.ndim == 4 else array


def _check(path: Path, tensors: Tensors, shapes: dict[str, tuple[int, ...]]) -> None:
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    problems += [f"{name} is not part of this model" for name in tensors if name not in shapes]
    for name in shapes.keys() & tensors.keys():
        if tensors[name].shape != shapes[name]:
            problems.append(f"{name} has shape {tensors[name].shape}, expected {shapes[name]}")
        elif tensors[name].dtype.kind not in "fiu":
            problems.append(f"{name} holds no numbers")
        elif not np.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(
            f"{path} does not fit: {min(problems)}{more}; were alpha and include_top the same?"
        )


def _variables(backbone: MobileNetV2) -> dict[str, nnx.Variable]:
    """Each Keras tensor name with the variable it fills."""
    variables: dict[str, nnx.Variable] = {}

    def add(conv: str, norm: str, layer: ConvNorm) -> None:
        variables[f"{conv}/kernel"] = layer.conv.kernel
        stored = (layer.norm.scale, layer.norm.bias, layer.norm.mean, layer.norm.var)
        for name, variable in zip(_NORM_VARIABLES, stored, strict=True):
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
    try:
        # Keras gives no hashes for these files either.
        path = pooch.retrieve(
            OFFICIAL_URL + name, known_hash=None, fname=name, path=cache_folder() / "weights"
        )
    except OSError as error:
        raise InputError(
            f"could not download {OFFICIAL_URL}{name} ({type(error).__name__}); "
            "download it elsewhere and give the file's path"
        ) from error
    return Path(path)
