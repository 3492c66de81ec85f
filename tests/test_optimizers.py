import jax.numpy as jnp
import numpy as np
import optax
import pytest

from catdog_jax.errors import InputError
from catdog_jax.runs import build
from catdog_jax.runs.experiment import Experiment
from catdog_jax.training.optimizers import DIRECTIONS, keras_adam, make_optimizer


def updates(optimizer: optax.GradientTransformation, gradients: list[float]) -> list[float]:
    weight, state, result = jnp.full((1, 1), 2.0), None, []
    state = optimizer.init(weight)
    for gradient in gradients:
        update, state = optimizer.update(jnp.full((1, 1), gradient), state, weight)
        result.append(float(np.asarray(update)[0, 0]))
    return result


def test_keras_adam_by_hand() -> None:
    # m = 0.1 g, v = 0.001 g²; the step is lr √0.001 / 0.1 · m / (√v + 1e-7), here with g = 1e-7.
    root = 0.001**0.5
    (update,) = updates(keras_adam(1e-3), [1e-7])
    assert update == pytest.approx(-1e-3 * root / (root + 1), rel=1e-4)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_first_step_of_each_optimizer_is_minus_the_learning_rate(name: str) -> None:
    (update,) = updates(make_optimizer(name, learning_rate=0.1, steps=9), [1.0])
    assert update == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        # (1 + cos(π · step / 4)) / 2 from the end of warm-up to the last of 6 steps.
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(schedule, expected) -> None:
    optimizer = make_optimizer("sgd", learning_rate=1.0, steps=6, schedule=schedule, warmup_steps=2)
    steps = updates(optimizer, [1.0, *[-0.9, 0.1, 0.1, 0.1, 0.1]])
    momentum = [1.0, 0.0, 0.1, 0.19, 0.271, 0.3439]
    np.testing.assert_allclose(steps, -np.array(expected) * momentum, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_may_end_before_its_warm_up(schedule) -> None:
    optimizer = make_optimizer(
        "adam", learning_rate=1.0, steps=2, schedule=schedule, warmup_steps=4
    )
    assert updates(optimizer, [1.0, 1.0]) == pytest.approx([0, -0.25], rel=1e-4)


def test_clipping_bounds_the_norm_of_the_gradient() -> None:
    optimizer = make_optimizer("sgd", learning_rate=1.0, steps=1, clip=0.5)
    assert updates(optimizer, [4.0]) == pytest.approx([-0.5])


def test_weight_decay_is_decoupled_in_adamw_and_part_of_the_gradient_elsewhere() -> None:
    options = {"learning_rate": 0.1, "steps": 1, "weight_decay": 0.5}
    (decoupled,) = updates(make_optimizer("adamw", **options), [1.0])
    assert decoupled == pytest.approx(-0.1 * (1 + 0.5 * 2), rel=1e-4)
    (in_gradient,) = updates(make_optimizer("sgd", **options), [1.0])
    assert in_gradient == pytest.approx(-0.1 * (1 + 0.5 * 2))
    (normalized,) = updates(make_optimizer("adam", **options), [1.0])
    assert normalized == pytest.approx(-0.1, rel=1e-4)


def test_biases_do_not_decay() -> None:
    optimizer = make_optimizer("adamw", learning_rate=0.1, steps=1, weight_decay=0.5)
    bias = jnp.ones(1)
    update, _ = optimizer.update(jnp.zeros(1), optimizer.init(bias), bias)
    np.testing.assert_array_equal(np.asarray(update), 0)


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'lion'; choose one of: adam, adamw"):
        make_optimizer("lion", learning_rate=1e-3, steps=1)


@pytest.mark.parametrize(("name", "factor"), [("sgd", 4.0), ("adam", 2.0), ("keras_adam", 2.0)])
def test_the_rate_goes_with_the_batch_size_if_asked_for(name: str, factor: float) -> None:
    def first_step(*, scaled: bool) -> float:
        large = Experiment(
            "model3", optimizer=name, batch_size=128, scale_learning_rate=scaled, learning_rate=0.01
        )
        make = build.training_of(large, None, 2, 1)["optimizer"]
        return updates(make(9), [1.0])[0]

    assert first_step(scaled=True) == pytest.approx(factor * first_step(scaled=False))
