"""`fit`: histories, standard NNX layers, devices, resuming, and what stops a training."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from inspect import unwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import Linear, Residual, TwoParts
from steps import mesh_of

from catdog_jax.data.splits import Split
from catdog_jax.errors import InputError, RunError
from catdog_jax.models.create import create_model
from catdog_jax.training.augment import mixup, random_flip, random_rotation
from catdog_jax.training.evaluation import evaluate, predict_logits
from catdog_jax.training.feed import limit_dispatch
from catdog_jax.training.loop import EpochRecord, fit
from catdog_jax.training.optimizers import keras_adam, make_optimizer
from catdog_jax.training.state import in_dtype

AUGMENTATIONS = (random_flip, random_rotation(0.2))


def coloured(count: int) -> Split:
    """Reddish photos of class 0 and bluish ones of class 1."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 100, (count, 8, 8, 3)).astype(np.uint8)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    return Split(images, labels, ("red", "blue"), tuple(map(str, range(count))))


def train(split: Any, *, seed: int = 0, epochs: int = 2, **options: Any) -> list[EpochRecord]:
    model = options.pop("model", None) or Linear(rngs=nnx.Rngs(seed))
    return list(fit(model, split, split, batch_size=8, epochs=epochs, seed=seed, **options))


def history(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    return [astuple(record)[:5] for record in records]


def test_it_learns_to_tell_two_colours_apart() -> None:
    records = train(coloured(40), epochs=12, optimizer=keras_adam(0.1))
    assert records[-1].val_accuracy == 1.0
    assert records[-1].val_loss < records[0].val_loss / 2
    assert [record.epoch for record in records] == list(range(1, 13))
    assert all(record.seconds > 0 for record in records)
    assert {record.devices for record in records} == {4}


def test_arrays_are_data_and_an_optimizer_may_depend_on_the_number_of_steps() -> None:
    split, asked = coloured(20), []

    def optimizer(steps: int) -> optax.GradientTransformation:
        asked.append(steps)
        return make_optimizer("adamw", learning_rate=0.1, steps=steps, schedule="cosine")

    arrays = np.asarray(split.images), split.labels
    assert history(train(arrays, optimizer=optimizer)) == history(train(split, optimizer=optimizer))
    assert asked == [6, 6]  # two epochs of three batches


def residual_training(devices: int, on_device: bool, drawings: Split) -> tuple[Any, Any]:
    model = Residual(rngs=nnx.Rngs(0))
    records = fit(
        model,
        drawings,
        drawings,
        epochs=3,
        batch_size=16,
        optimizer=optax.sgd(0.05, 0.9),
        augment=(*AUGMENTATIONS, mixup(0.2, 2)),
        ema=0.9,
        on_device=on_device,
        mesh=mesh_of(devices),
    )
    losses = [(r.loss, r.val_loss) for r in records]
    return losses, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))


@pytest.mark.slow
@pytest.mark.parametrize("on_device", [False, True])
def test_batch_norm_and_dropout_are_the_same_on_one_and_many_devices(
    on_device: bool, drawings: Split
) -> None:
    """With mixup, momentum and averaged weights, which test_determinism.py leaves out.

    Slow: two programs of convolutions that no other test shares.
    """
    losses, state = residual_training(1, False, drawings)
    assert np.abs(state["norms"][0]["mean"]).max() > 0.01  # they started at zero
    others, other = residual_training(4, on_device, drawings)
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), other, state)


def test_dropout_draws_anew_in_each_step_and_is_off_in_evaluation() -> None:
    split = coloured(8)
    model = Linear(rngs=nnx.Rngs(0))
    # At a learning rate of zero only the masks change.
    records = train(split, model=model, epochs=4, optimizer=optax.sgd(0.0))
    assert len({record.loss for record in records}) == 4
    assert len({record.val_loss for record in records}) == 1
    expected = evaluate(nnx.view(model, deterministic=True), split)
    assert records[-1].val_loss == pytest.approx(expected.loss, rel=1e-6)


def test_nothing_is_frozen_by_default() -> None:
    model = TwoParts(rngs=nnx.Rngs(0))
    before = np.array(model.backbone.kernel[...])
    *_, last = train(coloured(16), model=model)
    assert not np.array_equal(model.backbone.kernel[...], before)
    assert last.val_loss == pytest.approx(evaluate(model, coloured(16)).loss, rel=1e-6)


class Counting(TwoParts):
    """Counts how often features are computed on a device."""

    calls = 0

    def features(self, images: Any) -> Any:
        jax.debug.callback(self.count)
        return super().features(images)

    @classmethod
    def count(cls) -> None:
        cls.calls += 1


def unchanged(key: Any, image: Any) -> Any:
    """An augmentation, as far as `fit` can know."""
    del key
    return image


@pytest.mark.parametrize(
    ("trainable", "augment", "passes"),
    [("head", (), 3 + 3), ("head", unchanged, 6 + 3), ("backbone", (), 6 + 6)],
)
def test_features_are_computed_once_if_nothing_changes_them(
    trainable: str, augment: Any, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of three batches train the model, and one or two more validate it."""
    monkeypatch.setattr(Counting, "calls", 0)
    parts = nnx.PathContains(trainable)
    train(
        coloured(20),
        model=Counting(rngs=nnx.Rngs(0)),
        augment=augment,
        trainable=parts,
        mesh=mesh_of(1),
    )
    jax.effects_barrier()
    assert Counting.calls == passes


@pytest.mark.parametrize(("on_device", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_training_on_features_is_training_on_images(on_device: bool, dtype: Any) -> None:
    by_features, by_images = (
        train(
            coloured(20),
            model=TwoParts(rngs=nnx.Rngs(0)),
            augment=augment,
            trainable=nnx.PathContains("head"),
            optimizer=optax.adam(0.1),
            epochs=3,
            on_device=on_device,
            dtype=dtype,
        )
        for augment in ((), unchanged)
    )
    assert by_images[0].loss > 1.02 * by_images[-1].loss
    np.testing.assert_allclose(history(by_features), history(by_images), rtol=1e-5)


def test_a_second_training_goes_on_where_the_model_is_when_it_starts() -> None:
    def second_epoch(*, made_first: bool) -> EpochRecord:
        model, split = Linear(rngs=nnx.Rngs(0)), coloured(16)
        second = fit(model, split, split, batch_size=8, start=1, epochs=2)
        train(split, model=model, epochs=1, optimizer=optax.adam(0.1))
        if not made_first:
            second = fit(model, split, split, batch_size=8, start=1, epochs=2)
        (record,) = second
        return record

    record = second_epoch(made_first=True)
    assert record == second_epoch(made_first=False)
    assert record.epoch == 2
    assert record != train(coloured(16), epochs=2)[1]


@pytest.mark.parametrize("start", [-1, 2])
def test_training_starts_before_its_last_epoch(start: int) -> None:
    with pytest.raises(InputError, match=f"start must be from 0 to epochs - 1, not {start}"):
        train(coloured(8), start=start)


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
def test_model4_is_validated_as_evaluated_and_trains_its_head(drawings: Split) -> None:
    """With the program of the recipe, which compiles for long."""
    model: Any = create_model("model4", alpha=0.35, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(jax.tree.map(jnp.copy, nnx.state(model, nnx.Param)))
    for record in fit(
        model,
        drawings,
        drawings,
        epochs=2,
        batch_size=16,
        optimizer=keras_adam(1e-4),
        augment=AUGMENTATIONS,
        threshold=0.5,
        trainable=nnx.PathContains("head"),
    ):
        evaluated = evaluate(model, drawings, batch_size=16, threshold=0.5)
        assert record.val_loss == pytest.approx(evaluated.loss, rel=1e-5)
        assert record.val_accuracy == evaluated.accuracy
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    same = {
        part: all(jax.tree.leaves(jax.tree.map(np.array_equal, before[part], after[part])))
        for part in after
    }
    assert same == {"backbone": True, "head": False}


@pytest.mark.slow
def test_an_epoch_as_one_program_is_the_same_in_float64() -> None:
    """Slow: test_determinism.py has the same in float32."""
    split = coloured(20)
    with jax.enable_x64(True):
        stepped, scanned = (
            train(split, augment=AUGMENTATIONS, on_device=on_device) for on_device in (False, True)
        )
    np.testing.assert_allclose(history(scanned), history(stepped), rtol=1e-12)


@pytest.mark.parametrize("on_device", [False, True])
def test_bfloat16_is_only_what_the_model_computes_in(on_device: bool) -> None:
    computed: set[tuple[Any, ...]] = set()
    kept: list[Any] = []

    class Watched(Linear):
        def __call__(self, images: Any) -> Any:
            logits = super().__call__(images)
            computed.add((images.dtype, self.linear.kernel[...].dtype, logits.dtype))
            return logits

    model, split = Watched(rngs=nnx.Rngs(0)), coloured(20)
    *_, record = train(
        split,
        model=model,
        dtype="bfloat16",
        on_device=on_device,
        augment=random_flip,
        callbacks=[lambda record, state: kept.append((state.params, state.opt_state))],
    )
    assert (np.dtype(jnp.bfloat16),) * 3 in computed
    assert {dtypes[1] for dtypes in computed} == {np.dtype(jnp.bfloat16), np.dtype("float32")}
    assert len(kept) == 2
    stored = {x.dtype for x in jax.tree.leaves((kept, nnx.state(model, nnx.Param)))}
    assert stored == {np.dtype("float32"), np.dtype("int32")}  # Adam counts its steps
    validated = evaluate(model, split, batch_size=8, dtype="bfloat16")
    assert record.val_loss == pytest.approx(validated.loss, rel=1e-6)
    assert predict_logits(model, split, dtype="bfloat16").dtype == np.float32
    assert evaluate(model, split).loss != validated.loss


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="unknown dtype 'float8'; choose float32"):
        unwrap(in_dtype)({}, "float8")


def test_photos_that_pad_a_batch_do_not_count() -> None:
    split = coloured(12)
    # Twelve photos padded to a batch of sixteen, and a batch of the twelve alone.
    padded, whole = (
        list(
            fit(
                Linear(dropout=0.0, rngs=nnx.Rngs(0)),
                split,
                split,
                epochs=1,
                batch_size=batch_size,
                optimizer=optax.sgd(0.1),
            )
        )
        for batch_size in (16, 12)
    )
    np.testing.assert_allclose(history(padded), history(whole), rtol=1e-6)


def test_soft_labels_train_like_class_numbers() -> None:
    split = coloured(20)
    images, soft = np.asarray(split.images), np.eye(2, dtype=np.float32)[split.labels]
    hard, same = (history(train((images, labels))) for labels in (split.labels, soft))
    np.testing.assert_allclose(same, hard, rtol=1e-5)


def test_class_weights_apply_to_the_training_loss_only() -> None:
    split = coloured(8)
    plain, doubled = (
        train(split, epochs=1, optimizer=optax.sgd(0.0), class_weights=weights)
        for weights in (None, (2.0, 2.0))
    )
    assert doubled[0].loss == pytest.approx(2 * plain[0].loss, rel=1e-6)
    assert doubled[0].val_loss == plain[0].val_loss
    with pytest.raises(InputError, match="3 class weights for 2 classes"):
        train(split, class_weights=(1, 1, 1))


def test_class_weights_of_mixed_labels_are_mixed() -> None:
    labels = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]] * 2, np.float32)
    images = np.asarray(coloured(8).images)

    def mean_loss(labels: Any) -> float:
        # Every loss is one, so their mean is that of the weights.
        ones = lambda logits, labels: jnp.ones(len(logits))  # noqa: E731
        options = {"class_weights": (1.0, 3.0), "loss": ones, "epochs": 1}
        return train((images, labels), **options)[0].loss

    assert mean_loss(labels) == pytest.approx(2.0)
    assert mean_loss(labels[2:4].repeat(4, axis=0)) == pytest.approx(2.0)
    assert mean_loss(labels[1:2].repeat(8, axis=0)) == pytest.approx(3.0)


def test_patience_ends_a_training_that_does_not_improve() -> None:
    records = train(coloured(16), epochs=9, optimizer=optax.sgd(0.0), patience=3)
    assert len(records) == 4  # the first is the best


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    split, options = coloured(20), {"augment": AUGMENTATIONS, "ema": 0.5, "patience": 3}
    kept: list[Any] = []

    def keep(record: EpochRecord, state: Any) -> None:
        kept.append(jax.tree.map(jnp.copy, state))

    whole = train(split, epochs=5, callbacks=[keep], **options)
    accuracies = [record.val_accuracy for record in whole[:2]]
    model = Linear(rngs=nnx.Rngs(7))
    rest = train(split, epochs=5, model=model, after=(accuracies, kept[1]), **options)
    assert history(whole[:2]) + history(rest) == history(whole)


def test_the_model_holds_the_weights_of_its_epoch_and_callbacks_see_the_state() -> None:
    model, split = Linear(rngs=nnx.Rngs(0)), coloured(16)
    states: list[Any] = []
    kernels = []
    for record in fit(
        model,
        split,
        split,
        batch_size=8,
        epochs=3,
        callbacks=[lambda record, state: states.append(jax.tree.map(jnp.copy, state))],
    ):
        kernels.append(np.array(model.linear.kernel[...]))
        assert record.epoch == len(states)
    for kernel, state in zip(kernels, states, strict=True):
        np.testing.assert_array_equal(state.params["linear"]["kernel"][...], kernel)
    assert not np.array_equal(kernels[0], kernels[1])
    assert [int(state.step) for state in states] == [2, 4, 6]


def test_what_does_not_fit_is_refused_before_anything_is_computed() -> None:
    split, small = coloured(8), Linear(num_classes=3, rngs=nnx.Rngs(0))
    wrong = Split(split.images, split.labels + 2, ("a", "b", "c", "d"), split.names)
    with pytest.raises(InputError, match="labels go from 2 to 3, but Linear has 3"):
        fit(small, wrong, wrong)
    with pytest.raises(InputError, match="there are no images"):
        fit(Linear(rngs=nnx.Rngs(0)), split, coloured(0))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(on_device: bool) -> None:
    # Two such steps give losses up to 4e37, still finite; the sum over the third's batch is not.
    with pytest.raises(RunError, match=r"loss became (nan|inf) in step 3 of epoch 1"):
        train(coloured(32), optimizer=optax.sgd(1e38), epochs=5, on_device=on_device)


def test_weights_spoiled_by_the_last_step_stop_the_run() -> None:
    """An epoch of one step: its loss is finite, the weights after it are not."""
    with pytest.raises(RunError, match="not finite after the last step of epoch 2"):
        train(coloured(8), optimizer=optax.sgd(1e38), epochs=5)


@pytest.mark.parametrize(("platform", "ahead"), [("cpu", 1), ("gpu", 8)])
def test_the_loop_runs_a_few_steps_ahead_of_the_devices(
    platform: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on CPUs, where two devices with more steps queued can deadlock."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    begun: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            yield number

    leads = [len(begun) - number for number in limit_dispatch(steps())]
    assert leads[:10] == [ahead + 1] * 10
    assert leads[-1] == 1


def test_the_running_sums_of_an_epoch_are_reported() -> None:
    for on_device, expected in ((False, [8, 16, 20]), (True, [20])):
        counts: list[int] = []
        train(
            coloured(20),
            epochs=1,
            on_device=on_device,
            on_step=lambda _, sums, counts=counts: counts.append(int(sums["count"])),
        )
        assert counts == expected


@dataclass
class Unhashable:
    """A loss that programs cannot be kept by, since it may change."""

    factor: float = 1.0

    def __call__(self, logits: Any, labels: Any) -> Any:
        return self.factor * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs and patience must be 1 or more"),
        ({"patience": 0}, "epochs and patience must be 1 or more"),
        ({"ema": 1.5}, "ema must be from 0 to 1, not 1.5"),
        ({"class_weights": [1.0, -1.0]}, "class_weights must be 0 or more"),
        ({"class_weights": "balanced"}, "fit takes no names for class_weights"),
        ({"loss": Unhashable()}, "loss must be hashable, as functions are"),
        ({"optimizer": "sgd"}, "fit takes no names for optimizer, as 'sgd'"),
        ({"augment": ["mirror"]}, "fit takes no names for augment, as 'mirror'"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    split = coloured(8)
    with pytest.raises(InputError, match=said):
        unwrap(fit)(Linear(rngs=nnx.Rngs(0)), split, split, **options)


def test_a_loss_that_does_not_take_what_mixup_makes_of_labels_is_refused() -> None:
    def by_index(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    train(coloured(8), loss=by_index, epochs=1)
    with pytest.raises(InputError, match=r"labels float32\[n, 2\] .*mixup and label smoothing"):
        train(coloured(8), loss=by_index, augment=mixup(0.2, 2))
