"""Read the tensors of a MobileNetV2 from any file that Keras 2 or 3 saves.

Files are read as arrays only, never executed.

Keras has two layouts. In both, the model is at the top or a layer of a larger model:

- `.h5` (Keras 2, and `save` of Keras 3): `<layer>/<layer>/kernel:0`, named by path.
- `.weights.h5`, alone or in a `.keras` archive: `layers/conv2d_7/vars/0`. The group names only the
  layer's class. The layer's name is in an attribute (newest versions), in the archive's
  `config.json`, or follows from its position among the layers of that class.
"""

import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from jaxtyping import Float32

from ..errors import InputError, first_line

_MARKER = "expanded_conv_depthwise/kernel"  # what has this tensor is a MobileNetV2

Tensors: TypeAlias = dict[str, Float32[np.ndarray, "..."]]
Shapes: TypeAlias = dict[str, tuple[int, ...]]
_Datasets: TypeAlias = dict[str, h5py.Dataset]
_Names: TypeAlias = dict[tuple[str, str], list[str]]  # (container, class) → layers in order


def read_mobilenet(path: Path, shapes: Shapes) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors named in `shapes` (in Keras's order), and the names of other layers in the file.

    Raises:
        InputError: the file is unreadable, or a tensor is missing, unexpected or wrong.
    """
    try:
        content, names = _opened(path)
        with h5py.File(content, "r") as file:
            datasets, left_out = _the_mobilenet(path, file, names, shapes)
            # Compare shapes before reading: a damaged shape may be too large to read.
            _refuse(path, _misfits(datasets, shapes), "; do alpha and include_top match?")
            tensors = {name: _as_array(name, dataset) for name, dataset in datasets.items()}
    except InputError:
        raise
    except Exception as error:  # h5py does not document what it raises
        reason = first_line(error)
        raise InputError(f"{path} is not a readable Keras weights file: {reason}") from error
    _refuse(path, _bad_values(tensors))
    return tensors, tuple(left_out)


def read_dense(path: Path, layer: str) -> Tensors:
    """Kernel and bias of a dense layer in the file of a whole model.

    Raises:
        InputError: the file is unreadable.
    """
    tensors: Tensors = {}
    try:
        content, names = _opened(path)
        with h5py.File(content, "r") as file:
            for _, name, dataset in _located(file, names, {}):
                owner, _, variable = name.rpartition("/")
                if owner == layer:
                    variable = {"0": "kernel", "1": "bias"}.get(variable, variable)
                    tensors[variable] = _as_array(variable, dataset)
    except Exception as error:
        raise InputError(f"{path} is not a readable Keras file: {first_line(error)}") from error
    return tensors


def layers_by_class(tensors: Iterable[str]) -> dict[str, list[str]]:
    """Map Keras's classes, as they name groups, to the layers of `tensors` in Keras's order."""
    layers: dict[str, list[str]] = defaultdict(list)
    for layer, variable in (tensor.split("/") for tensor in tensors):
        if variable == "gamma":
            layers["batch_normalization"].append(layer)
        elif variable == "kernel" and layer == "predictions":
            layers["dense"].append(layer)
        elif variable == "kernel":
            layers["depthwise_conv2d" if "depthwise" in layer else "conv2d"].append(layer)
    return layers


def numbered(class_name: str, index: int) -> str:
    """Return Keras's group for a layer: the first of its class has no number."""
    return f"{class_name}_{index}" if index else class_name


def _opened(path: Path) -> tuple[Path | io.BytesIO, _Names]:
    """What h5py can open, and the layers' names if the file is an archive that has them."""
    if not zipfile.is_zipfile(path):
        return path, {}
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
        config = "config.json" in archive.namelist() and json.loads(archive.read("config.json"))
    return content, _names_in(config["config"], "/layers") if config else {}


def _names_in(config: dict[str, Any], container: str) -> _Names:
    """The layers' names from a model's configuration, including those of nested models."""
    names: _Names = defaultdict(list)
    for layer in config.get("layers", ()):
        class_name = re.sub("(?<=.)(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        group = numbered(class_name, len(names[container, class_name]))
        names[container, class_name].append(layer["config"]["name"])
        names |= _names_in(layer["config"], f"{container}/{group}/layers")
    return names


def _the_mobilenet(
    path: Path, file: h5py.File, names: _Names, shapes: Shapes
) -> tuple[_Datasets, list[str]]:
    """The tensors of the only MobileNetV2 in a file, and the names of the other layers."""
    models: dict[str, _Datasets] = defaultdict(dict)
    for model, name, dataset in _located(file, names, shapes):
        models[model][name if name not in models[model] else f"{name} (again)"] = dataset
    found = [datasets for datasets in models.values() if _MARKER in datasets]
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found) or 'no'} MobileNetV2 (as keras.applications builds it); "
            "give a file with exactly one"
        )
    ours = {_layer_of(name) for name in shapes}
    datasets = {name: dataset for name, dataset in found[0].items() if _layer_of(name) in ours}
    return datasets, sorted({_layer_of(name) for name in found[0]} - ours)


def _layer_of(tensor: str) -> str:
    return tensor.partition("/")[0]


def _located(
    file: h5py.File, names: _Names, shapes: Shapes
) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield (path of the model, name as in `shapes`, dataset)."""
    nodes: list[h5py.Dataset | h5py.Group] = []
    file.visititems(lambda _, node: nodes.append(node))
    # Keras 2.12 on Windows joins groups by backslashes. Optimizer state repeats layers' names.
    datasets = {
        str(node.name).replace("\\", "/"): node
        for node in nodes
        if isinstance(node, h5py.Dataset) and not str(node.name).startswith("/optimizer")
    }
    layers = _layers_of_groups(datasets, names, shapes)
    by_index: dict[str, str] = {}
    for layer, tensors in groupby(shapes, _layer_of):
        by_index |= {f"{layer}/{index}": tensor for index, tensor in enumerate(tensors)}
    for path, dataset in datasets.items():
        group, _, variable = path.rpartition("/")
        model, _, layer = group.rpartition("/")
        if layer == "vars":
            name = f"{layers[model]}/{variable}"
            yield model.rpartition("/")[0], by_index.get(name, name), dataset
        elif layer:
            # TensorFlow 1 numbers the variables of a model that is built a second time.
            first = re.sub(r"_\d+$", "", layer)
            layer = first if f"{first}/0" in by_index else layer
            variable = variable.removesuffix(":0").replace("depthwise_kernel", "kernel")
            model = f"{model}/".partition(f"/{layer}/")[0].rstrip("/")
            yield model, f"{layer}/{variable}", dataset


def _layers_of_groups(datasets: _Datasets, names: _Names, shapes: Shapes) -> dict[str, str]:
    """Map each group of a `.weights.h5` that has variables to its layer's name."""
    paths = [path for path in datasets if path.split("/")[-2] == "vars"]
    groups = {path.rpartition("/vars/")[0]: datasets[path].parent for path in paths}
    by_class = layers_by_class(shapes)
    unused: dict[tuple[str, str], Iterator[str]] = {}
    layers: dict[str, str] = {}
    # In Keras's order: conv2d, conv2d_1, …, conv2d_10. Numbers may be skipped.
    for group in sorted(groups, key=lambda group: (len(group), group)):
        container, _, last = group.rpartition("/")
        key = container, re.sub(r"_\d+$", "", last)
        in_order = unused.setdefault(key, iter(names.get(key) or by_class.get(key[1], [])))
        layers[group] = str(groups[group].attrs.get("name", next(in_order, last)))
    return layers


def _misfits(datasets: _Datasets, shapes: Shapes) -> list[str]:
    """What is wrong with the tensors, as far as can be told without reading them."""
    problems = [f"{name} is missing" for name in shapes.keys() - datasets.keys()]
    problems += [f"{name} is not part of this model" for name in datasets.keys() - shapes.keys()]
    for name in shapes.keys() & datasets.keys():
        dataset = datasets[name]
        shape = turned(name, dataset.shape or ())
        if shape != shapes[name]:
            problems.append(f"{name} has shape {shape}, expected {shapes[name]}")
        elif dataset.dtype.kind != "f":
            problems.append(f"{name} holds {dataset.dtype}, not floating-point numbers")
        elif not dataset.id.get_storage_size():  # HDF5 reads zeros there
            problems.append(f"{name} was never written")
    return problems


def turned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Convert shapes between Keras, whose depthwise kernels are [3, 3, C, 1], and ours."""
    if name.endswith("depthwise/kernel") and len(shape) == 4:
        return (*shape[:2], shape[3], shape[2])
    return shape


def _as_array(name: str, dataset: h5py.Dataset) -> Float32[np.ndarray, "..."]:
    array = np.asarray(dataset, np.float32)  # float64 values beyond float32 become infinite
    return array.reshape(turned(name, array.shape))


def _bad_values(tensors: Tensors) -> list[str]:
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
        raise InputError(f"{path} does not fit: {min(problems)}{more}{hint}")
