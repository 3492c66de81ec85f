"""MobileNetV2 against Keras's, with the same random weights and batch statistics."""

from functools import cache

import jax
import keras_reference as reference
import numpy as np
import pytest
from flax import nnx
from keras_reference import infer, largest_error, mobilenet, random_images

from catdog_jax.models import MobileNetV2, load_keras_weights

pytestmark = reference.ignore_keras_warnings


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """`alpha` to our MobileNetV2 with the weights of Keras's; each is made once."""
    folder = tmp_path_factory.mktemp("mobilenet")
    return cache(lambda alpha: reference.moved(mobilenet(alpha, (64, 64)), folder, alpha))


@pytest.mark.parametrize(
    ("alpha", "shape"),
    [
        (0.35, (3, 64, 64)),
        (0.35, (1, 161, 161)),
        (0.35, (1, 97, 203)),
        (1.0, (2, 64, 64)),
    ],
    ids=str,
)
def test_features_equal_keras(moved, alpha, shape):
    images = random_images(*shape)
    expected = mobilenet(alpha, shape[1:])(images, training=False).numpy()
    # Neither dead nor at the ceiling of relu6 all over, or anything would agree.
    assert ((expected > 0) & (expected < 6)).mean() > 0.2
    assert largest_error(infer(moved(alpha), images), expected) <= 1e-4


@pytest.mark.parametrize(("alpha", "classes"), [(0.35, 10), (1.4, 3)])
def test_logits_equal_keras(tmp_path, alpha, classes):
    keras_model = mobilenet(alpha, (32, 32), classes)
    model = reference.moved(keras_model, tmp_path, alpha, include_top=True, classes=classes)
    images = random_images(3, 32, 32)
    expected = keras_model(images, training=False)
    assert expected.shape == (3, classes)
    assert largest_error(infer(model, images), expected) <= 1e-4


# The layers that end the stem, each block and the whole, as Keras names them.
RESIDUAL = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
ENDS = [
    "Conv1_relu",
    "expanded_conv_project_BN",
    *(f"block_{i}_{'add' if i in RESIDUAL else 'project_BN'}" for i in range(1, 17)),
    "out_relu",
]


def test_each_block_equals_keras_on_the_same_input(moved):
    keras, keras_model = reference.import_keras(), mobilenet(0.35, (75, 64))
    ends = keras.Model(keras_model.input, [keras_model.get_layer(name).output for name in ENDS])
    images = random_images(2, 75, 64)
    expected = [output.numpy() for output in ends(images, training=False)]

    @nnx.jit
    def each(model, inputs):
        parts = [model.stem, *model.blocks, model.last]
        return [part(x) for part, x in zip(parts, inputs, strict=True)]

    with jax.default_matmul_precision("highest"):
        outputs = each(moved(0.35), [images, *expected[:-1]])
    errors = map(largest_error, outputs, expected)
    assert {name: e for name, e in zip(ENDS, errors, strict=True) if not e <= 1e-5} == {}


def test_training_mode_equals_keras_and_updates_the_statistics(tmp_path):
    keras_model = mobilenet(0.35, (64, 64))
    model, images = reference.moved(keras_model, tmp_path, 0.35), random_images(4, 64, 64)
    before, after = nnx.clone(model), nnx.clone(model)
    expected = keras_model(images, training=True)
    keras_model.save_weights(tmp_path / "after.weights.h5")
    load_keras_weights(after, tmp_path / "after.weights.h5")

    @nnx.jit
    def train(model, images):
        return model(images, use_running_average=False)

    with jax.default_matmul_precision("highest"):
        actual = train(model, images)
    assert largest_error(actual, expected) <= 1e-3
    states = [nnx.to_pure_dict(nnx.state(m, nnx.BatchStat)) for m in (before, model, after)]
    for old, ours, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        # A thousandth of the way to the batch's own: compare the step, not the sum.
        assert largest_error(ours - old, theirs - old) <= 2e-3


def test_inference_leaves_the_statistics_alone(moved):
    model = moved(0.35)
    before = nnx.to_pure_dict(nnx.state(model))
    infer(model, random_images(3, 64, 64))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)


@pytest.mark.parametrize(
    ("alpha", "count"),
    [
        # As keras.applications counts them without the top.
        (0.35, 410_208),
        (0.5, 706_224),
        (0.75, 1_382_064),
        (1.0, 2_257_984),
        (1.3, 3_766_048),
        (1.4, 4_363_712),
    ],
)
def test_as_many_parameters_as_published(alpha, count):
    model = nnx.eval_shape(lambda: MobileNetV2(alpha, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == count
