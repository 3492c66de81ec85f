"""Keras files into MobileNetV2 and back: every layout, and only files that fit in every tensor."""

import shutil
import zipfile
from functools import partial
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
from catdog_jax.models.cnn import Model1
from catdog_jax.models.keras_files import read_mobilenet
from catdog_jax.models.keras_weights import load_keras_weights, save_keras_weights, weights_file
from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.models.transfer import Model4

pytestmark = reference.ignore_keras_warnings

REAL_WEIGHTS = (
    "mobilenet_v2_1.0_imagenet_dequantized_no_top.h5",
    "mobilenet_v2_1.0_160_dogs_no_top.h5",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def base() -> Any:
    return mobilenet(0.35, (64, 64))


@pytest.fixture(scope="module")
def empty() -> Any:
    return blank(MobileNetV2, 0.35)


# Each of these writes the weights of `base` to `path`, as some version of Keras does.


def save(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)


def nested(base, path):
    """As in the post: the base is a layer among others, and there is an optimizer's state."""
    keras = reference.import_keras()
    layers = keras.layers
    before = [layers.Conv2D(3, 1, name="before"), layers.BatchNormalization(name="before_BN")]
    after = [layers.GlobalMaxPooling2D(), layers.Dense(1, name="predictions")]
    model = keras.Sequential([keras.Input((64, 64, 3)), *before, base, *after])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    save(model, path)


def flat(base, path, *, grey=False):
    """The base's layers and a classifier, in one model; if `grey`, a convolution comes first."""
    keras = reference.import_keras()
    if grey:
        images = keras.Input((64, 64, 1))
        colours = keras.layers.Conv2D(3, 1, name="colours")(images)
        copy = keras.applications.MobileNetV2(
            alpha=0.35, include_top=False, weights=None, input_tensor=colours
        )
        copy.set_weights([np.ones((1, 1, 1, 3)), np.zeros(3), *base.get_weights()])
        base = copy
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    save(keras.Model(base.input, keras.layers.Dense(1, name="cat_or_dog")(pooled)), path)


def unnamed(base, path, *, write=save):
    """As Keras 3.0 to 3.7 and tf_keras do: the layers' names are not in the weights."""
    write(base, path)
    weights, folder = path, path.with_suffix("")
    if path.suffix == ".keras":
        shutil.unpack_archive(path, folder, "zip")
        weights = folder / "model.weights.h5"
    with h5py.File(weights, "r+") as file:
        file.visititems(lambda _, node: node.attrs.pop("name", None) and None)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("config.json", "model.weights.h5"):
                archive.write(folder / name, name)


def keras_2_12(base, path):
    """As Keras 2.12 does on Windows: layers counted twice, groups joined by backslashes."""
    content = path.with_name("content.weights.h5")
    unnamed(base, content)
    with h5py.File(content) as old, h5py.File(path, "w") as file:
        layers: Any = old["layers"]
        for group, node in layers.items():
            kind, _, number = group.rpartition("_")
            twice = f"{kind}_{2 * int(number)}" if number.isdigit() else group
            old.copy(node, file, f"_layer_checkpoint_dependencies\\{twice}")


def keras_2(base, path, *, top="", again=""):
    """As Keras 2 does: <top>/<layer>/kernel:0, or <layer>/<layer>/kernel:0 without a `top`."""
    with h5py.File(path, "w") as file:
        for layer in base.layers:
            for variable in layer.weights:
                name = variable.path.split("/")[-1]
                if "depthwise" in layer.name:
                    name = name.replace("kernel", "depthwise_kernel")
                file[f"{top or layer.name}/{layer.name}{again}/{name}:0"] = variable.numpy()


def keras_2_trained(base, path):
    """A whole model, trained with Adam, whose moments are named as the weights."""
    keras_2(base, path, top="model_weights/mobilenetv2_0.35_96")
    with h5py.File(path, "r+") as file:
        for moment in "mv":
            file.copy("model_weights/mobilenetv2_0.35_96", f"optimizer_weights/Adam/{moment}")


GREY = partial(flat, grey=True)
LAYOUTS = {
    "keras.h5": save,
    "keras.weights.h5": save,
    "keras.keras": save,
    "unnamed.weights.h5": unnamed,
    "unnamed.keras": unnamed,
    "keras_2.12.weights.h5": keras_2_12,
    "keras_2.h5": keras_2,
    "keras_2_built_twice.h5": partial(keras_2, again="_1"),
    "keras_2_trained.h5": keras_2_trained,
    "nested.h5": nested,
    "nested.weights.h5": nested,
    "nested.keras": nested,
    "nested_unnamed.weights.h5": partial(unnamed, write=nested),
    "nested_unnamed.keras": partial(unnamed, write=nested),
    "flat.h5": flat,
    "flat.keras": flat,
    "flat_unnamed.weights.h5": partial(unnamed, write=flat),
    "grey.h5": GREY,
    "grey.weights.h5": GREY,
    "grey_unnamed.keras": partial(unnamed, write=GREY),
}


@pytest.fixture(scope="module")
def file_of(base, tmp_path_factory):
    """From the name of a layout to its file; each is written once."""
    folder = tmp_path_factory.mktemp("layouts")

    def write(layout):
        if not (folder / layout).is_file():
            LAYOUTS[layout](base, folder / layout)
        return folder / layout

    return write


def weights_of(model):
    return nnx.to_pure_dict(nnx.state(model))


def assert_same_weights(model, other):
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), weights_of(other))


@pytest.fixture(scope="module")
def filled(file_of, empty) -> Any:
    """Our network with the weights of `base`."""
    model = nnx.clone(empty)
    load_keras_weights(model, file_of("keras.h5"))
    return model


def test_a_file_of_keras_gives_its_features(base, filled):
    images = random_images(3, 64, 64)
    assert largest_error(infer(filled, images), base(images, training=False)) <= 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_weights(file_of, filled, empty, layout, caplog):
    model, path = nnx.clone(empty), file_of(layout)
    dense = "dense" if layout == "flat_unnamed.weights.h5" else "cat_or_dog"
    left_out = {"flat": (dense,), "grey": (dense, "colours")}.get(layout[:4], ())
    assert load_keras_weights(model, path) == left_out
    said = [record.getMessage() for record in caplog.records if "catdog" in record.name]
    message = f"{path}: loaded MobileNetV2, left out: {', '.join(left_out)}"
    assert said == ([message] if left_out else [])
    assert_same_weights(model, filled)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("keras3.5.0_base.keras", 0.187417),
        ("keras3.5.0_base.weights.h5", 0.187417),
        ("keras3.15.1_flat_model.keras", 0.187417),
        ("tf_keras2.21_base.weights.h5", 0.198322),
        ("tf_keras2.21_finetuned_whole_model.h5", 0.198322),
    ],
)
def test_files_of_other_versions_give_their_features(shared, empty, name, features):
    folder, model = shared / "cases" / "weights", nnx.clone(empty)
    left_out = load_keras_weights(model, folder / name)
    assert left_out == (("dense_head",) if "flat" in name else ())
    images = np.load(folder / "input.npy")
    assert np.abs(infer(model, images)).mean() == pytest.approx(features, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_WEIGHTS)
def test_trained_weights_give_the_features_of_keras(shared, name):
    """Slow: the full width, with weights that only some machines have."""
    keras_model = mobilenet(1.0, (96, 96))
    keras_model.load_weights(shared / "weights" / name)
    model = blank(MobileNetV2)
    load_keras_weights(model, shared / "weights" / name)
    images = random_images(2, 96, 96)
    assert largest_error(infer(model, images), keras_model(images, training=False)) <= 1e-4


def test_only_the_backbone_of_a_model_is_filled(file_of, filled):
    model = blank(Model4, alpha=0.35)
    load_keras_weights(model, str(file_of("nested.keras")))
    assert_same_weights(model.backbone, filled)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(weights_of(model.head)))


def test_an_abstract_model_is_filled_too(file_of, filled):
    """So weights are checked, or loaded, without drawing initial ones."""
    model = nnx.eval_shape(lambda: MobileNetV2(0.35, rngs=nnx.Rngs(0)))
    load_keras_weights(model, file_of("keras.h5"))
    assert_same_weights(model, filled)


def test_keras_reads_what_we_save(tmp_path, empty):
    path = tmp_path / "ours.weights.h5"
    path.write_bytes(b"an older file")
    theirs = mobilenet(0.35, (64, 64), 5)
    model = reference.moved(theirs, tmp_path / "theirs.h5", 0.35, include_top=True, classes=5)
    save_keras_weights(model, path)
    images = random_images(3, 64, 64)
    expected = theirs(images, training=False)
    theirs.set_weights([np.zeros_like(array) for array in theirs.get_weights()])
    theirs.load_weights(path)
    assert largest_error(theirs(images, training=False), expected) <= 1e-5
    again = blank(MobileNetV2, 0.35, include_top=True, classes=5)
    assert load_keras_weights(again, path) == ()
    assert_same_weights(again, model)
    # A classifier is left out where the model has none.
    assert load_keras_weights(nnx.clone(empty), path) == ("predictions",)


@pytest.mark.parametrize("name", ["weights.h5", "no/such/folder.weights.h5"])
def test_a_file_that_cannot_be_saved_is_refused(empty, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} (must end in|cannot be written: )"):
        save_keras_weights(empty, tmp_path / name)


# Files that do not fit.


def assert_refused(model, path, message, **options):
    """The error is one line, and no weight has changed."""
    before = weights_of(model)
    with pytest.raises(InputError) as error:
        load_keras_weights(model, path, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, weights_of(model), before)


@pytest.fixture
def legacy(file_of, tmp_path):
    """A file to spoil."""
    return Path(shutil.copy(file_of("keras_2.h5"), tmp_path / "legacy.h5"))


def put(name, *args, **options):
    """A function that replaces a dataset by one made with h5py's options."""

    def spoil(file):
        file.pop(name, None)
        file.create_dataset(name, *args, **options)

    return spoil


def exchange(one, other):
    def spoil(file):
        a, b = file[one][...], file[other][...]
        put(one, data=b)(file)
        put(other, data=a)(file)

    return spoil


BETA, KERNEL = "bn_Conv1/bn_Conv1/beta:0", "block_3_project/block_3_project/kernel:0"
MEAN, VARIANCE = (f"bn_Conv1/bn_Conv1/moving_{name}:0" for name in ("mean", "variance"))
EXPANDING = "block_3_expand/block_3_expand/kernel:0"
NAN, HUGE = np.full(16, np.nan, "f4"), (1, 1, 2**20, 2**30)
PROJECT = "block_3_project/kernel"
SPOILT = {
    "missing": (lambda f: f.pop(BETA), "bn_Conv1/beta is missing"),
    "two missing": (lambda f: (f.pop(BETA), f.pop(KERNEL)), f"{PROJECT} is missing (and 1 more)"),
    "left over": (put("Conv_1/Conv_1/bias:0", data=NAN), "Conv_1/bias is not part of this model"),
    "twice": (lambda f: f.copy(BETA, "bn_Conv1/beta:0"), "beta (again) is not part of this model"),
    "fewer axes": (put(KERNEL, data=np.ones((48, 16), "f4")), f"{PROJECT} has shape (48, 16), exp"),
    "exchanged": (exchange(KERNEL, EXPANDING), "block_3_expand/kernel has shape (1, 1, 48, 16), e"),
    "no shape": (put(BETA, data=h5py.Empty("f4")), "bn_Conv1/beta has shape (), expected (16,)"),
    "too large": (put(KERNEL, HUGE, "f4", chunks=(1, 1, 8, 8)), f"{PROJECT} has shape (1, 1, 1048"),
    "text": (put(BETA, data=["beta"] * 16), "bn_Conv1/beta holds object, not floating"),
    "integers": (put(BETA, (16,), "i1"), "bn_Conv1/beta holds int8, not floating"),
    "complex": (put(BETA, (16,), "c8"), "bn_Conv1/beta holds complex64, not floating"),
    "not written": (put(BETA, (16,), "f4"), "bn_Conv1/beta was never written"),
    "NaN": (put(BETA, data=NAN), "bn_Conv1/beta holds NaN or infinity"),
    "beyond float32": (put(BETA, data=np.full(16, 1e300)), "bn_Conv1/beta holds NaN or infinity"),
    "negative": (exchange(MEAN, VARIANCE), "moving_variance holds negative variances"),
    "no MobileNetV2": (lambda f: f.clear(), "holds no MobileNetV2"),
    "two MobileNetV2": (lambda f: f.copy(f["/"], f, "other"), "holds 2 MobileNetV2"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_file_that_does_not_fit_is_refused_by_tensor(legacy, empty, spoil, message):
    with h5py.File(legacy, "r+") as file:
        spoil(file)
    with pytest.raises(InputError) as error:
        read_mobilenet(legacy, keras_weights._shapes(empty))
    assert str(error.value).startswith(str(legacy))
    assert message in str(error.value)


def test_a_compressed_file_is_read_and_its_known_blind_spot(legacy, empty):
    """Nothing in a file says which of two tensors of the same shape is which."""
    with h5py.File(legacy, "r+") as file:
        beta, mean = np.asarray(file[BETA]), np.asarray(file[MEAN])
        put(BETA, data=mean, compression="gzip")(file)
        put(MEAN, data=beta, compression="gzip")(file)
    tensors, _ = read_mobilenet(legacy, keras_weights._shapes(empty))
    np.testing.assert_array_equal(tensors["bn_Conv1/beta"], mean)
    np.testing.assert_array_equal(tensors["bn_Conv1/moving_mean"], beta)


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("keras.h5", {"alpha": 0.5}, "has shape (1, 1, 112, 1280), expected (1, 1, 160, 1280)"),
        ("unnamed.weights.h5", {"alpha": 0.35, "include_top": True}, "is missing (and 1 more); do"),
    ],
)
def test_a_file_of_another_network_is_refused(file_of, layout, options, message):
    model = nnx.eval_shape(lambda: MobileNetV2(rngs=nnx.Rngs(0), **options))
    with pytest.raises(InputError) as error:
        read_mobilenet(file_of(layout), keras_weights._shapes(model))
    assert message in str(error.value)


def test_names_inferred_from_order_must_fit(base, empty, tmp_path):
    unnamed(base, tmp_path / "grey.weights.h5", write=GREY)
    assert_refused(empty, tmp_path / "grey.weights.h5", "does not fit: Conv1/1 is not")


def test_a_model_without_a_mobilenet_is_refused(tmp_path):
    for use in (load_keras_weights, save_keras_weights):
        with pytest.raises(InputError, match="Model1 has no MobileNetV2 to load or save"):
            use(blank(Model1), tmp_path / "any.weights.h5")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9999, 1 - 1e-9])
@pytest.mark.parametrize("layout", ["keras_2.h5", "keras.keras"])
def test_a_truncated_file_is_refused(file_of, empty, tmp_path, layout, share):
    whole = file_of(layout).read_bytes()
    (tmp_path / layout).write_bytes(whole[: int(share * len(whole))])
    assert_refused(empty, tmp_path / layout, f"{layout} is not a readable Keras weights file: ")


# Files of other kinds, which `weights_file` refuses at once.


def saved_model(path):
    path.mkdir()
    (path / "saved_model.pb").touch()


def holds(content):
    return lambda path: path.write_bytes(content)


def archives(name):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, "content")

    return write


def spoilt_directory(path):
    archives("model.weights.h5")(path)
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PK??"))


OTHER_KINDS = {
    "SavedModel": (saved_model, "it is a TensorFlow SavedModel; give a MobileNetV2 that Keras"),
    "folder": (Path.mkdir, "it is a folder"),
    "checkpoint": (lambda path: Path(f"{path}.index").touch(), "it is a TensorFlow checkpoint"),
    "PyTorch": (archives("mobilenet/data.pkl"), "it is a PyTorch file"),
    "archive": (archives("config.json"), "it is an archive without model.weights.h5"),
    "old PyTorch": (holds(b"\x80\x02\x8a"), "it is a pickle, as PyTorch writes"),
    "cut archive": (holds(b"PK\3\4 cut"), "it is an incomplete archive"),
    "damaged archive": (spoilt_directory, "Bad magic number for central directory"),
    "empty": (Path.touch, "it is empty"),
    "web page": (holds(b"\n<!DOCTYPE html>"), "it is a web page"),
    "LFS": (holds(b"version https://git-lfs.github.com/"), "it only points to a file in Git LFS"),
    "text": (holds(b"weights"), "it is neither HDF5 nor a .keras archive"),
}


@pytest.mark.parametrize(("write", "message"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, write, message):
    path = tmp_path / "weights"
    write(path)
    with pytest.raises(InputError) as error:
        weights_file(path)
    assert f"{path} is not a readable Keras weights file: {message}" in str(error.value)


@pytest.mark.parametrize("name", ["missing.h5", "~no-such-user/x.h5", "a\0b.h5", "x" * 5000])
def test_a_missing_weights_file_is_reported(name):
    with pytest.raises(InputError, match=r"no weights file at|File name too long"):
        weights_file(name)


# The official files.


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "1.0_160_no_top"),
        ({"alpha": 1, "image_size": 192}, "1.0_192_no_top"),
        ({"alpha": 1.4, "image_size": 224, "include_top": True}, "1.4_224"),
    ],
)
def test_imagenet_requests_the_file_that_keras_does(monkeypatch, options, name):
    monkeypatch.setattr(keras_weights, "fetch", lambda url, path, check: Path(url))
    folder = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2"
    expected = f"{folder}/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{name}.h5"
    assert weights_file("imagenet", **options) == Path(expected)


def test_imagenet_without_network(empty):
    assert_refused(empty, "imagenet", "no network in tests")
    assert_refused(empty, "imagenet", "--weights FILE")


def test_imagenet_is_checked_kept_and_loaded(monkeypatch, file_of, filled, empty, tmp_path):
    def fetch(url, path, check):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file_of("keras_2.h5"), path)
        check(path)
        return path

    monkeypatch.setattr(keras_weights, "fetch", fetch)
    assert keras_weights.cached_official_weights(0.35, 96) is None
    model = nnx.clone(empty)
    load_keras_weights(model, image_size=96)
    assert_same_weights(model, filled)
    path = keras_weights.cached_official_weights(0.35, 96)
    assert path is not None
    assert tmp_path in path.parents
    with pytest.raises(InputError, match="has shape"):
        weights_file("imagenet", alpha=0.5)


@pytest.mark.parametrize(("alpha", "image_size"), [(0.4, 160), (0.35, 150)])
def test_unknown_imagenet_weights_are_refused_without_a_download(alpha, image_size):
    message = f"no ImageNet weights for alpha {alpha} at {image_size} pixels"
    with pytest.raises(InputError, match=message):
        weights_file("imagenet", alpha=alpha, image_size=image_size)
