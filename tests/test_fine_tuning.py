"""Model 5 and what it is made of: phases, stages, layer-wise rates, features computed once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import Linear

from catdog_jax.data.splits import Split
from catdog_jax.errors import InputError
from catdog_jax.models.transfer import Model5
from catdog_jax.runs import build
from catdog_jax.runs.phases import phase_of, phases_of
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.runner import resume, run
from catdog_jax.training.depth import last_stages, scale_by_depth
from catdog_jax.training.evaluation import evaluate, predict_logits
from catdog_jax.training.features import features_of
from catdog_jax.training.loop import fit
from catdog_jax.training.mesh import data_mesh

pytestmark = pytest.mark.usefixtures("short_backbone")

SMALL = replace(
    RECIPES["model5"],
    model_options=("alpha=0.35",),
    weights="none",
    data="sketches",
    image_size=32,
    sizes=(24, 8, 8),
    batch_size=8,
    head_epochs=2,
    epochs=4,
)


@pytest.fixture
def model() -> Model5:
    return Model5(alpha=0.35, rngs=nnx.Rngs(0))


def params_of(model: nnx.Module) -> dict[Any, np.ndarray]:
    return {path: np.array(x[...]) for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def changed(before: dict[Any, np.ndarray], model: nnx.Module) -> set[Any]:
    after = params_of(model)
    return {path for path, array in before.items() if not np.array_equal(array, after[path])}


def test_the_stages_hold_all_parameters_once(model: Model5) -> None:
    for path in params_of(model):
        assert sum(path[: len(stage)] == stage for stage in model.stages) == 1
    assert model.stages[0] == ("backbone", "stem")
    assert model.stages[-2:] == [("backbone", "last"), ("head",)]


def test_only_the_last_stages_are_trained(model: Model5, drawings: Split) -> None:
    before = params_of(model)
    trainable = last_stages(model, 2)
    next(fit(model, drawings, drawings, epochs=1, trainable=trainable))
    assert {path[:2] for path in changed(before, model)} == {
        ("backbone", "last"),
        ("head", "kernel"),
        ("head", "bias"),
    }


def test_batch_statistics_are_left_alone_where_the_backbone_is_trained(
    model: Model5, drawings: Split
) -> None:
    before = jax.tree.map(np.array, nnx.state(model, nnx.BatchStat))
    next(fit(model, drawings, drawings, epochs=1))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.BatchStat))


@pytest.mark.parametrize("count", [0, 99])
def test_there_are_only_so_many_stages(model: Model5, count: int) -> None:
    with pytest.raises(InputError, match=rf"last={count}: Model5 has 6 stages"):
        last_stages(model, count)


def test_stages_must_be_named() -> None:
    with pytest.raises(InputError, match="Linear does not name its stages"):
        scale_by_depth(Linear(rngs=nnx.Rngs(0)), 0.5)


def test_each_stage_learns_at_its_own_rate(model: Model5) -> None:
    params = nnx.state(model, nnx.Param)
    ones = jax.tree.map(jnp.ones_like, params)
    scaled: Any
    scaled, _ = scale_by_depth(model, 0.5).update(ones, optax.EmptyState())
    rates = {path[:3]: float(x[...].ravel()[0]) for path, x in nnx.to_flat_state(scaled)}
    assert rates["head", "kernel"] == 1
    assert rates["backbone", "last", "conv"] == 0.5
    assert rates["backbone", "blocks", 2] == 0.25
    assert rates["backbone", "stem", "conv"] == 0.5**5


def test_features_that_nothing_changes_are_computed_once(drawings: Split) -> None:
    """The same history as by whole images, without augmentation."""

    class Watched(Model5):
        seen = 0

        def features(self, images: Any) -> Any:
            jax.debug.callback(self.see, images.shape[0])
            return super().features(images)

        @classmethod
        def see(cls, count: Any) -> None:
            cls.seen += int(count)

    def history(model: nnx.Module, **options: Any) -> list[tuple[float, float]]:
        records = fit(
            model,
            drawings,
            drawings,
            epochs=3,
            trainable=nnx.PathContains("head"),
            optimizer=optax.adam(1e-2),
            mesh=data_mesh(1),
            **options,
        )
        return [(record.loss, record.val_loss) for record in records]

    by_features = history(Watched(alpha=0.35, rngs=nnx.Rngs(0)))
    jax.effects_barrier()
    assert Watched.seen == 2 * 64  # two batches each of training and of validation, padded
    by_images = history(
        Model5(alpha=0.35, rngs=nnx.Rngs(0)), augment=lambda key, images, labels: (images, labels)
    )
    np.testing.assert_allclose(by_features, by_images, rtol=1e-4)


def test_phases_are_experiments_of_their_own() -> None:
    head, whole = phases_of(SMALL)
    assert (head.start, head.experiment.epochs, head.experiment.trainable) == (0, 2, "head")
    assert (head.experiment.augment, head.experiment.learning_rate) == ((), 1e-3)
    assert (whole.start, whole.experiment) == (2, SMALL)
    assert [phase_of(SMALL, n).trainable for n in (1, 2, 3, 4)] == ["head", "head", "all", "all"]
    assert len(phases_of(replace(SMALL, head_epochs=0))) == 1
    assert [p.experiment.epochs for p in phases_of(replace(SMALL, epochs=1))] == [1]


def test_a_run_goes_through_its_phases_and_resumes_in_each(tmp_path: Path) -> None:
    whole = run(SMALL, tmp_path / "whole", log=lambda _: None)
    assert [row["epoch"] for row in whole.history] == [1, 2, 3, 4]
    assert (tmp_path / "whole" / "history.png").is_file()
    for stopped in (1, 2, 3):
        folder = tmp_path / f"stopped{stopped}"

        def stop(line: str, stopped: int = stopped) -> None:
            if line.startswith(f"epoch  {stopped}/"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(SMALL, folder, log=stop)
        again = resume(folder, log=lambda _: None)
        assert [r["val_loss"] for r in again.history] == [r["val_loss"] for r in whole.history]
        assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]
        for path, array in params_of(again.model).items():
            np.testing.assert_array_equal(array, params_of(whole.model)[path])


def test_a_run_starts_from_another(tmp_path: Path) -> None:
    first = run(replace(SMALL, epochs=2), tmp_path / "first", log=lambda _: None)
    second = replace(SMALL, init=str(tmp_path / "first"), head_epochs=0, epochs=1)
    model = params_of(first.model)
    from catdog_jax.runs.initial import initial_model

    for path, array in params_of(initial_model(second, 2)).items():
        np.testing.assert_array_equal(array, model[path])
    of_three = params_of(initial_model(second, 3))
    assert of_three["head", "kernel"].shape[1] == 3
    path = ("backbone", "last", "conv", "kernel")
    np.testing.assert_array_equal(of_three[path], model[path])
    done = run(second, tmp_path / "second", log=lambda _: None)
    assert len(done.inputs["init"]) == 64
    with pytest.raises(InputError, match="no weights of the same name and shape"):
        initial_model(replace(RECIPES["model3"], init=str(tmp_path / "first")), 2)


def test_test_time_mirroring_is_the_mean_of_two(model: Model5, drawings: Split) -> None:
    images = np.asarray(drawings.images)
    plain, flipped = (predict_logits(model, x) for x in (images, images[:, :, ::-1]))
    assert np.abs(plain - flipped).max() > 1e-6
    both = predict_logits(model, images, mirror=True)
    np.testing.assert_allclose(both, (plain + flipped) / 2, rtol=1e-4, atol=1e-6)
    assert evaluate(model, drawings, mirror=True) != evaluate(model, drawings)


def test_the_filter_by_depth_has_a_name(model: Model5) -> None:
    experiment = replace(SMALL, trainable="last=1")
    _, params, _ = nnx.split(model, build.trainable_of(experiment, model), ...)
    assert {path[0] for path, _ in nnx.to_flat_state(params)} == {"head"}
    with pytest.raises(InputError, match="last=0"):
        build.trainable_of(replace(SMALL, trainable="last=many"), model)


def test_features_are_those_of_the_model(model: Model5, drawings: Split) -> None:
    found = features_of(model, drawings, 32, "float32", data_mesh(32))
    still = nnx.view(model, deterministic=True)
    expected = still.features(jnp.asarray(np.asarray(drawings.images), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
