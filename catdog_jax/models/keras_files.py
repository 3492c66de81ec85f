"""Tensors out of Keras weight files. Run in a process of its own, by `models.keras_weights`.

At a damaged file the HDF5 library may crash, or go round in circles and fill the memory. So all
that touches it is here, in a process that can be ended; it imports no JAX, to be there at once.

Four layouts, told apart by what is inside: the legacy `.h5` of the official downloads (weights
or whole model), Keras 3's `.weights.h5`, its `.keras` archive, and any of these for a larger model
that holds a MobileNetV2 as one of its layers. Files are only read as arrays, never executed.
"""

import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import h5py
import numpy as np
from jaxtyping import Float32

from ..errors import InputError, first_line

# Keras 3 numbers a layer's variables where older files name them.
_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
_FIRST_LAYER = "Conv1"
# Of the weights in a `.keras` archive, which are unpacked in memory; MobileNetV2 takes up to 24 MB.
_LARGEST_UNPACKED = 2**28
_MOST_MEMORY = 2**30

_Tensors: TypeAlias = dict[str, Float32[np.ndarray, "..."]]
_Shapes: TypeAlias = dict[str, tuple[int, ...]]
_Datasets: TypeAlias = dict[str, h5py.Dataset]


def answer(path: str, shapes: dict[str, list[int]]) -> None:
    """Write the tensors to standard output; or what is wrong with the file, and exit with 2."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system can
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        tensors = read_mobilenet(Path(path), {name: tuple(shape) for name, shape in shapes.items()})
    except InputError as error:
        sys.stdout.buffer.write(os.fsencode(str(error)))
        sys.exit(2)
    np.savez(sys.stdout.buffer, **tensors)  # pyright: ignore[reportArgumentType]


def read_mobilenet(path: Path, shapes: _Shapes) -> _Tensors:
    """Return the tensors of the one MobileNetV2 in a file, or InputError if they do not fit."""
    try:
        with h5py.File(_unpacked(path), "r") as file:
            datasets = _the_mobilenet(path, file)
            # First names, shapes and types: what does not fit may be too large to be read.
            _refuse(path, _misfits(datasets, shapes), "; were alpha and include_top the same?")
            tensors = {name: _as_array(name, dataset) for name, dataset in datasets.items()}
    except InputError:
        raise
    except Exception as error:  # h5py does not say what it may raise
        reason = first_line(error)
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
