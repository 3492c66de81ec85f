"""Keras files into MobileNetV2: every layout, and nothing but a file that fits in every tensor."""

import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import jax
import keras_reference as reference
import numpy as np
import pooch
import pytest
from flax import nnx
from keras_reference import blank, infer, largest_error, mobilenet, random_images

from catdog_jax.errors import InputError
from catdog_jax.models import MobileNetV2, Model1, Model4, load_keras_weights
from catdog_jax.models.keras_weights import cached_official_weights

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

    monkeypatch.setattr(pooch, "retrieve", refuse)
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


BETA, KERNEL = "bn_Conv1/bn_Conv1/beta:0", "block_3_project/block_3_project/kernel:0"
SPOILT = {
    "missing": (lambda f: f.pop(BETA), "bn_Conv1/beta is missing"),
    "left over": (
        lambda f: f.create_dataset("Conv_1/Conv_1/bias:0", data=np.zeros(1280)),
        "Conv_1/bias is not part of this model",
    ),
    "another layer": (
        lambda f: f.create_dataset("head/head/kernel:0", data=np.zeros((1280, 1))),
        "head/kernel is not part of this model",
    ),
    "misshapen": (
        lambda f: replace(f, KERNEL, f[KERNEL][0, 0]),
        "block_3_project/kernel has shape (48, 16), expected (1, 1, 48, 16)",
    ),
    "turned": (
        lambda f: replace(f, KERNEL, f[KERNEL][...].swapaxes(2, 3)),
        "block_3_project/kernel has shape (1, 1, 16, 48), expected (1, 1, 48, 16)",
    ),
    "not a number": (
        lambda f: f[BETA].__setitem__(3, np.nan),
        "bn_Conv1/beta holds NaN or infinity",
    ),
    "infinite": (lambda f: f[BETA].__setitem__(3, np.inf), "bn_Conv1/beta holds NaN or infinity"),
    "text": (lambda f: replace(f, BETA, ["beta"] * 16), "bn_Conv1/beta holds no numbers"),
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


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.9999])
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


@pytest.mark.parametrize("name", ["missing.h5", "."])
def test_where_there_is_no_file_it_says_so(empty, tmp_path, name):
    assert_refused(empty, tmp_path / name, f"no weights file at {tmp_path / name}")


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
    """What `pooch.retrieve` was asked for; it then fails."""
    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, fname))
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
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
    refused = assert_refused(model, "imagenet", f"could not download {url} (OSError)", **options)
    assert "give the file's path" in refused
    assert asked == [(url, name)]


def test_imagenet_loads_what_was_downloaded(monkeypatch, file_of, empty):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: str(file_of("keras_2_weights.h5")))
    model, expected = nnx.clone(empty), nnx.clone(empty)
    load_keras_weights(model)
    load_keras_weights(expected, file_of("keras_2_weights.h5"))
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), weights_of(expected))


def test_imagenet_is_kept_in_the_cache(monkeypatch, file_of, empty):
    def retrieve(url, known_hash, fname, path):
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(file_of("keras_2_weights.h5").read_bytes())
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
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
