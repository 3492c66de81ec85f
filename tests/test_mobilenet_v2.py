"""MobileNetV2 against Keras's, with the same random weights and batch statistics."""

import zipfile

import jax
import keras_reference as reference
import numpy as np
import pytest
from flax import nnx
from keras_reference import largest_error, mobilenet, random_images
from scipy import stats
from steps import mesh_of

from catdog_jax.data.arrays import as_split
from catdog_jax.data.photo import decode_bytes
from catdog_jax.models.keras_weights import load_keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.models.transfer import Model4
from catdog_jax.training.features import features_of

pytestmark = reference.ignore_keras_warnings


# The layers that end the stem, each block and the whole, as Keras names them.
RESIDUAL = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
ENDS = [
    "Conv1_relu",
    "expanded_conv_project_BN",
    *(f"block_{i}_{'add' if i in RESIDUAL else 'project_BN'}" for i in range(1, 17)),
    "out_relu",
]


def ends_of(keras_model):
    """Keras's outputs at `ENDS`, and what it gives in the end: features or logits."""
    keras = reference.import_keras()
    outputs = [keras_model.get_layer(name).output for name in ENDS]
    return keras.Model(keras_model.input, [*outputs, keras_model.output])


@nnx.jit
def our_ends(model, images):
    """The same of our network."""
    outputs = []
    for part in [model.stem, *model.blocks, model.last]:
        outputs.append(part(outputs[-1] if outputs else images))
    # Compiling it again takes as long as its parts, and features are what the last part gives.
    return [*outputs, outputs[-1] if model.classifier is None else model(images)]


# Every width that Keras has weights for, and sizes that are odd or not square.
@pytest.mark.parametrize(
    ("alpha", "size", "classes", "kind"),
    [
        (0.35, (45, 67), 10, ".weights.h5"),
        # Slow: the same code at other widths.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1.0, (160, 160), None, ".keras"),
                (0.5, (128, 128), 10, ".keras"),
                (0.75, (96, 96), 1000, ".h5"),
                (1.3, (96, 96), 10, ".keras"),
                (1.4, (161, 161), 3, ".h5"),
            )
        ),
    ],
    ids=str,
)
def test_every_block_and_the_end_equal_keras(tmp_path, alpha, size, classes, kind):
    keras_model, images = mobilenet(alpha, size, classes), random_images(2, *size)
    options = {} if classes is None else {"include_top": True, "classes": classes}
    model = reference.moved(keras_model, tmp_path / f"moved{kind}", alpha, **options)
    expected = [output.numpy() for output in ends_of(keras_model)(images, training=False)]
    assert expected[-1].ndim == (4 if classes is None else 2)
    # If relu6 were 0 or 6 everywhere, any weights would give the same.
    assert ((expected[18] > 0) & (expected[18] < 6)).mean() > 0.2
    with jax.default_matmul_precision("highest"):
        errors = map(largest_error, our_ends(model, images), expected)
    assert {n: e for n, e in zip([*ENDS, "the end"], errors, strict=True) if not e <= 1e-4} == {}


@pytest.mark.parametrize("weights", ["1.0_imagenet_dequantized", "1.0_160_dogs"])
def test_features_in_bfloat16_are_within_a_hundredth(shared, weights):
    """Of pretrained weights, on real photos; in training and inference, they come from here."""
    model = Model4(rngs=nnx.Rngs(0))
    load_keras_weights(model.backbone, shared / f"weights/mobilenet_v2_{weights}_no_top.h5")
    with zipfile.ZipFile(shared / "data/cats_and_dogs_filtered.zip") as photos:
        names = [name for name in photos.namelist() if "/validation/" in name and ".jpg" in name]
        images = np.stack([decode_bytes(photos.read(name), 160) for name in names[::63]])
    split = as_split((images, np.zeros(len(images), int)))
    expected, rounded = (
        features_of(model, split, 16, dtype, mesh_of(1)) for dtype in ("float32", "bfloat16")
    )
    assert 1e-3 < np.abs(rounded - expected).mean() / np.abs(expected).mean() < 0.01


@pytest.mark.slow
def test_each_block_equals_keras_on_the_same_input(tmp_path):
    """Slow: ten times stricter than the comparison of the whole, where errors add up."""
    images, keras_model = random_images(2, 75, 64), mobilenet(0.35, (75, 64))
    ends = ends_of(keras_model)
    expected = [output.numpy() for output in ends(images, training=False)][: len(ENDS)]

    model = reference.moved(keras_model, tmp_path / "moved.keras", 0.35)

    @nnx.jit
    def each(model, inputs):
        parts = [model.stem, *model.blocks, model.last]
        return [part(x) for part, x in zip(parts, inputs, strict=True)]

    with jax.default_matmul_precision("highest"):
        outputs = each(model, [images, *expected[:-1]])
    errors = map(largest_error, outputs, expected)
    assert {name: e for name, e in zip(ENDS, errors, strict=True) if not e <= 1e-5} == {}


@pytest.mark.slow
def test_initial_weights_are_distributed_as_keras(tmp_path):
    """Slow: only training from scratch uses them."""
    keras = reference.import_keras()
    keras.utils.set_random_seed(0)
    keras_model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=20)
    keras_model.save_weights(tmp_path / "initial.weights.h5")
    options = {"include_top": True, "classes": 20}
    theirs = reference.blank(MobileNetV2, 0.35, **options)
    load_keras_weights(theirs, tmp_path / "initial.weights.h5")
    ours = MobileNetV2(0.35, rngs=nnx.Rngs(0), **options)
    states = [nnx.to_flat_state(nnx.state(model)) for model in (ours, theirs)]
    for (path, ours), (_, theirs) in zip(*states, strict=True):
        drawn, expected = np.asarray(ours[...]), np.asarray(theirs[...])
        if path[-1] != "kernel":
            np.testing.assert_array_equal(drawn, expected, err_msg=str(path))
            continue
        # Glorot uniform; a depthwise kernel's fans are 9 and 9 times its channels, either way.
        limit = np.sqrt(6 / (drawn[..., 0].size + drawn[..., 0, :].size))
        assert np.abs(drawn).max() <= limit * (1 + 1e-6), path
        assert np.abs(expected).max() <= limit * (1 + 1e-6), path
        assert stats.kstest(drawn.ravel(), expected.ravel()).pvalue > 1e-4, path


@pytest.mark.slow
def test_training_mode_equals_keras_and_updates_the_statistics(tmp_path):
    """Slow: only training from scratch uses it."""
    keras_model = mobilenet(0.35, (64, 64))
    model = reference.moved(keras_model, tmp_path / "moved.weights.h5", 0.35)
    images = random_images(4, 64, 64)
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
        # A thousandth of the way to the batch's own: compare this change, not the statistics.
        assert largest_error(ours - old, theirs - old) <= 2e-3


@pytest.mark.parametrize(
    ("alpha", "count"),
    [
        # As keras.applications counts them without the top.
        (1.0, 2_257_984),
        (1.4, 4_363_712),
        # Slow: the same code at other widths.
        pytest.param(0.35, 410_208, marks=pytest.mark.slow),
        pytest.param(0.5, 706_224, marks=pytest.mark.slow),
        pytest.param(0.75, 1_382_064, marks=pytest.mark.slow),
        pytest.param(1.3, 3_766_048, marks=pytest.mark.slow),
    ],
)
def test_as_many_parameters_as_published(alpha, count):
    model = nnx.eval_shape(lambda: MobileNetV2(alpha, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == count
