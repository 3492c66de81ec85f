"""Keras weight files → MobileNetV2, strict both ways: no tensor missing, none left over.

Four layouts, told apart by what is inside: the legacy `.h5` of the official downloads (weights
or whole model), Keras 3's `.weights.h5`, its `.keras` archive, and any of these for a larger model
that holds a MobileNetV2 as one of its layers. Files are only read as arrays, never executed.

A tensor is believed if its name, shape, type and numbers can be right. What nobody can tell from
those passes: a depthwise kernel turned about, or two vectors of one normalization exchanged.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import h5py
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from ..cache import cache_folder
from ..download import fetch
from ..errors import InputError
from ..files import expanded
from .mobilenet_v2 import ConvNorm, MobileNetV2

OFFICIAL_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
OFFICIAL_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
OFFICIAL_SIZES = (96, 128, 160, 192, 224)

# Keras 3 numbers a layer's variables where older files name them.
_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
_FIRST_LAYER = "Conv1"
# Of the weights in a `.keras` archive, which are unpacked in memory; MobileNetV2 takes up to 24 MB.
_LARGEST_UNPACKED = 2**30

_Tensors: TypeAlias = dict[str, Float32[np.ndarray, "..."]]
_Shapes: TypeAlias = dict[str, tuple[int, ...]]
_Datasets: TypeAlias = dict[str, h5py.Dataset]


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
    path = _official_file(backbone, image_size) if weights == "imagenet" else Path(weights)
    wanted = _variables(backbone)
    tensors = _read(path, {name: variable.shape for name, variable in wanted.items()})
    for name, variable in wanted.items():
        variable[...] = jnp.asarray(tensors[name], variable.dtype)


def _read(path: Path, shapes: _Shapes) -> _Tensors:
    """The tensors with the given names and shapes, and InputError if the file holds others."""
    try:
        path = expanded(path)
        if not path.is_file():
            raise InputError(f"no weights file at {path}")  # noqa: TRY301
        with h5py.File(_unpacked(path), "r") as file:
            datasets = _the_mobilenet(path, file)
            # First names, shapes and types: what does not fit may be too large to be read.
            _refuse(path, _misfits(datasets, shapes), "; were alpha and include_top the same?")
            tensors = {name: _as_array(name, dataset) for name, dataset in datasets.items()}
    except InputError:
        raise
    except Exception as error:  # h5py does not say what it may raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a readable Keras weights file: {reason}") from error
    _refuse(path, _impossible(tensors))
    return tensors


def _unpacked(path: Path) -> Path | io.BytesIO:
    """A file that h5py can open: the one given, or the weights out of an archive."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("model.weights.h5")
        if entry.file_size > _LARGEST_UNPACKED:
            raise InputError(
                f"{entry.filename} in {path} unpacks to {entry.file_size:,} bytes, more than "
                f"{_LARGEST_UNPACKED:,}: save the weights alone, as .weights.h5"
            )
        # Only these two are unpacked piece by piece; Keras itself stores, and others may deflate.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{entry.filename} in {path} is neither stored nor deflated")
        with archive.open(entry) as unpacked:
            # With a number, no more than that many bytes: what was announced may be a lie.
            return io.BytesIO(unpacked.read(entry.file_size + 1))


def _the_mobilenet(path: Path, file: h5py.File) -> _Datasets:
    """The datasets of the one MobileNetV2: its first layer's and those of the layers beside it."""
    found: dict[str, _Datasets] = {}
    named = list(_named_datasets(file))
    models = {scope for scope, layer, _, _ in named if layer == _FIRST_LAYER}
    for scope, layer, variable, dataset in named:
        if scope in models:
            datasets = found.setdefault(scope, {})
            name = f"{layer}/{variable}"
            # A second of that name is left over: the path that it has in the file tells it apart.
            datasets[name if name not in datasets else str(dataset.name)] = dataset
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found) or 'no'} MobileNetV2 (layers named as in "
            "keras.applications); give a file with exactly one"
        )
    return next(iter(found.values()))


def _named_datasets(file: h5py.File) -> Iterator[tuple[str, str, str, h5py.Dataset]]:
    """Every dataset with the group that holds its layer, its layer's and its variable's name.

    Soft and external links are not followed.
    """
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
            scope = path.parent.parent.parent
            yield str(scope), layer, _variable_name(layer, path.name), dataset
        else:
            # Before: <scope>/<layer>/<layer>/kernel:0, or <scope>/<layer>/kernel:0 in a submodel.
            layer, variable = path.parent.name, path.name.removesuffix(":0")
            scope = path.parent.parent
            if scope.name == layer:
                scope = scope.parent
            yield str(scope), layer, variable.replace("depthwise_kernel", "kernel"), dataset


def _variable_name(layer: str, index: str) -> str:
    is_norm = layer.endswith(("_BN", "_bn")) or layer.startswith("bn_")
    names = _NORM_VARIABLES if is_norm else ("kernel", "bias")
    return names[int(index)] if index.isdigit() and int(index) < len(names) else index


def _misfits(datasets: _Datasets, shapes: _Shapes) -> list[str]:
    """What is wrong with the tensors, as far as can be said without reading them."""
    problems = [f"{name} is missing" for name in shapes.keys() - datasets.keys()]
    problems += [f"{name} is not part of this model" for name in datasets.keys() - shapes.keys()]
    for name in shapes.keys() & datasets.keys():
        dataset = datasets[name]
        shape = _turned(name, dataset.shape or ())
        if shape != shapes[name]:
            problems.append(f"{name} has shape {shape}, expected {shapes[name]}")
        elif dataset.dtype.kind != "f":
            problems.append(f"{name} holds {dataset.dtype}, not floating-point numbers")
        elif not _is_plain(dataset):
            problems.append(
                f"{name} is not stored as Keras does, whole and in this file (but in chunks, "
                "packed, in another file, or never written)"
            )
    return problems


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Whether reading it takes its own bytes in this file and no more: none unpacked, none far."""
    is_elsewhere = dataset.external or dataset.is_virtual or dataset.chunks
    return not is_elsewhere and dataset.id.get_storage_size() == dataset.nbytes


def _turned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    # Keras keeps depthwise kernels as [height, width, channels, 1].
    if name.endswith("depthwise/kernel") and len(shape) == 4:
        return (*shape[:2], shape[3], shape[2])
    return shape


def _as_array(name: str, dataset: h5py.Dataset) -> Float32[np.ndarray, "..."]:
    array = np.asarray(dataset, np.float32)  # float64 beyond float32 becomes infinite
    return array.reshape(_turned(name, array.shape))


def _impossible(tensors: _Tensors) -> list[str]:
    problems = []
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            problems.append(f"{name} holds NaN or infinity")
        elif name.endswith("/moving_variance") and (array < 0).any():
            problems.append(f"{name} holds negative variances")
    return problems


def _refuse(path: Path, problems: list[str], hint: str = "") -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        said = f"{path} does not fit: {min(problems)}{more}{hint}"
        raise InputError(" ".join(said.split("\n")))  # names in a file may hold line breaks


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
    path = cache_folder() / "weights" / name
    return fetch(OFFICIAL_URL + name, path, lambda path: h5py.File(path, "r").close())
