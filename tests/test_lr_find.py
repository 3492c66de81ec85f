"""The learning-rate finder, on a bowl whose good rates are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import LINEAR, TRAIN
from PIL import Image

from catdog_jax.cli import main
from catdog_jax.data.splits import Splits
from catdog_jax.errors import InputError, RunError
from catdog_jax.runs.build import load_splits
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.lr_find import RateCurve, find_learning_rate


class Bowl(nnx.Module):
    """One weight, whatever the photo."""

    def __init__(self, *, start: float = 1.0, rngs: nnx.Rngs) -> None:
        del rngs
        self.weight = nnx.Param(jnp.array([start]))

    def __call__(self, images: Any) -> Any:
        return jnp.broadcast_to(self.weight[...], (len(images), 1))


def narrow(logits: Any, labels: Any) -> Any:
    """Its second derivative is 100."""
    del labels
    return 50 * logits[:, 0] ** 2


def wide(logits: Any, labels: Any) -> Any:
    """Its second derivative is 1."""
    return narrow(logits, labels) / 100


def flat(logits: Any, labels: Any) -> Any:
    return 1 + 0 * narrow(logits, labels)


def broken(logits: Any, labels: Any) -> Any:
    return jnp.nan * narrow(logits, labels)


def sgd(learning_rate: float) -> optax.GradientTransformation:
    return optax.sgd(learning_rate)


fixed = optax.sgd(0.1)

HERE = str(Path(__file__))
BOWL = replace(LINEAR, model=f"{HERE}:Bowl", loss=f"{HERE}:wide", optimizer=f"{HERE}:sgd")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(BOWL)


@pytest.mark.parametrize(("loss", "curvature"), [("narrow", 100.0), ("wide", 1.0)])
def test_gradient_descent_in_a_bowl_gets_a_fast_and_stable_rate(
    loss: str, curvature: float, splits: Splits
) -> None:
    """The fastest rate is 1 / curvature; from twice that on it diverges."""
    experiment = replace(BOWL, loss=f"{HERE}:{loss}", learning_rate=123.0, patience=1)
    curve = find_learning_rate(experiment, splits, least=1e-6, most=1e3)
    assert curve.suggestion is not None
    assert 0.05 < curve.suggestion * curvature < 1
    assert 2 < curve.rates[-1] * curvature < 10  # stopped when it diverged
    assert len(curve.rates) == len(curve.losses) < 100
    np.testing.assert_allclose(curve.rates[:2], [1e-6, 1e-6 * 1e9 ** (1 / 99)])
    assert curve.verdict == f"suggestion: --learning-rate {curve.suggestion:.1e}"


def test_the_loss_of_each_step_is_that_of_its_batch(splits: Splits) -> None:
    """Batches of 16 of 48 photos: an epoch is three steps. The weight is known at each."""
    curve = find_learning_rate(BOWL, splits, least=1e-3, most=0.5, steps=50)
    weight, expected = 1.0, []
    for rate in curve.rates:
        expected.append(weight**2 / 2)
        weight -= rate * weight
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-3)


def test_the_built_in_optimizers_and_settings_of_a_run_are_tried(splits: Splits) -> None:
    """Adam's steps are as long as its rate: from 1 to the bottom in few steps of 0.1."""
    adam = replace(BOWL, optimizer="adamw", schedule="cosine", warmup=1.0, head_epochs=2)
    curve = find_learning_rate(adam, splits)
    assert curve.suggestion is not None
    assert 0.01 < curve.suggestion < 0.5


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_loss_that_never_falls_gives_no_suggestion(noise: float) -> None:
    losses = 0.7 + noise * np.random.default_rng(0).standard_normal(100)
    curve = RateCurve(np.geomspace(1e-6, 1, 100), losses)
    assert curve.suggestion is None
    assert curve.verdict.startswith("no suggestion: the loss never fell clearly below its start")
    rising = RateCurve(curve.rates[:3], np.array([1.0, 10.0, 100.0]))
    assert rising.suggestion is None


def test_the_suggestion_is_where_nine_tenths_of_the_fall_are_done() -> None:
    """From 3 to 1 between 1e-4 and 1e-2, evenly over its logarithm; from 1e-1 on it diverges."""
    rates = np.geomspace(1e-6, 1, 601)
    losses = np.interp(np.log10(rates), [-4, -2, -1, 0], [3, 1, 1, 50])
    assert RateCurve(rates, losses).suggestion == pytest.approx(10**-2.2, rel=0.1)
    late = RateCurve(10 * rates, losses)
    assert late.suggestion == pytest.approx(10**-1.2, rel=0.1)


def test_what_cannot_be_tried_is_refused(splits: Splits) -> None:
    for least, most, steps in ((0, 1, 100), (1, 1, 100), (1e-3, float("inf"), 100), (1e-3, 1, 49)):
        with pytest.raises(InputError, match="0 < least < most, and 50 steps or more"):
            find_learning_rate(BOWL, splits, least=least, most=most, steps=steps)
    with pytest.raises(InputError, match=r"test_lr_find.py:fixed takes no learning_rate"):
        find_learning_rate(replace(BOWL, optimizer=f"{HERE}:fixed"), splits)
    with pytest.raises(RunError, match="the loss became nan in step 1"):
        find_learning_rate(replace(BOWL, loss=f"{HERE}:broken"), splits)


def arguments(experiment: Experiment, out: Path) -> list[str]:
    code = ["--loss", experiment.loss, "--optimizer", experiment.optimizer]
    return ["lr-find", experiment.model, *TRAIN, *code, "--out", str(out)]


@pytest.mark.parametrize(
    ("loss", "says"), [("wide", r"suggestion: --learning-rate "), ("flat", "no suggestion: ")]
)
def test_the_command_prints_the_suggestion_and_draws_the_curve(
    loss: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = replace(BOWL, loss=f"{HERE}:{loss}")
    assert main([*arguments(experiment, tmp_path), "--most", "100", "--steps", "60"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(says)
    assert f"the curve is in {tmp_path}/lr_find.png" in printed
    with Image.open(tmp_path / "lr_find.png") as picture:
        assert np.asarray(picture).std() > 10


def test_settings_that_the_command_chooses_are_no_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--learning-rate", "--epochs", "--schedule"):
        assert main([*arguments(BOWL, tmp_path), option, "1"]) == 2
        assert f"no option {option}" in capsys.readouterr().err
    assert main([*arguments(BOWL, tmp_path), "--steps", "3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["lr-find"]) == 2
    assert "which model? model1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
