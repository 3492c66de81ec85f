"""Models 1 to 5 against Keras: logits, gradients (but model 4's), initial weights, dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import keras_reference as reference
import numpy as np
import optax
import pytest
from flax import nnx
from keras_reference import blank, infer, largest_error
from scipy import stats

from catdog_jax.errors import InputError
from catdog_jax.models import mobilenet_v2
from catdog_jax.models.cnn import Model1, Model2, Model3
from catdog_jax.models.create import create_model
from catdog_jax.models.keras_weights import load_keras_weights
from catdog_jax.models.transfer import Model4
from catdog_jax.training.state import in_mode

pytestmark = reference.ignore_keras_warnings

NETWORKS = {"model1": Model1, "model2": Model2, "model3": Model3}
SMALLEST = {"model1": 18, "model2": 8, "model3": 8}
by_network = pytest.mark.parametrize("name", NETWORKS)


def pixels(count, size):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype("uint8")


def pair(name, size, **options) -> tuple[Any, Any]:
    """Keras's network and ours with its weights."""
    keras_model = reference.network(name, size, options.get("num_classes", 0))
    options = options or {"blog_logits": True}
    model = blank(NETWORKS[name], image_size=size, **options)
    reference.copy_network(keras_model, model)
    return keras_model, model


@by_network
def test_logits_equal_keras(name):
    keras_model, model = pair(name, 45)
    images = pixels(2, 45)
    expected = keras_model(images.astype("float32"), training=False).numpy()
    assert expected.shape == (2, 64)
    assert (expected > 0).mean() > 0.2  # a dead network would agree with anything
    assert largest_error(infer(model, images), expected) <= 1e-4


@by_network
def test_logits_without_the_quirk_equal_keras_with_one_layer_more(name):
    keras_model, model = pair(name, 24, num_classes=5)
    images = pixels(3, 24)
    expected = keras_model(images.astype("float32"), training=False).numpy()
    assert expected.shape == (3, 5)
    assert largest_error(infer(model, images), expected) <= 1e-4


def put_gradients(model, images, labels, scale=1.0):
    """Put the gradients of the sum of losses of scaled logits in the place of the weights."""

    @nnx.jit
    def gradients(model):
        def loss(model):
            logits = model(jnp.asarray(images)) * scale
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

        return nnx.grad(loss)(in_mode(model, training=False))

    with jax.default_matmul_precision("highest"):
        nnx.update(model, gradients(model))


@by_network
def test_gradients_equal_keras(name):
    keras_model, model = pair(name, 24)
    images, labels = pixels(4, 24).astype("float32"), np.array([0, 1, 1, 0])
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        logits = keras_model(images, training=False) / 100  # so that the softmax is not saturated
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    expected = tape.gradient(loss, keras_model.trainable_variables)

    put_gradients(model, images, labels, 1 / 100)
    layers = reference.trained_layers(model)
    actual = [variable[...] for layer in layers for variable in (layer.kernel, layer.bias)]
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert largest_error(ours, theirs) <= 1e-4


def initialized(name, seed=0, **options) -> Any:
    return NETWORKS[name](image_size=SMALLEST[name], rngs=nnx.Rngs(seed), **options)


@by_network
def test_kernels_are_glorot_uniform_and_biases_zero(name):
    model = initialized(name)
    for layer in reference.trained_layers(model):
        kernel = np.asarray(layer.kernel[...])
        limit = np.sqrt(6 / (kernel[..., 0].size + kernel[..., 0, :].size))
        assert np.abs(kernel).max() <= limit
        # Five standard errors of a uniform sample's variance.
        assert kernel.var() / (limit**2 / 3) == pytest.approx(1, abs=5 * np.sqrt(0.8 / kernel.size))
        np.testing.assert_array_equal(layer.bias[...], 0)


@by_network
def test_initial_kernels_are_distributed_as_keras(name):
    keras_network = reference.network(name, SMALLEST[name], randomized=False)
    kernels = [array for array in keras_network.get_weights() if array.ndim > 1]
    layers = reference.trained_layers(initialized(name, blog_logits=True))
    for layer, theirs in zip(layers, kernels, strict=True):
        ours = np.asarray(layer.kernel[...])
        assert ours.shape == theirs.shape
        assert stats.kstest(ours.ravel(), theirs.ravel()).pvalue > 1e-4


def test_initial_head_of_model4_is_distributed_as_keras(monkeypatch):
    monkeypatch.setattr(mobilenet_v2, "ROWS", ())
    model: Any = Model4(num_classes=10, alpha=0.35, rngs=nnx.Rngs(0))
    kernel = np.asarray(model.head.kernel[...])
    theirs = reference.import_keras().initializers.GlorotUniform(seed=0)(kernel.shape)
    assert stats.kstest(kernel.ravel(), np.ravel(theirs)).pvalue > 1e-4
    assert np.abs(kernel).max() <= np.sqrt(6 / sum(kernel.shape))
    np.testing.assert_array_equal(model.head.bias[...], 0)


@by_network
def test_initial_weights_depend_on_the_seed_alone(name):
    first, again, other = (
        jax.tree.leaves(nnx.state(initialized(name, seed), nnx.Param)) for seed in (0, 0, 1)
    )
    assert all(map(np.array_equal, first, again))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if np.any(a))


@by_network
def test_too_many_classes_for_the_quirk_are_refused(name):
    with pytest.raises(ValueError, match="too few for 65 classes; set blog_logits=False"):
        NETWORKS[name](num_classes=65, blog_logits=True, rngs=nnx.Rngs(0))


def see_through(name):
    """A network whose logits are its convolutions' features plus one for each dense layer."""
    model = initialized(name, blog_logits=True)
    for layer in reference.trained_layers(model)[3:]:
        layer.kernel[...] = jnp.eye(*layer.kernel.shape)
        layer.bias[...] = jnp.ones(layer.bias.shape)
    return model


@by_network
def test_dropout_has_the_posts_rate_and_place(name):
    rate, dense_layers_before, dense_layers_after = {
        "model1": (0.1, 1, 0),
        "model2": (0.1, 2, 0),
        "model3": (0.2, 0, 2),
    }[name]
    model, images = see_through(name), pixels(100, SMALLEST[name])
    features = np.asarray(infer(model, images)) - dense_layers_before - dense_layers_after
    kept = (features + dense_layers_before) / (1 - rate) + dense_layers_after
    logits = np.asarray(model(jnp.asarray(images, "float32")))
    is_kept = np.isclose(logits, kept, rtol=1e-5)
    np.testing.assert_allclose(logits[~is_kept], dense_layers_after)
    # Where a feature is 0 anyway, model 3's dropout does not show.
    visible = kept > dense_layers_after + 1e-3
    tolerance = 5 * np.sqrt(rate * (1 - rate) / visible.sum())
    assert is_kept[visible].mean() == pytest.approx(1 - rate, abs=tolerance)


# Model 4.


@pytest.fixture(scope="module")
def keras_model4() -> Any:
    keras = reference.import_keras()
    backbone = reference.mobilenet(0.35, (64, 64))
    inputs = keras.Input((64, 64, 3))
    x = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    x = keras.layers.Dropout(0.1)(keras.layers.GlobalMaxPooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(x))
    reference.randomize(model)
    return model


@pytest.fixture(scope="module")
def model4(keras_model4, tmp_path_factory) -> Any:
    path = tmp_path_factory.mktemp("model4") / "model4.keras"
    keras_model4.save(path)
    model = blank(Model4, alpha=0.35)
    load_keras_weights(model, path)
    kernel, bias = keras_model4.get_layer("head").get_weights()
    model.head.kernel[...], model.head.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    return model


def test_model4_equals_keras(keras_model4, model4):
    images = pixels(4, 64)
    expected = keras_model4(images.astype("float32"), training=False)
    assert expected.shape == (4, 1)
    assert largest_error(infer(model4, images), expected) <= 1e-4


def test_model4_leaves_its_backbone_as_it_is(model4):
    weights = nnx.Not(nnx.RngState)
    before = nnx.to_pure_dict(nnx.state(model4, weights))
    infer(model4, pixels(4, 64))
    after = nnx.to_pure_dict(nnx.state(model4, weights))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_model4_drops_a_tenth_of_its_features(model4):
    model, features = nnx.clone(model4), jnp.ones((50, 1280))
    model.head.kernel[...] = jnp.full((1280, 1), 1 / 1280)
    model.head.bias[...] = jnp.zeros(1)
    means = np.asarray(model.classify(features))
    assert means.mean() == pytest.approx(1, abs=5 / np.sqrt(9 * 50 * 1280))
    # A mean of 1280 features, a tenth dropped and the others scaled by 1 / 0.9.
    assert means.std() == pytest.approx(1 / np.sqrt(9 * 1280), rel=0.5)
    still = nnx.view(model, deterministic=True)
    np.testing.assert_allclose(still.classify(features), 1, rtol=1e-5)


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize(("num_classes", "outputs"), [(2, 1), (3, 3)])
def test_model4_has_one_logit_for_two_classes_and_one_each_for_more(num_classes, outputs):
    model: Any = nnx.eval_shape(
        lambda: Model4(num_classes=num_classes, alpha=0.35, rngs=nnx.Rngs(0))
    )
    assert model.head.kernel.shape == (1280, outputs)
    assert model.head.bias.shape == (outputs,)


# Model 5.


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
def test_logits_and_gradients_of_model5_equal_keras():
    """Of all weights, with batch norm in inference mode. Slow: gradients compile for long."""
    blocks = 3
    keras_model, model = reference.model5_pair(0.35, 32, blocks)
    images, labels = pixels(4, 32).astype("float32"), np.array([0, 1, 1, 0])
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        logits = keras_model(images, training=True)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    expected = tape.gradient(loss, keras_model.trainable_variables)
    assert largest_error(infer(model, images), logits) <= 1e-4
    put_gradients(model, images, labels)
    actual, names = reference.arrays5(model), reference.by_name(keras_model.trainable_variables)
    assert len(names) == 3 * (3 * blocks + 1) + 2  # a convolution has a kernel, gamma and beta
    for name, gradient in zip(names, expected, strict=True):
        assert largest_error(actual[name], gradient) <= 1e-4, name


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'model9'.* model1, model2, model3, model4, model5"):
        create_model("model9", rngs=nnx.Rngs(0))
