import math
from typing import Any

import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
from flax import nnx
from networks import Linear

from catdog_jax.data.splits import Split
from catdog_jax.errors import InputError
from catdog_jax.models.create import create_model
from catdog_jax.training.evaluation import evaluate, predict_logits
from catdog_jax.training.losses import cross_entropy, smoothed
from catdog_jax.training.metrics import (
    metric_sums,
    metrics_of,
    predicted,
    probabilities,
    wilson_interval,
)


def test_softmax_loss_by_hand() -> None:
    # -log(e^2 / (e^2 + e^0 + e^0)) and ln 3.
    logits = jnp.array([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = [math.log(math.e**2 + 2) - 2, math.log(3)]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0, 2])), expected, rtol=1e-6)


def test_sigmoid_loss_by_hand() -> None:
    # -log sigmoid(0) = ln 2; a cat at logit 3 costs 3 + log(1 + e^-3).
    logits = jnp.array([[0.0], [3.0]])
    expected = [math.log(2), 3 + math.log1p(math.exp(-3))]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1, 0])), expected, rtol=1e-6)


@pytest.mark.parametrize(("threshold", "classes"), [(0.5, [0, 0, 1]), (0.0, [0, 1, 1])])
def test_one_logit_is_compared_with_the_threshold(threshold: float, classes: list[int]) -> None:
    # Keras's threshold of 0.5 is a logit: 0.4 is a cat there, and a dog by its probability.
    assert predicted(jnp.array([[-0.1], [0.4], [0.6]]), threshold).tolist() == classes


@pytest.mark.parametrize("outputs", [1, 64])
def test_accuracy_equals_keras(outputs: int) -> None:
    keras = keras_reference.import_keras()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, outputs)).astype("float32")
    logits[:4, 0] = [0.5, 0.4999, 0.5001, 0.0]  # where the conventions differ
    labels = rng.integers(0, 2, 200).astype("int32")
    model = keras.Sequential([keras.Input((outputs,)), keras.layers.Activation("linear")])
    name = "BinaryCrossentropy" if outputs == 1 else "SparseCategoricalCrossentropy"
    loss = getattr(keras.losses, name)(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    for rows in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(None)):
        expected = model.evaluate(logits[rows], labels[rows], verbose=0)
        actual = metrics_of(logits[rows], labels[rows], 0.5)
        assert (actual.loss, actual.accuracy) == pytest.approx(expected, rel=1e-5)


def test_several_logits_take_the_largest_even_beyond_the_classes() -> None:
    assert predicted(jnp.array([[0.0, 1.0, 0.5], [0.0, 1.0, 2.0]])).tolist() == [1, 2]


def test_masked_images_do_not_count() -> None:
    logits = jnp.array([[1.0, 0.0], [5.0, -5.0], [0.0, 1.0]])
    labels = jnp.array([0, 1, 1])
    mask = jnp.array([True, False, True])
    sums = metric_sums(cross_entropy(logits, labels), logits, labels, mask, 0.5)
    assert int(sums["count"]) == 2
    assert int(sums["correct"]) == 2
    assert float(sums["loss"]) == pytest.approx(2 * math.log1p(math.exp(-1)))


def test_soft_labels_by_hand() -> None:
    # Over three outputs of which two are classes: 0.25 · -log p₀ + 0.75 · -log p₁.
    logits, labels = jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[0.25, 0.75]])
    log_sum = math.log(math.e + math.e**2 + 1)
    expected = 0.25 * (log_sum - 1) + 0.75 * (log_sum - 2)
    np.testing.assert_allclose(cross_entropy(logits, labels), [expected], rtol=1e-6)
    # One logit takes shares of both classes, or of the second alone.
    logit = jnp.array([[1.0]])
    by_hand = 0.25 * 1 + math.log1p(math.exp(-1))
    for shares in (labels, jnp.array([0.75])):
        np.testing.assert_allclose(cross_entropy(logit, shares), [by_hand], rtol=1e-6)


def test_label_smoothing_by_hand() -> None:
    loss = smoothed(cross_entropy, 0.1, 2)
    logits = jnp.array([[1.0, 2.0]])
    log_sum = math.log(math.e + math.e**2)
    expected = 0.05 * (log_sum - 1) + 0.95 * (log_sum - 2)
    for labels in (jnp.array([1]), jnp.array([[0.0, 1.0]])):
        np.testing.assert_allclose(loss(logits, labels), [expected], rtol=1e-6)


def test_the_class_of_a_soft_label_is_its_largest() -> None:
    logits, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.6, 0.4], [0.6, 0.4]])
    assert metrics_of(logits, labels, 0.0).correct == 1


def test_padded_batches_equal_plain_numpy_over_all_images(drawings: Split) -> None:
    model = create_model("model3", image_size=32, blog_logits=True, rngs=nnx.Rngs(0))
    still = nnx.view(model, deterministic=True)
    logits = np.asarray(still(jnp.asarray(drawings.images[:], jnp.float32)), np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    expected_loss = (log_sum - logits[np.arange(42), drawings.labels]).mean()
    metrics = evaluate(model, drawings)
    assert metrics.count == 42
    assert metrics.correct == (logits.argmax(axis=1) == drawings.labels).sum()
    assert metrics.loss == pytest.approx(expected_loss, rel=1e-5)
    for images in (drawings, drawings.images):
        np.testing.assert_allclose(predict_logits(model, images), logits, atol=1e-4)


def test_arrays_are_evaluated_like_a_split(drawings: Split) -> None:
    model = Linear(rngs=nnx.Rngs(0))
    arrays = np.asarray(drawings.images), drawings.labels
    assert evaluate(model, arrays) == evaluate(model, drawings)
    assert predict_logits(model, arrays[0]).shape == (42, 2)


def test_evaluation_draws_nothing_and_changes_nothing(drawings: Split) -> None:
    model = Linear(rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.RngCount))
    assert evaluate(model, drawings) == evaluate(model, drawings)
    assert nnx.to_pure_dict(nnx.state(model, nnx.RngCount)) == before


@pytest.mark.parametrize("change", ["size", "labels", "negative", "soft", "shares", "loss", "none"])
def test_data_that_do_not_fit_the_model_are_refused(change: str, drawings: Split) -> None:
    if change == "size":
        model: nnx.Module = create_model("model3", image_size=32, rngs=nnx.Rngs(0))
    else:
        model = Linear(num_classes=1 if change == "labels" else 2, rngs=nnx.Rngs(0))
    images, labels = np.asarray(drawings.images), drawings.labels
    images, labels, said = {
        "size": (images[:, :24, :24], labels, "Model3 does not take images of 24×24×3"),
        "labels": (images, labels + 1, "labels go from 1 to 2, but Linear has 1 "),
        "negative": (images, labels - 1, "labels must be 0 or more"),
        "soft": (images, np.eye(3)[labels], "labels have 3 classes, but Linear has 2"),
        "shares": (images, labels / 2, r"must be whole numbers \[n\] or .*, not float64\[42\]"),
        "loss": (images, labels, r"one number per image, but .* \(\)"),
        "none": (images[:0], labels[:0], "there are no images"),
    }[change]
    options: Any = {"loss": lambda logits, labels: logits.mean()} if change == "loss" else {}
    with pytest.raises(InputError, match=said):
        evaluate(model, (images, labels), **options)


def test_metrics_of_no_images_are_refused() -> None:
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
