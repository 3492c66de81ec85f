"""Model 5 and what it is made of: stages, rates by depth, phases, runs that start from another."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import LINEAR, SETTINGS, silent, timeless
from networks import Linear, TwoParts

from catdog_jax.data.load import load_data
from catdog_jax.data.splits import Split
from catdog_jax.errors import InputError
from catdog_jax.files import sha256
from catdog_jax.models.ready_made import WEIGHTS, ready_made
from catdog_jax.models.transfer import Model5
from catdog_jax.runs import build, report
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.initial import initial_model
from catdog_jax.runs.phases import phase_of, phases_of
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import Run, load_run
from catdog_jax.runs.run_folder import absolute, inputs_of
from catdog_jax.runs.runner import resume, run
from catdog_jax.training.depth import last_stages, scale_by_depth
from catdog_jax.training.evaluation import evaluate, predict_logits
from catdog_jax.training.features import features_of
from catdog_jax.training.mesh import data_mesh

MODEL5 = replace(
    RECIPES["model5"],
    **SETTINGS | {"epochs": 2},
    model_options=("alpha=0.35",),
    weights="none",
    head_epochs=1,
    augment=("mirror",),
)
TWO_PHASES = replace(
    LINEAR,
    model=f"{networks.__file__}:TwoParts",
    head_epochs=2,
    epochs=4,
    optimizer="adamw",
    schedule="cosine",
    layer_decay=0.5,
    augment=("mirror",),
    ema=0.9,
)


def params_of(model: nnx.Module) -> dict[Any, np.ndarray]:
    return {path: np.array(x[...]) for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param))}


# Stages.


@pytest.fixture
def model(short_backbone: None) -> Model5:
    del short_backbone
    return nnx.eval_shape(lambda: Model5(alpha=0.35, rngs=nnx.Rngs(0)))


def paths(state: Any) -> list[Any]:
    return [path for path, _ in nnx.to_flat_state(state)]


def test_the_stages_hold_all_parameters_once(model: Model5) -> None:
    for path in paths(nnx.state(model, nnx.Param)):
        assert sum(path[: len(stage)] == stage for stage in model.stages) == 1
    assert model.stages[:2] == [("backbone", "stem"), ("backbone", "blocks", 0)]
    assert model.stages[-2:] == [("backbone", "last"), ("head",)]


@pytest.mark.parametrize(
    ("count", "first"), [(1, ("head",)), (2, ("backbone", "last")), (6, ("backbone", "stem"))]
)
def test_the_last_stages_are_chosen(model: Model5, count: int, first: Any) -> None:
    experiment = replace(MODEL5, trainable=f"last={count}")
    _, trained, _ = nnx.split(model, build.trainable_of(experiment, model), ...)
    expected = model.stages[-count:]
    assert expected[0] == first
    wanted = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    assert set(paths(trained)) == {
        path for path in paths(wanted) if any(path[: len(s)] == s for s in expected)
    }


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("99", 99), ("many", 0), ("-1", 0)])
def test_there_are_only_so_many_stages(model: Model5, text: str, count: int) -> None:
    with pytest.raises(InputError, match=rf"last={count}: Model5 has 6 stages"):
        build.trainable_of(replace(MODEL5, trainable=f"last={text}"), model)


def test_stages_must_be_named_and_complete() -> None:
    with pytest.raises(InputError, match="Linear does not name its stages"):
        scale_by_depth(Linear(rngs=nnx.Rngs(0)), 0.5)

    class Forgetful(TwoParts):
        stages = (("head",),)

    with pytest.raises(InputError, match=r"the stages of Forgetful leave out backbone\.bias"):
        last_stages(Forgetful(rngs=nnx.Rngs(0)), 1)


def test_each_stage_learns_at_its_own_rate(model: Model5) -> None:
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, "float32"), nnx.state(model, nnx.Param))
    scaled: Any
    scaled, _ = scale_by_depth(model, 0.5).update(ones, optax.EmptyState())
    rates = {path[:3]: set(np.unique(x[...])) for path, x in nnx.to_flat_state(scaled)}
    assert rates["head", "kernel"] == {1.0}
    assert rates["backbone", "last", "conv"] == {0.5}
    assert rates["backbone", "blocks", 2] == {0.25}
    assert rates["backbone", "stem", "norm"] == {0.5**5}


def test_weight_decay_follows_the_rate_of_its_stage() -> None:
    """At a gradient of zero only AdamW's weight decay is left: rate × decay × weight."""
    model = TwoParts(rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    make = build.training_of(
        replace(TWO_PHASES, schedule="constant", weight_decay=0.1, learning_rate=0.01), model, 2, 1
    )["optimizer"]
    optimizer = make(10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    found = {path: np.array(x[...]) for path, x in nnx.to_flat_state(updates)}
    weights = params_of(model)
    for part, rate in (("backbone", 0.5), ("head", 1.0)):
        kernel = part, "kernel"
        np.testing.assert_allclose(found[kernel], -0.001 * rate * weights[kernel], rtol=1e-5)
        assert not found[part, "bias"].any()


# Phases.


def test_phases_are_experiments_of_their_own() -> None:
    head, rest = phases_of(TWO_PHASES)
    assert (head.start, head.experiment.epochs, head.experiment.trainable) == (0, 2, "head")
    changed = {"augment": (), "learning_rate": 1e-3, "schedule": "constant", "layer_decay": 1.0}
    assert {name: getattr(head.experiment, name) for name in changed} == changed
    assert (rest.start, rest.experiment) == (2, TWO_PHASES)
    parts = [phase_of(TWO_PHASES, epoch).trainable for epoch in (1, 2, 3, 4)]
    assert parts == ["head", "head", "all", "all"]


@pytest.mark.parametrize("head_epochs", [0, 4, 9])
def test_a_training_may_have_one_phase(head_epochs: int) -> None:
    (phase,) = phases_of(replace(TWO_PHASES, head_epochs=head_epochs))
    assert (phase.start, phase.experiment.epochs) == (0, 4)
    assert phase.experiment.trainable == ("head" if head_epochs else "all")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(TWO_PHASES, tmp_path_factory.mktemp("runs") / "whole", log=silent)


def check_same(again: Run, whole: Run) -> None:
    """The history, the results and all weights are the same, bit for bit."""
    assert timeless(again.history) == timeless(whole.history)
    assert again.metrics is not None
    assert whole.metrics is not None
    for result in ("best", "validation", "test", "test_last"):
        assert again.metrics[result] == whole.metrics[result]
    for which in ("best", "last"):
        weights, others = (
            params_of(load_run(one.folder, checkpoint=which).model) for one in (again, whole)
        )
        for path, array in weights.items():
            np.testing.assert_array_equal(others[path], array)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_resumes_in_each_phase(epoch: int, whole: Run, tmp_path: Path) -> None:
    """In the first, between the two, and in the second."""

    def stop(line: str) -> None:
        if line.startswith(f"epoch  {epoch}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TWO_PHASES, tmp_path / "run", log=stop)
    check_same(resume(tmp_path / "run", log=silent), whole)


def test_a_run_of_the_head_alone_is_lengthened_by_the_second_phase(
    whole: Run, tmp_path: Path
) -> None:
    run(replace(TWO_PHASES, epochs=1), tmp_path / "run", log=silent)
    lines: list[str] = []
    check_same(resume(tmp_path / "run", epochs=4, log=lines.append), whole)
    assert lines[0] == "note: the cosine schedule now ends with epoch 4"


def test_settings_of_the_second_phase_are_refused_before_the_first(tmp_path: Path) -> None:
    code = tmp_path / "hard.py"
    code.write_text(
        "import optax\n"
        "def loss(logits, labels):\n"
        "    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)\n"
    )
    wrong = replace(TWO_PHASES, loss=f"{code}:loss", augment=("mixup=0.2",))
    with pytest.raises(InputError, match="the loss does not take labels"):
        run(wrong, tmp_path / "run", log=silent)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
def test_model_5_goes_through_both_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: gradients of convolutions are compiled. Other tests do the same on linear layers."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(report, "plot_history", lambda *_, **options: drawn.update(options))
    experiment = replace(MODEL5, trainable="last=2")
    done = run(experiment, tmp_path / "run", log=silent)
    assert drawn["fine_tuning_after"] == 1
    before, after = initial_model(experiment, 2), load_run(done.folder, checkpoint="last").model
    weights = params_of(after)
    same = {path for path, x in params_of(before).items() if np.array_equal(x, weights[path])}
    assert {path[1] for path in same} == {"stem", "blocks"}
    # The batch statistics are left alone.
    statistics = (nnx.to_pure_dict(nnx.state(one, nnx.BatchStat)) for one in (before, after))
    jax.tree.map(np.testing.assert_array_equal, *statistics)
    config = json.loads((done.folder / "config.json").read_text("utf-8"))
    assert config["experiment"]["head_epochs"] == 1


# Runs that start from another.


def test_a_run_starts_from_another(
    whole: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = replace(TWO_PHASES, init=str(whole.folder), head_epochs=0, epochs=1)
    weights = params_of(whole.model)
    for path, array in params_of(initial_model(second, 2)).items():
        np.testing.assert_array_equal(array, weights[path])
    assert not caplog.messages
    done = run(second, tmp_path / "second", log=silent)
    assert len(done.inputs["init"]) == 64
    assert resume(tmp_path / "second", epochs=2, log=silent).inputs == done.inputs


def test_weights_of_another_shape_are_left_out(
    whole: Run, caplog: pytest.LogCaptureFixture
) -> None:
    second = replace(TWO_PHASES, init=str(whole.folder))
    with caplog.at_level(logging.WARNING):
        model = params_of(initial_model(second, 3))
    assert caplog.messages == [f"{whole.folder} has no weights for head.bias, head.kernel"]
    assert model["head", "kernel"].shape == (4, 3)
    kernel = "backbone", "kernel"
    np.testing.assert_array_equal(model[kernel], params_of(whole.model)[kernel])


def test_a_run_starts_from_the_ready_made_classifier(tmp_path: Path) -> None:
    experiment = replace(RECIPES["model6_deep"], init="ready-made", image_size=32, epochs=1)
    theirs, ours = params_of(ready_made()), params_of(initial_model(experiment, 3))
    new = {path for path, array in ours.items() if not np.array_equal(array, theirs[path])}
    assert new == {("head", "kernel"), ("head", "bias")}  # of three classes, not two
    assert absolute(experiment).init == "ready-made"
    inputs = inputs_of(experiment, load_data("sketches", 32, sizes=(8, 4, 4)))
    assert inputs["init"] == sha256(WEIGHTS)


def test_weights_that_a_run_replaces_are_not_asked_for(whole: Run) -> None:
    second = replace(TWO_PHASES, init=str(whole.folder), weights="/elsewhere.h5")
    assert build.weights_path(second) is None
    weights = params_of(whole.model)
    assert all(
        np.array_equal(a, weights[p]) for p, a in params_of(initial_model(second, 2)).items()
    )


def test_a_part_that_does_not_exist_is_refused_though_its_phase_is_left_out(
    tmp_path: Path,
) -> None:
    experiment = replace(TWO_PHASES, trainable="nose", epochs=TWO_PHASES.head_epochs)
    with pytest.raises(InputError, match="nothing to train"):
        run(experiment, tmp_path / "run", log=silent)


@pytest.mark.parametrize(
    ("init", "error"),
    [
        ("", "has only 0 % of this model's weights, by name and shape"),
        ("ready-made", "has only 0 % of this model's weights, by name and shape"),
        ("/elsewhere", "is not a run: it has no config.json"),
    ],
)
def test_a_run_starts_only_from_a_similar_one(
    init: str, error: str, whole: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=error):
        run(replace(LINEAR, init=init or str(whole.folder)), tmp_path / "run", log=silent)
    assert not (tmp_path / "run").exists()


# Evaluation.


class Corner(nnx.Module):
    """Its logits are the first two red pixels."""

    def __call__(self, images: Any) -> Any:
        return images[:, 0, :2, 0] / 255


def test_test_time_mirroring_is_the_mean_of_two(drawings: Split) -> None:
    images = np.asarray(drawings.images)
    plain, flipped = (predict_logits(Corner(), x) for x in (images, images[:, :, ::-1]))
    assert np.abs(plain - flipped).max() > 0.01
    both = predict_logits(Corner(), images, mirror=True)
    np.testing.assert_allclose(both, (plain + flipped) / 2, rtol=1e-6)
    assert evaluate(Corner(), drawings, mirror=True) != evaluate(Corner(), drawings)


def test_mirroring_is_of_the_test_alone(tmp_path: Path) -> None:
    experiment = replace(LINEAR, model=f"{__file__}:WithCorner", epochs=1, mirror_test=True)
    done, splits = run(experiment, tmp_path / "run", log=silent), build.load_splits(experiment)
    assert done.metrics is not None
    mirrored, plain = (evaluate(done.model, splits.test, mirror=m).loss for m in (True, False))
    assert done.metrics["test"]["loss"] == pytest.approx(mirrored, rel=1e-5)
    assert mirrored != pytest.approx(plain, rel=1e-3)
    validated = evaluate(done.model, splits.validation).loss
    assert done.history[0]["val_loss"] == pytest.approx(validated, rel=1e-5)


class WithCorner(Linear):
    """`Linear` plus `Corner`: the mirror image is another one to it."""

    def __call__(self, images: Any) -> Any:
        return super().__call__(images) + images[:, 0, :2, 0] / 255


def test_features_are_those_of_the_model(drawings: Split) -> None:
    model = TwoParts(rngs=nnx.Rngs(0))
    found = features_of(model, drawings, 32, "float32", data_mesh(32))
    expected = model.features(jnp.asarray(np.asarray(drawings.images), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_older_configurations_have_no_phases() -> None:
    plain = {"model": "model3"}
    experiment = Experiment.from_plain(plain)
    assert (experiment.head_epochs, experiment.init, experiment.layer_decay) == (0, "none", 1.0)
