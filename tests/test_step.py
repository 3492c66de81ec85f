"""One step: plain gradient descent on the unmasked images, and independent random draws."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh
from networks import Linear
from scipy import stats
from steps import jitted_step, mesh_of

from catdog_jax.errors import InputError
from catdog_jax.models.cnn import Model3
from catdog_jax.models.transfer import Model4
from catdog_jax.training import mesh as meshes
from catdog_jax.training.losses import cross_entropy
from catdog_jax.training.mesh import data_mesh, shard
from catdog_jax.training.optimizers import keras_adam
from catdog_jax.training.state import TrainState, create_state, put_weights
from catdog_jax.training.step import Step


def random_batch(size: int, side: int = 8, valid: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8),
        "label": (np.arange(size) % 2).astype(np.int32),
        "mask": np.arange(size) < (size if valid is None else valid),
    }


def run(step: Step, state: TrainState, batch: Any, mesh: Mesh) -> tuple[TrainState, Any]:
    with jax.set_mesh(mesh):
        return step(state, shard(batch, mesh))


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_a_step_is_plain_gradient_descent_on_the_mean_loss_of_unmasked_images(weights: Any) -> None:
    batch, valid = random_batch(16, valid=11), slice(0, 11)
    model = Linear(dropout=0.0, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    factors = np.ones(11) if weights is None else np.array(weights)[batch["label"][valid]]

    def mean_loss(params: Any) -> Any:
        network: Any = nnx.merge(graphdef, params, rest, copy=True)
        logits = network(batch["image"][valid].astype(np.float32))
        return (factors * cross_entropy(logits, jnp.asarray(batch["label"][valid]))).mean()

    expected_loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    mesh = data_mesh(16)
    step, state = jitted_step(model, optax.sgd(0.1), mesh, class_weights=weights)
    new, sums = run(step, state, batch, mesh)
    assert int(sums["count"]) == 11
    assert float(sums["loss"]) / 11 == pytest.approx(float(expected_loss), rel=1e-5)
    for got, want in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_draws_of_all_images_and_steps_are_independent() -> None:
    """Two augmentations and the model each draw a number per image, which a gradient shows."""
    images, steps = 32, 60

    def brighten(channel: int) -> Any:
        return lambda key, x: x.at[:, :, channel].multiply(jax.random.uniform(key))

    class Weights(nnx.Module):
        def __init__(self) -> None:
            self.weight = nnx.Param(jnp.zeros((images, 3)))
            self.rngs = nnx.Rngs(0).dropout.fork()

        def __call__(self, x: Any) -> Any:
            drawn = jax.random.uniform(self.rngs(), (images, 1))
            x = x.at[:, 0, :, 2].multiply(drawn)
            return jnp.sum(x[:, 0] * self.weight[...], axis=(1, 2))[:, None]

    # Returns the gradient as its state and changes no weight.
    show = optax.GradientTransformation(
        lambda params: params,
        lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates),
    )
    batch = {
        "image": np.eye(images, dtype=np.uint8)[:, None, :, None].repeat(3, axis=-1),
        "label": np.zeros(images, np.int32),
        "mask": np.ones(images, bool),
    }
    mesh = data_mesh(images)
    step, state = jitted_step(Weights(), show, mesh, augment=(brighten(0), brighten(1)))
    draws = []
    for _ in range(steps):
        state, _ = run(step, state, batch, mesh)
        # The loss is ln(1 + e^0): its gradient, half the drawn number, over the 32 images.
        draws.append(2 * images * np.asarray(cast(Any, state.opt_state)["weight"][...]))
    drawn = np.stack(draws)  # [steps, images, 3]
    assert len(np.unique(drawn)) > 0.999 * drawn.size  # of 2^23 numbers, two may be equal
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    neighbours = {
        "steps": (drawn[1:], drawn[:-1]),
        "images": (drawn[:, 1:], drawn[:, :-1]),
        "draws": (drawn[..., 1:], drawn[..., :-1]),
    }
    for name, (one, other) in neighbours.items():
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size), name


def test_training_keys_are_not_those_of_initial_weights() -> None:
    model = Linear(rngs=nnx.Rngs(0))
    _, state = create_state(model, keras_adam(), seed=0)
    assert (
        jax.random.key_data(state.key).tolist() != jax.random.key_data(jax.random.key(0)).tolist()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
def test_a_whole_backbone_can_be_trained_on_several_devices() -> None:
    """Its gradients, from loops over two images at a time, are those of one device.

    Slow: the recipes freeze the backbone.
    """
    batch, updated = random_batch(8, 32), []
    for mesh in (mesh_of(4), mesh_of(1)):
        model = Model4(alpha=0.35, rngs=nnx.Rngs(0))
        model.dropout.rate = 0.0  # pyright: ignore[reportAttributeAccessIssue]
        step, state = jitted_step(model, optax.sgd(1e-3), mesh)
        updated.append(run(step, state, batch, mesh)[0].params)
    assert len(jax.tree.leaves(updated[0])) > 30
    for one, other in zip(*map(jax.tree.leaves, updated), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_a_filter_that_selects_nothing_is_refused() -> None:
    model = Linear(rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"nothing to train: .*'hat'.* \(its parts: linear,"):
        create_state(model, keras_adam(), trainable=nnx.PathContains("hat"))


def test_the_average_of_the_weights_by_hand() -> None:
    model, mesh = Linear(rngs=nnx.Rngs(0)), data_mesh(8)
    step, state = jitted_step(model, optax.sgd(0.1), mesh, ema=0.15)
    first = jax.tree.leaves(jax.tree.map(np.array, state.params))
    state, _ = run(step, state, random_batch(8), mesh)
    second = jax.tree.leaves(jax.tree.map(np.array, state.params))
    state, _ = run(step, state, random_batch(8), mesh)
    third = jax.tree.leaves(state.params)
    # The warm-up's decays are 1/10 and 2/11; the second is more than the 0.15 asked for.
    for a, b, c, average in zip(first, second, third, jax.tree.leaves(state.ema), strict=True):
        expected = 0.15 * (0.1 * a + 0.9 * b) + 0.85 * np.asarray(c)
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    put_weights(model, state)
    evaluated = jax.tree.leaves(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, evaluated, jax.tree.leaves(state.ema))


@pytest.mark.parametrize(
    ("platform", "chosen", "precision"),
    [
        ("cpu", None, None),
        ("gpu", None, "HIGHEST"),
        ("tpu", None, "HIGHEST"),
        ("gpu", "high", "HIGH"),
    ],
)
def test_float32_is_float32_on_hardware_that_could_round_it(
    platform: str, chosen: str | None, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all products of the step, those of its gradients included."""
    monkeypatch.setattr(meshes, "platform", lambda: platform)
    mesh = mesh_of(1)
    model = Model3(image_size=8, rngs=nnx.Rngs(0))
    step, state = jitted_step(model, keras_adam(), mesh)
    lower: Any = vars(step)["lower"]
    with jax.set_mesh(mesh), jax.default_matmul_precision(chosen):
        program = lower(state, shard(random_batch(4), mesh)).as_text()
    kinds = ("stablehlo.dot_general", "stablehlo.convolution")
    products = [line for line in program.splitlines() if any(kind in line for kind in kinds)]
    assert len(products) > 12
    carried = [{*re.findall(r"\b(HIGH|HIGHEST)\b", line)} for line in products]
    assert carried == [{precision} if precision else set()] * len(products)
