import math

import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
from flax import nnx

from catdog_jax.data.load import Split
from catdog_jax.errors import InputError
from catdog_jax.models.create import Model4, create_model
from catdog_jax.training.metrics import (
    BLOG_THRESHOLD,
    evaluate,
    losses,
    metric_sums,
    metrics_of,
    predict_logits,
    predicted,
    probabilities,
    wilson_interval,
    with_features,
)


def test_softmax_loss_by_hand() -> None:
    # -log(e^2 / (e^2 + e^0 + e^0)) and ln 3.
    logits = jnp.array([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = [math.log(math.e**2 + 2) - 2, math.log(3)]
    np.testing.assert_allclose(losses(logits, jnp.array([0, 2])), expected, rtol=1e-6)


def test_sigmoid_loss_by_hand() -> None:
    # -log sigmoid(0) = ln 2; a cat at logit 3 costs 3 + log(1 + e^-3).
    logits = jnp.array([[0.0], [3.0]])
    expected = [math.log(2), 3 + math.log1p(math.exp(-3))]
    np.testing.assert_allclose(losses(logits, jnp.array([1, 0])), expected, rtol=1e-6)


@pytest.mark.parametrize(("threshold", "classes"), [(0.5, [0, 0, 1]), (0.0, [0, 1, 1])])
def test_one_logit_is_compared_with_the_threshold(threshold: float, classes: list[int]) -> None:
    # Keras's 0.5 is a logit: 0.4 is a dog at probability one half, and not there.
    assert predicted(jnp.array([[-0.1], [0.4], [0.6]]), threshold).tolist() == classes


@pytest.mark.parametrize("outputs", [1, 64])
def test_accuracy_equals_keras(outputs: int) -> None:
    keras = keras_reference.import_keras()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, outputs)).astype("float32")
    logits[:4, 0] = [0.5, 0.4999, 0.5001, 0.0]  # where the conventions part
    labels = rng.integers(0, 2, 200).astype("int32")
    model = keras.Sequential([keras.Input((outputs,)), keras.layers.Activation("linear")])
    name = "BinaryCrossentropy" if outputs == 1 else "SparseCategoricalCrossentropy"
    loss = getattr(keras.losses, name)(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    for rows in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(None)):
        expected = model.evaluate(logits[rows], labels[rows], verbose=0)
        actual = metrics_of(logits[rows], labels[rows], BLOG_THRESHOLD)
        assert (actual.loss, actual.accuracy) == pytest.approx(expected, rel=1e-5)


def test_several_logits_take_the_largest_even_beyond_the_classes() -> None:
    assert predicted(jnp.array([[0.0, 1.0, 0.5], [0.0, 1.0, 2.0]])).tolist() == [1, 2]


def test_masked_images_count_for_nothing() -> None:
    logits = jnp.array([[1.0, 0.0], [5.0, -5.0], [0.0, 1.0]])
    labels = jnp.array([0, 1, 1])
    mask = jnp.array([True, False, True])
    sums = metric_sums(logits, labels, mask, 0.5)
    assert int(sums["count"]) == 2
    assert int(sums["correct"]) == 2
    assert float(sums["loss"]) == pytest.approx(2 * math.log1p(math.exp(-1)))


def test_padded_batches_give_plain_numpy_over_all_images(drawings: Split) -> None:
    model = create_model("model3", image_size=32, rngs=nnx.Rngs(0))
    logits = np.asarray(model(drawings.images), np.float64)  # pyright: ignore[reportCallIssue]
    log_sum = np.log(np.exp(logits).sum(axis=1))
    expected_loss = (log_sum - logits[np.arange(42), drawings.labels]).mean()
    metrics = evaluate(model, drawings.batches(32))
    assert metrics.count == 42
    assert metrics.correct == (logits.argmax(axis=1) == drawings.labels).sum()
    assert metrics.loss == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(predict_logits(model, drawings.batches(32)), logits, atol=1e-4)


def test_features_of_a_frozen_backbone_give_the_same_logits(drawings: Split) -> None:
    model = Model4(alpha=0.35, rngs=nnx.Rngs(0))
    batches = list(drawings.batches(32))
    features = list(with_features(model, batches))
    assert "image" not in features[0]
    count = len(drawings)
    expected = np.concatenate([model(jnp.asarray(batch["image"])) for batch in batches])[:count]
    for given in (features, batches):
        np.testing.assert_allclose(predict_logits(model, given), expected, rtol=1e-4, atol=1e-6)
    assert evaluate(model, batches).correct == evaluate(model, features).correct


def test_models_without_a_backbone_keep_their_images(drawings: Split) -> None:
    batches = drawings.batches(32)
    assert (
        with_features(create_model("model2", image_size=32, rngs=nnx.Rngs(0)), batches) is batches
    )


def test_evaluating_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="no images"):
        metrics_of(np.zeros((0, 2)), np.zeros(0, int), 0.5)


def test_probabilities_of_one_logit() -> None:
    np.testing.assert_allclose(
        probabilities(np.array([[0.0], [math.log(3)]]), 2), [[0.5, 0.5], [0.25, 0.75]]
    )


def test_probabilities_leave_out_outputs_that_are_no_class() -> None:
    logits = np.log(np.array([[1.0, 3.0, 100.0]]))
    np.testing.assert_allclose(probabilities(logits, 2), [[0.25, 0.75]])


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # 187 of 192 is the post's test result; the ends of the scale must stay on it.
    [(187, 192, 0.9405, 0.9888), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(correct: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=2e-4)
