"""Keras files into MobileNetV2: every layout, and nothing but a file that fits in every tensor."""

import os
import struct
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import jax
import keras_reference as reference
import numpy as np
import pytest
import requests
from flax import nnx
from keras_reference import blank, infer, largest_error, mobilenet, random_images

from catdog_jax.errors import InputError
from catdog_jax.models import keras_weights
from catdog_jax.models.create import MobileNetV2, Model1, Model4, load_keras_weights
from catdog_jax.models.keras_files import read_mobilenet
from catdog_jax.models.keras_weights import _shapes, _variables, cached_official_weights

pytestmark = reference.ignore_keras_warnings

SHARED = Path(os.environ.get("CATDOG_SHARED", Path(__file__).parents[2] / "shared"))
REAL_WEIGHTS = [
    "mobilenet_v2_1.0_imagenet_dequantized_no_top.h5",
    "mobilenet_v2_1.0_160_dogs_no_top.h5",
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def keras_model() -> Any:
    return mobilenet(0.35, (64, 64))


@pytest.fixture(scope="module")
def larger_model(keras_model) -> Any:
    """As in the post: the backbone is a layer among others, and there is an optimizer's state."""
    keras = reference.import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Conv2D(3, 1, name="before"),
            layers.BatchNormalization(name="before_BN"),
            keras_model,
            layers.GlobalMaxPooling2D(),
            layers.Dense(1, name="predictions"),
        ]
    )
    for layer in set(model.layers) - {keras_model}:
        reference.randomize(layer, seed=1)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def save_as_keras_2(model, path, *, scope="/", nested_as=()):
    """Write the weights of `model` as Keras 2 named them; once for each name in `nested_as`."""
    with h5py.File(path, "w") as file:
        root = file.require_group(scope)
        for layer in model.layers:
            for variable in layer.weights:
                name = variable.path.split("/")[-1]
                if name == "kernel" and "depthwise" in layer.name:
                    name = "depthwise_kernel"
                for group in nested_as or (layer.name,):
                    root[f"{group}/{layer.name}/{name}:0"] = variable.numpy()


LAYOUTS = {
    "keras.h5": lambda model, _, path: model.save(path),
    "keras.weights.h5": lambda model, _, path: model.save_weights(path),
    "keras.keras": lambda model, _, path: model.save(path),
    "keras_2_weights.h5": lambda model, _, path: save_as_keras_2(model, path),
    "keras_2_model.h5": lambda model, _, path: save_as_keras_2(model, path, scope="model_weights"),
    "nested.h5": lambda _, larger, path: larger.save(path),
    "nested.weights.h5": lambda _, larger, path: larger.save_weights(path),
    "nested.keras": lambda _, larger, path: larger.save(path),
    "nested_keras_2.h5": lambda model, _, path: save_as_keras_2(
        model, path, scope="model_weights", nested_as=["mobilenetv2_0.35_160"]
    ),
}


@pytest.fixture(scope="module")
def file_of(keras_model, larger_model, tmp_path_factory):
    """The name of a layout to its file; each is written once."""
    folder = tmp_path_factory.mktemp("layouts")

    def write(layout):
        path = folder / layout
        if not path.is_file():
            LAYOUTS[layout](keras_model, larger_model, path)
        return path

    return write


@pytest.fixture
def legacy(file_of, tmp_path):
    """A file to spoil."""
    path = tmp_path / "legacy.h5"
    path.write_bytes(file_of("keras_2_weights.h5").read_bytes())
    return path


@pytest.fixture(scope="module")
def empty() -> Any:
    return blank(MobileNetV2, 0.35)


def weights_of(model):
    return nnx.to_pure_dict(nnx.state(model))


def assert_refused(model, path, message, **options):
    """One line that says why, and no weight changed."""
    before = weights_of(model)
    with pytest.raises(InputError) as error:
        load_keras_weights(model, path, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), before)
    return str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_features_of_keras(keras_model, file_of, empty, layout):
    model = nnx.clone(empty)
    load_keras_weights(model, file_of(layout))
    images = random_images(3, 64, 64)
    expected = keras_model(images, training=False)
    assert largest_error(infer(model, images), expected) <= 1e-4


def test_a_model_with_a_backbone_gets_its_backbone_filled_and_no_more(file_of, empty):
    model = blank(Model4, alpha=0.35)
    load_keras_weights(model, str(file_of("nested.keras")))
    expected = nnx.clone(empty)
    load_keras_weights(expected, file_of("keras.h5"))
    jax.tree.map(np.testing.assert_array_equal, weights_of(model.backbone), weights_of(expected))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(weights_of(model.head)))


@pytest.mark.parametrize("name", REAL_WEIGHTS)
def test_trained_weights_give_the_features_of_keras(name):
    path = SHARED / "weights" / name
    if not path.is_file():
        pytest.skip(f"no {path}; set CATDOG_SHARED to the folder that holds weights/")
    keras_model = mobilenet(1.0, (96, 96))
    keras_model.load_weights(path)
    model = blank(MobileNetV2)
    load_keras_weights(model, path)
    images = random_images(2, 96, 96)
    expected = keras_model(images, training=False)
    assert largest_error(infer(model, images), expected) <= 1e-4


# What does not fit.


def replace(file, name, value):
    del file[name]
    file[name] = value


def create(name, *args, **options):
    """Spoil by a dataset made with h5py's options, in place of that of the same name."""

    def spoil(file):
        file.pop(name, None)
        file.create_dataset(name, *args, **options)

    return spoil


def beside(file):
    """Another file with sixteen good numbers, where a hostile one might point to."""
    path = Path(file.filename).with_name("other")
    with h5py.File(path, "w") as other:
        other["beta"] = np.zeros(16, np.float32)
    return path


def virtual(file):
    layout = h5py.VirtualLayout((16,), np.float32)
    layout[:] = h5py.VirtualSource(beside(file), "beta", (16,))
    del file[BETA]
    file.create_virtual_dataset(BETA, layout)


def exchange(file, one, other):
    a, b = file[one][...], file[other][...]
    replace(file, one, b)
    replace(file, other, a)


BETA, KERNEL = "bn_Conv1/bn_Conv1/beta:0", "block_3_project/block_3_project/kernel:0"
MEAN, VARIANCE = (f"bn_Conv1/bn_Conv1/moving_{name}:0" for name in ("mean", "variance"))
EXPANDING = "block_3_expand/block_3_expand/kernel:0"
STORED = "bn_Conv1/beta is not stored as Keras does"
SPOILT = {
    # Names.
    "missing": (lambda f: f.pop(BETA), "bn_Conv1/beta is missing"),
    "left over": (
        lambda f: f.create_dataset("Conv_1/Conv_1/bias:0", data=np.zeros(1280)),
        "Conv_1/bias is not part of this model",
    ),
    "another layer": (
        lambda f: f.create_dataset("head/head/kernel:0", data=np.zeros((1280, 1))),
        "head/kernel is not part of this model",
    ),
    "twice": (
        lambda f: f.copy(BETA, "bn_Conv1/beta:0"),
        "/bn_Conv1/beta:0 is not part of this model",
    ),
    "outside of layers": (lambda f: f.copy(BETA, "beta"), "/beta is not part of this model"),
    "in two lines": (lambda f: f.copy(BETA, "head/a\nb"), "head/a b is not part of this model"),
    "soft link": (
        lambda f: replace(f, BETA, h5py.SoftLink("/bn_Conv1/bn_Conv1/moving_mean:0")),
        "bn_Conv1/beta is missing",
    ),
    "link to another file": (
        lambda f: replace(f, BETA, h5py.ExternalLink(beside(f), "/beta")),
        "bn_Conv1/beta is missing",
    ),
    # Shapes.
    "misshapen": (
        lambda f: replace(f, KERNEL, f[KERNEL][0, 0]),
        "block_3_project/kernel has shape (48, 16), expected (1, 1, 48, 16)",
    ),
    "turned": (
        lambda f: replace(f, KERNEL, f[KERNEL][...].swapaxes(2, 3)),
        "block_3_project/kernel has shape (1, 1, 16, 48), expected (1, 1, 48, 16)",
    ),
    "exchanged": (
        lambda f: exchange(f, KERNEL, EXPANDING),
        "block_3_expand/kernel has shape (1, 1, 48, 16), expected (1, 1, 8, 48)",
    ),
    "without a shape": (
        lambda f: replace(f, BETA, h5py.Empty("f4")),
        "bn_Conv1/beta has shape (), expected (16,)",
    ),
    "of four petabytes": (
        create(KERNEL, (1, 1, 2**20, 2**30), "f4", chunks=(1, 1, 8, 8)),
        "block_3_project/kernel has shape (1, 1, 1048576, 1073741824), expected (1, 1, 48, 16)",
    ),
    "left over, of four petabytes": (
        create("Conv_1/Conv_1/bias:0", (2**50,), "f4", chunks=(8,)),
        "Conv_1/bias is not part of this model",
    ),
    # Types.
    "text": (lambda f: replace(f, BETA, ["beta"] * 16), "bn_Conv1/beta holds object, not floating"),
    "bytes": (
        lambda f: replace(f, BETA, np.full(16, b"beta")),
        "bn_Conv1/beta holds |S4, not floating",
    ),
    "references": (
        lambda f: create(BETA, data=[f.ref] * 16, dtype=h5py.ref_dtype)(f),
        "bn_Conv1/beta holds object, not floating",
    ),
    "integers": (create(BETA, (16,), "i1"), "bn_Conv1/beta holds int8, not floating"),
    "truths": (create(BETA, (16,), "?"), "bn_Conv1/beta holds bool, not floating"),
    "complex": (create(BETA, (16,), "c8"), "bn_Conv1/beta holds complex64, not floating"),
    "records": (create(BETA, (16,), [("a", "f4")]), "bn_Conv1/beta holds [('a', '<f4')], not"),
    # What would take reading more than the tensor's bytes in this file.
    "never written": (create(BETA, (16,), "f4"), STORED),
    "packed": (create(BETA, data=np.zeros(16, "f4"), compression="gzip"), STORED),
    "in a piece of two gigabytes": (
        create(BETA, (16,), "f4", maxshape=(None,), chunks=(2**29,), compression="gzip"),
        STORED,
    ),
    "in another file": (
        lambda f: create(BETA, (16,), "f4", external=[(beside(f), 0, 64)])(f),
        STORED,
    ),
    "virtual": (virtual, STORED),
    # Numbers.
    "not a number": (
        lambda f: f[BETA].__setitem__(3, np.nan),
        "bn_Conv1/beta holds NaN or infinity",
    ),
    "infinite": (lambda f: f[BETA].__setitem__(3, np.inf), "bn_Conv1/beta holds NaN or infinity"),
    "beyond float32": (
        lambda f: replace(f, BETA, np.full(16, 1e300)),
        "bn_Conv1/beta holds NaN or infinity",
    ),
    "negative variance": (
        lambda f: f[VARIANCE].__setitem__(3, -1e-3),
        "bn_Conv1/moving_variance holds negative variances",
    ),
    "mean and variance exchanged": (
        lambda f: exchange(f, MEAN, VARIANCE),
        "bn_Conv1/moving_variance holds negative variances",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_file_that_does_not_fit_is_refused_by_tensor(legacy, empty, spoil, message):
    with h5py.File(legacy, "r+") as file:
        spoil(file)
    assert str(legacy) in assert_refused(empty, legacy, message)


def test_all_that_is_wrong_is_counted(legacy, empty):
    with h5py.File(legacy, "r+") as file:
        del file[BETA], file[KERNEL]
    assert_refused(empty, legacy, "block_3_project/kernel is missing (and 1 more)")


def test_of_a_file_that_does_not_fit_no_tensor_is_read(legacy, empty, monkeypatch):
    monkeypatch.setattr(h5py.Dataset, "__array__", lambda *args: pytest.fail("a tensor was read"))
    with h5py.File(legacy, "r+") as file:
        file.copy(BETA, "more")
    with pytest.raises(InputError, match="/more is not part of this model"):
        read_mobilenet(legacy, _shapes(empty))


EXCHANGED = {
    "of two layers": [f"block_{n}_expand/block_{n}_expand/kernel:0" for n in (4, 5)],
    "of one layer": [BETA, MEAN],
}


@pytest.mark.parametrize(("one", "other"), EXCHANGED.values(), ids=EXCHANGED)
def test_two_tensors_of_one_shape_that_changed_places_are_not_noticed(legacy, empty, one, other):
    """The limit of what is promised: nothing in a file tells whose numbers they are."""
    with h5py.File(legacy, "r+") as file:
        exchange(file, one, other)
        expected = np.asarray(file[other]).ravel(), np.asarray(file[one]).ravel()
    model = nnx.clone(empty)
    load_keras_weights(model, legacy)
    loaded = _variables(model)
    names = [name.split("/", 1)[1].removesuffix(":0") for name in (other, one)]
    for name, numbers in zip(names, expected, strict=True):
        np.testing.assert_array_equal(loaded[name][...].ravel(), numbers)


def test_links_that_go_round_in_circles_are_not_followed(legacy, empty, file_of):
    with h5py.File(legacy, "r+") as file:
        file["bn_Conv1/again"] = file["bn_Conv1"]
        file["all"] = file["/"]
        file["itself"] = h5py.SoftLink("/itself")
    model, expected = nnx.clone(empty), nnx.clone(empty)
    load_keras_weights(model, legacy)
    load_keras_weights(expected, file_of("keras_2_weights.h5"))
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), weights_of(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, "Conv_1/kernel has shape (1, 1, 112, 1280), expected (1, 1, 160, 1280)"),
        ({"alpha": 0.35, "include_top": True}, "predictions/bias is missing (and 1 more)"),
    ],
    ids=str,
)
def test_a_file_of_another_network_is_refused(file_of, options, message):
    refused = assert_refused(blank(MobileNetV2, **options), file_of("keras.h5"), message)
    assert "were alpha and include_top the same?" in refused


def test_a_file_with_the_top_is_refused_by_a_model_without(tmp_path, empty):
    keras_model = mobilenet(0.35, (32, 32), classes=2)
    keras_model.save(tmp_path / "top.keras")
    message = "predictions/bias is not part of this model (and 1 more)"
    assert_refused(empty, tmp_path / "top.keras", message)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.9999, 1 - 1e-9])
@pytest.mark.parametrize("layout", ["keras_2_weights.h5", "keras.keras"])
def test_a_truncated_file_is_refused(file_of, empty, tmp_path, layout, share):
    whole = file_of(layout).read_bytes()
    path = tmp_path / layout
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(empty, path, f"{path} is not a readable Keras weights file")


def text(path):
    path.write_text("weights")


def archive_without_weights(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def archive_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", "weights")


def archive_spoilt(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(5000))
    data = bytearray(path.read_bytes())
    start = data.index(b"model.weights.h5") + len("model.weights.h5")
    data[start : start + 4] = b"\xff" * 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "write",
    [text, archive_without_weights, archive_of_text, archive_spoilt],
)
def test_a_file_of_another_kind_is_refused(empty, tmp_path, write):
    write(tmp_path / "weights.h5")
    message = f"{tmp_path / 'weights.h5'} is not a readable Keras weights file"
    assert_refused(empty, tmp_path / "weights.h5", message)


def archive_of(path, content, announced=None, method=zipfile.ZIP_DEFLATED):
    """A `.keras` archive that says of its weights that they are `announced` bytes long."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("model.weights.h5", content)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    if announced is not None:
        data[directory + 24 : directory + 28] = announced.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_an_archive_packed_anew_is_read(empty, file_of, tmp_path):
    with zipfile.ZipFile(file_of("keras.keras")) as archive:
        content = archive.read("model.weights.h5")
    model, expected = nnx.clone(empty), nnx.clone(empty)
    load_keras_weights(model, archive_of(tmp_path / "deflated.keras", content))
    load_keras_weights(expected, file_of("keras.keras"))
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), weights_of(expected))


def test_an_archive_that_unpacks_to_too_much_is_refused(empty, tmp_path):
    path = archive_of(tmp_path / "bomb.keras", b"x", announced=2**32 - 2)
    assert_refused(empty, path, f"model.weights.h5 in {path} unpacks to 4,294,967,294 bytes")


def test_no_more_is_unpacked_than_was_announced(empty, tmp_path):
    path = archive_of(tmp_path / "bomb.keras", bytes(50_000_000), announced=1000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="is not a readable Keras weights file: Bad CRC-32"):
            read_mobilenet(path, _shapes(empty))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_an_archive_packed_in_another_way_is_refused(empty, tmp_path):
    path = archive_of(tmp_path / "bomb.keras", bytes(5000), method=zipfile.ZIP_BZIP2)
    assert_refused(empty, path, f"model.weights.h5 in {path} is neither stored nor deflated")


def fills_the_memory(content):
    """Damage the list of free space in the names of the first group: it leads back to itself.

    HDF5 1.14 then takes some GB a second.
    """
    heap = content.index(b"HEAP")
    (names,) = struct.unpack_from("<Q", content, heap + 24)
    struct.pack_into("<Q", content, heap + 16, 8)  # the first free space: 8 bytes into the names
    struct.pack_into("<QQ", content, names + 8, 8, 16)  # the next one: there, again


def stands_still(content):
    """Damage the heap that a `.weights.h5` keeps the names of its layers in: free space of 0 bytes.

    HDF5 1.14 then tries for ever to get past it.
    """
    struct.pack_into("<HHIQ", content, content.index(b"GCOL") + 16, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("layout", "damage", "why"),
    [
        ("keras_2_weights.h5", fills_the_memory, "memory allocation failed"),
        ("keras.weights.h5", fills_the_memory, "memory allocation failed"),
        ("keras.weights.h5", stands_still, "no end was found in it in 5 s"),
    ],
)
def test_a_file_at_which_hdf5_comes_to_no_end_is_refused(
    file_of, empty, tmp_path, monkeypatch, layout, damage, why
):
    if damage is fills_the_memory and sys.platform != "linux":
        pytest.skip("this system does not limit the memory of a process")
    content = bytearray(file_of(layout).read_bytes())
    damage(content)
    (tmp_path / layout).write_bytes(content)
    if damage is stands_still:
        monkeypatch.setattr(keras_weights, "_PATIENCE", 5)
    began = time.monotonic()
    message = f"{tmp_path / layout} is not a readable Keras weights file"
    assert why in assert_refused(empty, tmp_path / layout, message)
    assert time.monotonic() - began < 30


READERS = {
    "no end": ("import time; time.sleep(60)", "no end was found in it in 0.5 s"),
    "crash": ("import os; os.abort()", "it crashed its reader (-6)"),
    "without h5py": (
        "import sys; sys.modules['h5py'] = None; import catdog_jax.models.keras_files",
        "it crashed its reader (ModuleNotFoundError: import of h5py halted",
    ),
}


@pytest.mark.parametrize(("reader", "message"), READERS.values(), ids=READERS)
def test_a_reader_that_gives_no_answer_is_no_harm(legacy, empty, monkeypatch, reader, message):
    path = "import json, sys; sys.path = json.load(sys.stdin)[0]; "
    monkeypatch.setattr(keras_weights, "_READER", path + reader)
    monkeypatch.setattr(keras_weights, "_PATIENCE", 0.5 if "sleep" in reader else 25)
    assert_refused(empty, legacy, f"{legacy} is not a readable Keras weights file: {message}")


def test_patience_ends():
    assert 0 < keras_weights._PATIENCE < 30


def test_a_path_that_cannot_be_is_refused(empty):
    name = "x" * 5000
    message = f"{name} is not a readable Keras weights file: File name too long"
    assert_refused(empty, name, message)


def test_a_name_that_is_no_text_is_read(file_of, empty, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.h5")
    path.write_bytes(file_of("keras.h5").read_bytes())
    load_keras_weights(nnx.clone(empty), path)
    path.write_bytes(b"")
    assert_refused(empty, path, f"{path} is not a readable Keras weights file")


@pytest.mark.parametrize("name", ["missing.h5", ".", "~no-such-user/x.h5"])
def test_where_there_is_no_file_it_says_so(empty, tmp_path, name):
    path = name if name.startswith("~") else tmp_path / name
    assert_refused(empty, path, f"no weights file at {path}")


def test_a_file_without_a_mobilenet_is_refused(empty, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/dense/kernel:0"] = np.zeros((2, 2))
    assert_refused(empty, tmp_path / "other.h5", f"{tmp_path / 'other.h5'} holds no MobileNetV2")


@pytest.mark.parametrize("layout", ["two.h5", "two.weights.h5", "two.keras"])
def test_a_file_with_two_mobilenets_is_refused(keras_model, empty, tmp_path, layout):
    keras = reference.import_keras()
    other = keras.models.clone_model(keras_model)
    other.name = "other"
    inputs = keras.Input((64, 64, 3))
    two = keras.Model(inputs, [keras_model(inputs), other(inputs)])
    path = tmp_path / layout
    (two.save_weights if layout == "two.weights.h5" else two.save)(path)
    assert_refused(empty, path, f"{path} holds 2 MobileNetV2")


def test_a_file_with_two_keras_2_mobilenets_is_refused(keras_model, empty, tmp_path):
    path = tmp_path / "two.h5"
    save_as_keras_2(keras_model, path, nested_as=["one", "other"])
    assert_refused(empty, path, f"{path} holds 2 MobileNetV2")


def test_a_model_without_a_mobilenet_is_refused(file_of):
    with pytest.raises(InputError, match="Model1 has no MobileNetV2 to load weights into"):
        load_keras_weights(blank(Model1), file_of("keras.h5"))


# The official files.


@pytest.fixture
def asked(monkeypatch):
    """What was to be downloaded, to which name; it then fails."""
    calls = []

    def fetch(url, path, check):
        calls.append((url, path.name))
        raise InputError("no route to host")

    monkeypatch.setattr(keras_weights, "fetch", fetch)
    return calls


@pytest.mark.parametrize(
    ("alpha", "include_top", "options", "name"),
    [
        # 1.0, as Keras writes it, whatever the number's type.
        (1, False, {}, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"),
        (
            0.35,
            False,
            {"image_size": 96},
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5",
        ),
        (
            1.4,
            True,
            {"image_size": 224},
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224.h5",
        ),
    ],
)
def test_imagenet_asks_for_the_file_that_keras_does(asked, alpha, include_top, options, name):
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{name}"
    model = blank(MobileNetV2, alpha, include_top=include_top)
    assert_refused(model, "imagenet", "no route to host", **options)
    assert asked == [(url, name)]


def test_imagenet_without_network(empty, tmp_path):
    refused = assert_refused(empty, "imagenet", "could not be downloaded to")
    assert "(no network in tests)" in refused


def test_imagenet_loads_what_was_downloaded(monkeypatch, file_of, empty):
    monkeypatch.setattr(keras_weights, "fetch", lambda *_: file_of("keras_2_weights.h5"))
    model, expected = nnx.clone(empty), nnx.clone(empty)
    load_keras_weights(model)
    load_keras_weights(expected, file_of("keras_2_weights.h5"))
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), weights_of(expected))


def test_imagenet_is_kept_in_the_cache(monkeypatch, file_of, empty):
    def fetch(url, path, check):
        path.parent.mkdir(parents=True)
        path.write_bytes(file_of("keras_2_weights.h5").read_bytes())
        check(path)
        return path

    monkeypatch.setattr(keras_weights, "fetch", fetch)
    assert cached_official_weights(0.35, 96) is None
    load_keras_weights(nnx.clone(empty), image_size=96)
    path = cached_official_weights(0.35, 96)
    assert path is not None
    assert Path(os.environ["CATDOG_CACHE"]) in path.parents
    assert cached_official_weights(0.35, 160) is None


@pytest.mark.parametrize(("alpha", "image_size"), [(0.4, 160), (0.35, 161)])
def test_imagenet_that_does_not_exist_is_refused_unasked(asked, alpha, image_size):
    message = f"no official weights for alpha {alpha} at {image_size} pixels"
    assert_refused(blank(MobileNetV2, alpha), "imagenet", message, image_size=image_size)
    assert asked == []
