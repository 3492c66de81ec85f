"""Keras, the reference of the tests: the post's networks and MobileNetV2, all tensors random."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contenders.keras_models import post_layers
from flax import nnx

from catdog_jax.models import keras_weights
from catdog_jax.models.cnn import Model1
from catdog_jax.models.keras_files import turned
from catdog_jax.models.keras_weights import load_keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.models.transfer import Model5
from catdog_jax.training.state import in_mode

# Keras warns when it turns a variable into an array under NumPy 2.
ignore_keras_warnings = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def import_keras() -> Any:
    pytest.importorskip("tensorflow", reason="Keras, the reference, needs TensorFlow")
    return pytest.importorskip("keras", reason="Keras is the reference")


def network(name: str, image_size: int, extra_outputs: int = 0, *, randomized: bool = True) -> Any:
    """Model 1, 2, 3 or 4 as the post defines it, without its flips and rotations.

    `extra_outputs` adds the linear layer that ours have without `blog_logits`. Unless `randomized`,
    the weights are those that Keras draws, by a fixed seed.
    """
    keras = import_keras()
    layers = keras.layers
    random = (layers.RandomFlip, layers.RandomRotation)
    parts = [part for part in post_layers(name, image_size) if not isinstance(part, random)]
    head = [layers.Dense(extra_outputs)] if extra_outputs else []
    if not randomized:
        keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((image_size, image_size, 3)), *parts, *head])
    if randomized:
        randomize(model)
    return model


def mobilenet(alpha: float, size: tuple[int, int], classes: int | None = None) -> Any:
    """Keras's MobileNetV2, with logits if `classes`; the same weights for every `size`.

    The size must be given: without one, Keras pads as for even sizes.
    """
    model = import_keras().applications.MobileNetV2(
        (*size, 3),
        alpha,
        include_top=classes is not None,
        weights=None,
        classes=classes or 1000,
        classifier_activation=None,
    )
    randomize(model)
    return model


def model5(alpha: float, size: int, blocks: int = 17) -> Any:
    """Model 5 without dropout, of the first `blocks` blocks, with batch norm in inference mode.

    `backbone(x, training=False)` is not enough for that: when Keras 3.15 trains a functional model,
    it passes `training=True` to its layers all the same, and batch norm uses the batch's
    statistics. So a layer of our own calls the backbone.
    """
    keras = import_keras()
    layers, network = keras.layers, mobilenet(alpha, (size, size))
    if blocks < 17:  # as with the fixture `short_backbone`
        x = network.get_layer(f"block_{blocks - 1}_add").output
        x = layers.Conv2D(network.output.shape[-1], 1, use_bias=False, name="Conv_1")(x)
        x = layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name="Conv_1_bn")(x)
        network = keras.Model(network.input, layers.ReLU(6, name="out_relu")(x))

    class Backbone(layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="backbone")
            self.network = network

        def call(self, x: Any) -> Any:
            return self.network(x, training=False)

    parts = [
        layers.Rescaling(1 / 127.5, offset=-1),
        Backbone(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="head"),
    ]
    model = keras.Sequential([keras.Input((size, size, 3)), *parts])
    randomize(model)
    return model


def freeze_before(model: Any, first: str) -> None:
    """Train only the layers of `model5` from the backbone's layer `first` on."""
    layers = model.get_layer("backbone").network.layers
    for layer in layers[: [layer.name for layer in layers].index(first)]:
        layer.trainable = False


def by_name(variables: Any) -> dict[str, Any]:
    """Keras's variables by layer and name, as `Conv1/kernel`."""
    return {"/".join(variable.path.split("/")[-2:]): variable for variable in variables}


def model5_pair(alpha: float, size: int, blocks: int = 17) -> tuple[Any, Model5]:
    """`model5`, and ours with its weights; for fewer blocks, ours must be made shorter first."""
    keras_model, model = model5(alpha, size, blocks), blank(Model5, alpha=alpha)
    model.dropout.rate = 0.0
    theirs, ours = by_name(keras_model.weights), _variables5(model)
    assert theirs.keys() == ours.keys()
    for name, variable in ours.items():
        array = theirs[name].numpy()
        variable.set_value(jnp.asarray(array.reshape(turned(name, array.shape))))
    return keras_model, model


def arrays5(model: Model5) -> dict[str, np.ndarray]:
    """The arrays of our model 5, named and shaped as Keras's."""
    arrays = {name: np.asarray(variable[...]) for name, variable in _variables5(model).items()}
    return {name: array.reshape(turned(name, array.shape)) for name, array in arrays.items()}


def _variables5(model: Model5) -> dict[str, Any]:
    head = {"head/kernel": model.head.kernel, "head/bias": model.head.bias}
    return keras_weights.keras_variables(model.backbone) | head


def randomize(model: Any, seed: int = 0) -> None:
    """Draw every tensor anew: zeros and ones would hide swapped tensors."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        name, shape = variable.path.split("/")[-1], variable.shape
        if name == "kernel":
            fan_in = 9 if "depthwise" in variable.path else np.prod(shape[:-1])
            value = rng.normal(size=shape) * np.sqrt(1 / fan_in)
        elif name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * 0.3
        variable.assign(value.astype("float32"))


def trained_layers(model: Any) -> list[Any]:
    """The layers of our model 1, 2 or 3 that have weights, in the order of Keras's."""
    if isinstance(model, Model1):
        layers = [model.conv1, model.conv2, model.conv3, model.dense]
    else:
        layers = [*model.convs.layers, model.dense1, model.dense2]
    return [*layers, *model.classifier.layers]


def copy_network(keras_model: Any, model: Any) -> None:
    arrays = iter(keras_model.get_weights())
    for layer in trained_layers(model):
        for variable in (layer.kernel, layer.bias):
            array = next(arrays)
            assert array.shape == variable.shape
            variable[...] = jnp.asarray(array)
    assert next(arrays, None) is None


def blank(make: Any, *args: Any, **options: Any) -> Any:
    """The model `make(*args, rngs=…, **options)`, where a weight left unset shows as NaN."""
    abstract = nnx.eval_shape(lambda: make(*args, rngs=nnx.Rngs(0), **options))
    graphdef, keys, state = nnx.split(abstract, nnx.RngState, ...)
    keys = jax.tree.map(
        lambda leaf: (
            jax.random.key(0) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.uint32(0)
        ),
        keys,
    )
    # NumPy's arrays, because JAX would compile a program for each shape.
    nan = jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, np.nan, leaf.dtype)), state)
    return nnx.merge(graphdef, keys, nan)


def moved(keras_model: Any, path: Path, alpha: float, **options: Any) -> MobileNetV2:
    """Our MobileNetV2 with the weights of `keras_model`, by way of a file of the path's kind."""
    save = keras_model.save_weights if path.name.endswith(".weights.h5") else keras_model.save
    save(path)
    model = blank(MobileNetV2, alpha, **options)
    load_keras_weights(model, path)
    return model


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    """Images in [-1, 1] of `shape` `(batch, height, width)`."""
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype("float32")


@nnx.jit
def _infer(model: Any, *args: Any) -> Any:
    return model(*args)


def infer(model: Any, *args: Any) -> Any:
    """`model(*args)` without dropout, jitted, at full precision on every platform."""
    with jax.default_matmul_precision("highest"):
        return _infer(in_mode(model, training=False), *args)


def largest_error(actual: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
