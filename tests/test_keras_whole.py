"""A Keras file of the whole model 4 or 5 into ours, as readers of the post may have saved it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras_reference as reference
import numpy as np
import pytest
from helpers import silent
from keras_reference import blank, infer

from catdog_jax.errors import InputError
from catdog_jax.models import keras_whole
from catdog_jax.models.keras_whole import load_keras_model
from catdog_jax.models.transfer import Model4, Model5
from catdog_jax.runs import build
from catdog_jax.runs.initial import initial_model
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.run_folder import inputs_of
from catdog_jax.runs.runner import run
from catdog_jax.training.metrics import probabilities

pytestmark = reference.ignore_keras_warnings
slow = pytest.mark.slow
SIZE, ALPHA = 32, 0.35


@pytest.fixture(scope="module")
def base() -> Any:
    return reference.mobilenet(ALPHA, (SIZE, SIZE))


def nested(base: Any, head: Any, pool: str = "GlobalMaxPooling2D") -> Any:
    """As in the post: a Sequential with the base as one of its layers."""
    layers = reference.import_keras().layers
    return reference.import_keras().Sequential(
        [
            layers.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.RandomFlip("horizontal_and_vertical"),
            layers.RandomRotation(0.2),
            base,
            getattr(layers, pool)(),
            layers.Dropout(0.1),
            head,
        ]
    )


def functional(base: Any, head: Any, pool: str = "GlobalMaxPooling2D") -> Any:
    """As in the tutorials: augmentation as a model, `preprocess_input`, the base called."""
    keras = reference.import_keras()
    layers = keras.layers
    pixels = keras.Input((SIZE, SIZE, 3))
    augmented = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])
    x = keras.applications.mobilenet_v2.preprocess_input(augmented(pixels))
    x = getattr(layers, pool)()(base(x, training=False))
    return keras.Model(pixels, head(layers.Dropout(0.2)(x)))


def flat(base: Any, head: Any, pool: str = "GlobalMaxPooling2D") -> Any:
    """The base's own layers among the others."""
    keras = reference.import_keras()
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    copy = keras.applications.MobileNetV2(
        alpha=ALPHA, include_top=False, weights=None, input_tensor=x
    )
    copy.set_weights(base.get_weights())
    return keras.Model(pixels, head(getattr(keras.layers, pool)()(copy.output)))


def dense(outputs: int, activation: str | None = None) -> Any:
    layer = reference.import_keras().layers.Dense(outputs, activation=activation)
    layer.build((None, 1280))
    rng = np.random.default_rng(outputs)
    layer.set_weights([rng.normal(0, 0.05, w.shape) for w in layer.get_weights()])
    return layer


def theirs(model: Any, images: np.ndarray) -> np.ndarray:
    """The probabilities of both classes that a Keras model gives, whatever its last layer."""
    outputs = np.asarray(model(images, training=False), np.float64)
    if model.layers[-1].activation.__name__ == "linear":
        return probabilities(outputs, 2)
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


@pytest.mark.parametrize(
    ("make", "suffix", "head", "pool"),
    [
        (nested, ".keras", (1, None), "GlobalMaxPooling2D"),
        pytest.param(functional, ".keras", (1, "sigmoid"), "GlobalMaxPooling2D", marks=slow),
        (flat, ".h5", (2, None), "GlobalMaxPooling2D"),
        pytest.param(nested, ".h5", (2, "softmax"), "GlobalAveragePooling2D", marks=slow),
        pytest.param(functional, ".h5", (1, None), "GlobalAveragePooling2D", marks=slow),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_it_predicts_the_same(
    make: Any, suffix: str, head: Any, pool: str, base: Any, tmp_path: Path
) -> None:
    model, path = make(base, dense(*head), pool), tmp_path / f"model{suffix}"
    model.save(path)
    kind = Model4 if pool == "GlobalMaxPooling2D" else Model5
    ours = blank(kind, alpha=ALPHA)
    load_keras_model(ours, path)
    images = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype("float32")
    expected = theirs(model, images)
    assert np.ptp(expected[:, 1]) > 1e-3  # it is not the same for every image
    found = probabilities(np.asarray(infer(ours, images)), 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_run_starts_from_it_and_needs_no_other_weights(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's ImageNet weights would be downloaded."""
    monkeypatch.setattr(build, "build_model", lambda *_: blank(Model4, alpha=ALPHA))
    path = tmp_path / "model4.keras"
    model = nested(base, dense(1))
    model.save(path)
    experiment = replace(RECIPES["model4"], init=str(path), data="sketches")
    ours: Any = initial_model(experiment, 2, SIZE)
    np.testing.assert_array_equal(ours.head.kernel[...], model.layers[-1].get_weights()[0])
    splits = build.load_splits(replace(experiment, sizes=(8, 4, 4), image_size=SIZE))
    inputs = inputs_of(experiment, splits)
    assert (inputs["weights file"], len(inputs["init"])) == ("none", 64)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable Keras weights file: it is an incomplete"):
        run(experiment, tmp_path / "run", splits=splits, log=silent)
    assert not (tmp_path / "run").exists()


REFUSED = {
    "it has a layer flatten (Flatten)": lambda k: [
        k.Rescaling(1 / 127.5, -1),
        k.Flatten(name="flatten"),
    ],
    "it has no layers of global pooling": lambda k: [k.Rescaling(1 / 127.5, -1)],
    "its global pooling is that of model5": lambda k: [k.GlobalAveragePooling2D()],
    "it has 2 dense layers": lambda k: [k.GlobalMaxPooling2D(), k.Dense(3)],
    "it takes pixels times 1 plus 0": lambda k: [k.GlobalMaxPooling2D()],
    "its last layer has 1 outputs with tanh": lambda k: [
        k.Rescaling(1 / 127.5, -1),
        k.GlobalMaxPooling2D(),
        k.Dense(1, "tanh"),
    ],
    "its last layer has 5 outputs, here there are 1": lambda k: [
        k.Rescaling(1 / 127.5, -1),
        k.GlobalMaxPooling2D(),
        k.Dense(5),
    ],
}


@pytest.mark.parametrize("error", REFUSED)
def test_what_computes_something_else_is_refused(error: str, tmp_path: Path) -> None:
    keras = reference.import_keras()
    layers = REFUSED[error](keras.layers)
    if not isinstance(layers[-1], keras.layers.Dense) or len(layers) == 2:
        layers.append(keras.layers.Dense(1))
    path = tmp_path / "other.keras"
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers]).save(path)
    with pytest.raises(
        InputError, match=rf"other.keras (is not a model4|does not fit): {re.escape(error)}"
    ):
        load_keras_model(blank(Model4, alpha=ALPHA), path)


def test_preprocess_input_of_keras_2() -> None:
    """Whose files name TensorFlow's operations."""

    def operation(name: str, number: float) -> Any:
        inputs = [["input_1", 0, 0, {"y": number, "name": None}]]
        return keras_whole._Layer("TFOpLambda", f"tf.{name}", {"function": name}, inputs)

    both = [operation("math.truediv", 127.5), operation("math.subtract", 1.0)]
    assert keras_whole._rescaling(both) == (1 / 127.5, -1.0)
    assert np.isnan(keras_whole._rescaling([operation("math.maximum", 1.0)])).all()


def test_weights_alone_are_refused(base: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    base.save_weights(path)
    with pytest.raises(InputError, match="holds weights alone; save the whole model"):
        load_keras_model(blank(Model4, alpha=ALPHA), path)
