"""Training beside Keras: the same weights, the same batches, and the loss of every step.

Nothing is random here: dropout is off, and flips and rotations are tested in test_augment.py.

All but model 4 in float64, because training magnifies rounding: on raw pixels, two right
implementations whose first losses agree to 1e-7 in float32 can be percents apart after thirty
steps, each relu and maximum that tips over adding its part. In float64 what shows is a difference
of formulas. (Logits and gradients in float32: test_models.py.)
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras_reference as reference
import numpy as np
import optax
import pytest
from flax import nnx
from keras_reference import blank
from steps import jitted_step

from catdog_jax.models.cnn import Model1, Model2, Model3
from catdog_jax.models.keras_weights import load_keras_weights
from catdog_jax.models.transfer import Model4
from catdog_jax.training import optimizers
from catdog_jax.training.depth import last_stages
from catdog_jax.training.losses import cross_entropy, smoothed
from catdog_jax.training.mesh import data_mesh, shard
from catdog_jax.training.optimizers import keras_adam, scale_by_keras_adam
from catdog_jax.training.state import put_weights

pytestmark = reference.ignore_keras_warnings

BATCH = 8
# Adam's settings as float32 can hold them: Keras rounds its usual ones to that even in float64.
EXACT_ADAM = (2**-10, 0.875, 1 - 2**-10)


@pytest.fixture
def _double_precision() -> Iterator[None]:
    keras = reference.import_keras()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with jax.enable_x64(True):
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def batches(count: int, size: int) -> list[dict[str, Any]]:
    """Noise with random labels, so that the loss stays well above zero."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (BATCH, size, size, 3)).astype("uint8"),
            "label": rng.integers(0, 2, BATCH).astype("int32"),
            "mask": np.ones(BATCH, bool),
        }
        for _ in range(count)
    ]


def adam_of(rate: float, *decays: float) -> optax.GradientTransformation:
    return optax.chain(scale_by_keras_adam(*decays), optax.scale_by_learning_rate(rate))


def our_history(
    model: Any, optimizer: Any, data: list[dict[str, Any]], **options: Any
) -> np.ndarray:
    """Loss and accuracy of each step; `model` is trained in place."""
    model.dropout.rate = 0.0
    mesh = data_mesh(BATCH)
    step, state = jitted_step(model, optimizer, mesh, **options)
    rows = []
    with jax.default_matmul_precision("highest"), jax.set_mesh(mesh):
        for batch in data:
            state, sums = step(state, shard(batch, mesh))
            rows.append((float(sums["loss"]) / BATCH, int(sums["correct"]) / BATCH))
    put_weights(model, state)
    return np.array(rows)


def keras_history(model: Any, loss: Any, optimizer: Any, data: list[dict[str, Any]]) -> np.ndarray:
    """The same, as Keras's own training loop computes it."""
    keras = reference.import_keras()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model.compile(optimizer, loss, metrics=["accuracy"])
    rows = []
    for batch in data:
        model.reset_metrics()
        rows.append(
            model.train_on_batch(batch["image"].astype(keras.config.floatx()), batch["label"])
        )
    return np.array(rows)


# At 64 pixels model 1 dies on this noise with seed 2, all outputs zero, in Keras in the same step.
@pytest.mark.slow  # float64 convolutions
@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize(
    ("make", "seed", "dies"), [(Model1, 2, True), (Model2, 2, False), (Model3, 3, False)]
)
def test_thirty_steps_of_adam_equal_keras(make, seed, dies):
    keras, size = reference.import_keras(), 64
    model = make(image_size=size, blog_logits=True, rngs=nnx.Rngs(seed))
    keras_model = reference.network(make.__name__.lower(), size)
    layers = reference.trained_layers(model)
    keras_model.set_weights(
        [np.asarray(part[...]) for layer in layers for part in (layer.kernel, layer.bias)]
    )
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    data = batches(30, size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = keras_history(keras_model, loss, keras.optimizers.Adam(*EXACT_ADAM), data)
    actual = our_history(model, adam_of(*EXACT_ADAM), data, threshold=0.5)
    assert (expected[-1, 0] == pytest.approx(np.log(64))) == dies
    np.testing.assert_allclose(actual[:, 0], expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(actual[:, 1], expected[:, 1])


@pytest.mark.slow
def test_a_hundred_steps_of_model_4s_head_equal_keras(tmp_path):
    """Slow: at full width, the backbone in every step."""
    keras, size = reference.import_keras(), 64
    keras_model = reference.network("model4", size)
    keras_model.save(tmp_path / "model4.keras")
    model = blank(Model4)
    load_keras_weights(model, tmp_path / "model4.keras")
    kernel, bias = keras_model.layers[-1].get_weights()
    model.head.kernel[...], model.head.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    data = batches(10, size) * 10
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert len(keras_model.trainable_variables) == 2  # the head's
    expected = keras_history(keras_model, loss, keras.optimizers.Adam(1e-4), data)
    head = nnx.PathContains("head")
    actual = our_history(model, keras_adam(1e-4), data, trainable=head, threshold=0.5)
    # Ten batches, ten times: training has changed the loss of each.
    assert np.abs(expected[90:, 0] / expected[:10, 0] - 1).mean() > 0.02
    np.testing.assert_allclose(actual[:, 0], expected[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(actual[:, 1], expected[:, 1])


@pytest.mark.usefixtures("_double_precision", "short_backbone")
@pytest.mark.parametrize("last", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_ten_steps_of_model_5_equal_keras(last, monkeypatch):
    """With its recipe's optimizer, schedule and loss; all of it, or the last three stages."""
    keras, size, blocks = reference.import_keras(), 32, 3
    # With Keras's place for epsilon, which counts in the first steps.
    adam = partial(scale_by_keras_adam, *EXACT_ADAM[1:])
    monkeypatch.setattr(optimizers, "DIRECTIONS", {"adamw": adam})
    optimizer = optimizers.make_optimizer(
        "adamw",
        learning_rate=EXACT_ADAM[0],
        steps=10,
        schedule="cosine",
        warmup_steps=2,
        weight_decay=0.125,
    )
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, 8, warmup_target=EXACT_ADAM[0], warmup_steps=2
    )
    theirs = keras.optimizers.AdamW(rate, 0.125, *EXACT_ADAM[1:])
    theirs.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])

    keras_model, model = reference.model5_pair(0.35, size, blocks)
    trainable = nnx.Param
    if last is not None:
        reference.freeze_before(keras_model, f"block_{blocks - 1}_expand")
        trainable = last_stages(model, last)
    before, data = reference.arrays5(model), batches(10, size)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.125)
    one_hot = [{**batch, "label": np.eye(2)[batch["label"]]} for batch in data]
    expected = keras_history(keras_model, loss, theirs, one_hot)
    actual = our_history(
        model, optimizer, data, trainable=trainable, loss=smoothed(cross_entropy, 0.125, 2)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    trained = reference.by_name(keras_model.trainable_variables)
    assert len(trained) == (3 * (3 * blocks + 1) + 2 if last is None else 3 * 4 + 2)
    after = reference.arrays5(model)
    for name, variable in reference.by_name(keras_model.weights).items():
        if name in trained:
            change = variable.numpy() - before[name]
            assert reference.largest_error(after[name] - before[name], change) <= 1e-4, name
        else:
            np.testing.assert_array_equal(after[name], before[name])
            np.testing.assert_array_equal(variable.numpy(), before[name])


def test_adam_equals_keras_with_default_decays_for_gradients_of_any_size():
    keras = reference.import_keras()
    rng = np.random.default_rng(0)
    scales = 10.0 ** np.arange(-10, 5)
    variable = keras.Variable(np.zeros(15), dtype="float32")
    theirs = keras.optimizers.Adam(1e-3)
    theirs.build([variable])
    ours = keras_adam()
    largest = np.zeros(15)
    weights = jnp.zeros(15, jnp.float32)
    state = ours.init(weights)
    update = jax.jit(ours.update)
    for _ in range(40):
        gradient = (rng.normal(size=15) * scales).astype("float32")
        theirs.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        updates, state = update(jnp.asarray(gradient), state, weights)
        weights = jnp.asarray(optax.apply_updates(weights, updates))
        # Relative to the largest value so far, because some weights return to zero.
        largest = np.maximum(largest, np.abs(variable.numpy()))
        assert (np.abs(weights - variable.numpy()) <= 1e-4 * largest).all()
