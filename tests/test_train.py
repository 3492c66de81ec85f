import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from catdog_jax.data.load import Split
from catdog_jax.errors import InputError, RunError
from catdog_jax.models.cnn import dropout
from catdog_jax.models.create import Model4, create_model
from catdog_jax.training import feed
from catdog_jax.training import loop as training
from catdog_jax.training import mesh as parallel
from catdog_jax.training.augment import random_flip, random_rotation
from catdog_jax.training.loop import EpochRecord, Task, create_state, fit, keras_adam, train_step
from catdog_jax.training.metrics import evaluate, losses, predict_logits, with_features

AUGMENTATIONS = (random_flip, random_rotation)


class Linear(nnx.Module):
    """The smallest network that takes photos: mean colour, dropout, one linear layer."""

    def __init__(self, *, outputs: int = 2, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(3, outputs, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)

    def __call__(self, images: Any, keys: Any = None) -> Any:
        return self.linear(dropout(self.dropout, images.mean(axis=(1, 2)) / 255, keys))


def coloured(count: int) -> Split:
    """Reddish photos of class 0 and bluish ones of class 1."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 100, (count, 8, 8, 3)).astype(np.uint8)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    return Split(images, labels, ("red", "blue"), tuple(map(str, range(count))))


def train(split: Split, *, seed: int = 0, epochs: int = 2, **options: Any) -> list[EpochRecord]:
    model = options.pop("model", None) or Linear(rngs=nnx.Rngs(seed))
    return list(
        fit(
            model,
            split.shuffled(8, seed=seed),
            split.batches(8),
            epochs=epochs,
            seed=seed,
            **options,
        )
    )


def history(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    return [(r.epoch, r.loss, r.accuracy, r.val_loss, r.val_accuracy) for r in records]


def test_it_learns_what_can_be_learnt() -> None:
    records = train(coloured(40), epochs=30, optimizer=keras_adam(0.1))
    assert records[-1].val_accuracy == 1.0
    assert records[-1].val_loss < records[0].val_loss / 2
    assert [record.epoch for record in records] == list(range(1, 31))
    assert all(record.seconds > 0 for record in records)


def test_the_same_seed_gives_the_same_history_and_another_does_not() -> None:
    split = coloured(20)
    first = history(train(split, augmentations=AUGMENTATIONS))
    assert history(train(split, augmentations=AUGMENTATIONS)) == first
    assert history(train(split, augmentations=AUGMENTATIONS, seed=1)) != first


def test_a_run_does_not_depend_on_how_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    split = coloured(20)
    expected = history(train(split, augmentations=AUGMENTATIONS))
    jax.clear_caches()
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    np.testing.assert_allclose(
        history(train(split, augmentations=AUGMENTATIONS)), expected, rtol=1e-5
    )
    jax.clear_caches()


@pytest.fixture
def devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    chosen = jax.devices()[: request.param]
    jax.clear_caches()
    monkeypatch.setattr(jax, "devices", lambda: chosen)
    monkeypatch.setattr(jax, "device_count", lambda: len(chosen))
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("devices", "name"), [(1, "model3"), (4, "model3"), (4, "model4")], indirect=["devices"]
)
def test_an_epoch_as_one_program_is_the_same_epoch(name: str, drawings: Split) -> None:
    """With flips, rotations, dropout and a padded last batch; both trained and validated so."""
    options = {"alpha": 0.35} if name == "model4" else {"image_size": 32}

    def records(on_device: bool) -> list[EpochRecord]:
        model = create_model(name, rngs=nnx.Rngs(0), **options)
        train = drawings.shuffled(16, seed=0)
        validation = drawings.batches(16)
        return list(
            fit(
                model,
                train,
                validation,
                epochs=2,
                augmentations=AUGMENTATIONS,
                on_device=on_device,
            )
        )

    stepped, scanned = records(on_device=False), records(on_device=True)
    assert [record.on_device for record in stepped + scanned] == [False, False, True, True]
    np.testing.assert_allclose(history(scanned), history(stepped), rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(scanned[-1].state.params),
        jax.tree.leaves(stepped[-1].state.params),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_an_epoch_as_one_program_is_the_same_in_float64() -> None:
    split = coloured(20)
    with jax.enable_x64(True):
        stepped, scanned = (
            train(split, augmentations=AUGMENTATIONS, on_device=on_device)
            for on_device in (False, True)
        )
    np.testing.assert_allclose(history(scanned), history(stepped), rtol=1e-12)


def test_an_epoch_over_resident_photos_is_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def spied(name: str) -> Any:
        function = getattr(training, name)

        def spy(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*args, **options)

        return spy

    for name in ("train_step", "train_epoch", "evaluate"):
        monkeypatch.setattr(training, name, spied(name))
    counts: list[tuple[int, int]] = []
    train(
        coloured(20),
        on_device=True,
        on_step=lambda epoch, sums: counts.append((epoch, int(sums["count"]))),
    )
    assert calls == ["train_epoch", "evaluate"] * 2
    assert counts == [(0, 20), (1, 20)]


def test_each_epoch_trains_on_its_own_split() -> None:
    few, many = coloured(12), coloured(20)
    many = replace(many, images=255 - many.images)

    def epochs(epoch: int) -> Any:
        return (few, many, many, few)[epoch].shuffled(8, seed=0)(epoch)

    stepped, scanned = (
        list(fit(Linear(rngs=nnx.Rngs(0)), epochs, few.batches(8), epochs=4, on_device=on_device))
        for on_device in (False, True)
    )
    np.testing.assert_allclose(history(scanned), history(stepped), rtol=1e-5)


def test_photos_of_a_split_no_longer_used_leave_before_others_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validation, *splits = (coloured(count) for count in (9, 10, 11, 12))
    there: list[list[int]] = []

    def spy(tree: Any, batch: Any) -> Any:
        there.append(sorted(len(x) for x in jax.live_arrays() if x.dtype == np.uint8))
        return parallel.replicate(tree, batch)

    monkeypatch.setattr(feed, "replicate", spy)
    gc.collect()
    records = fit(
        Linear(rngs=nnx.Rngs(0)),
        lambda epoch: splits[epoch].batches(8),
        validation.batches(8),
        epochs=3,
        on_device=True,
    )
    assert all(record.on_device for record in records)
    assert there == [[], [10], [9], [9]]


def test_batches_of_another_kind_are_taken_one_by_one() -> None:
    split = coloured(20)
    kinds = (lambda _: iter(list(split.batches(8))), lambda _: split.batches(8))
    one_by_one, resident = (
        list(fit(Linear(rngs=nnx.Rngs(0)), kind, split.batches(8), epochs=2, on_device=True))
        for kind in kinds
    )
    assert [record.on_device for record in one_by_one + resident] == [False, False, True, True]
    np.testing.assert_allclose(history(one_by_one), history(resident), rtol=1e-5)


@pytest.mark.parametrize(
    ("free", "kept"), [(4.1, [True, True]), (2.1, [True, False]), (1.9, [False, False])]
)
def test_validation_stays_on_the_devices_only_where_it_fits_beside_the_training_photos(
    free: float, kept: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`free` in photos' worth of 20, as it was before any were there."""
    split, other = coloured(20), coloured(20)
    size = split.images.nbytes + split.labels.nbytes

    def free_bytes() -> int:
        held = [array for array in jax.live_arrays() if array.dtype == np.uint8]
        return int(free * size) - size * len(held)

    evaluated: list[bool] = []

    def spy(model: Any, batches: Any, **rest: Any) -> Any:
        evaluated.append(isinstance(batches, feed.Resident))
        return evaluate(model, batches, **rest)

    gc.collect()
    monkeypatch.setattr(feed, "free_bytes", free_bytes)
    monkeypatch.setattr(training, "evaluate", spy)
    (record,) = fit(Linear(rngs=nnx.Rngs(0)), split.shuffled(8, seed=0), other.batches(8), epochs=1)
    assert [record.on_device, *evaluated] == kept


@pytest.mark.parametrize("on_device", [False, True])
def test_no_photos_are_an_error(on_device: bool) -> None:
    some, none = coloured(8), coloured(0)
    for train, validation in ((none, some), (some, none)):
        with pytest.raises(InputError, match="no images"):
            list(
                fit(
                    Linear(rngs=nnx.Rngs(0)),
                    train.shuffled(8, seed=0),
                    validation.batches(8),
                    on_device=on_device,
                )
            )


@pytest.mark.parametrize("on_device", [False, True])
def test_bfloat16_is_what_the_model_computes_in_and_nothing_else(on_device: bool) -> None:
    computed: set[tuple[Any, ...]] = set()

    class Watched(Linear):
        def __call__(self, images: Any, keys: Any = None) -> Any:
            logits = super().__call__(images, keys)
            computed.add((images.dtype, self.linear.kernel[...].dtype, logits.dtype))
            return logits

    model, split = Watched(rngs=nnx.Rngs(0)), coloured(20)
    options: dict[str, Any] = {"model": model, "augmentations": AUGMENTATIONS}
    *_, record = train(split, dtype="bfloat16", on_device=on_device, **options)
    assert computed == {(np.dtype(jnp.bfloat16),) * 3}
    floats = {x.dtype for x in jax.tree.leaves((record.state.params, record.state.opt_state))}
    assert floats == {np.dtype("float32"), np.dtype("int32")}  # the latter counts steps
    validated = evaluate(model, split.batches(8), dtype="bfloat16")
    assert record.val_loss == pytest.approx(validated.loss, rel=1e-6)
    assert predict_logits(model, split.batches(8), dtype="bfloat16").dtype == np.float32
    assert evaluate(model, split.batches(8)).loss != validated.loss


def test_a_history_in_bfloat16_is_near_the_one_in_float32(drawings: Split) -> None:
    exact, rounded = (
        [
            (record.loss, record.val_loss)
            for record in fit(
                create_model("model3", image_size=32, rngs=nnx.Rngs(0)),
                drawings.shuffled(16, seed=0),
                drawings.batches(16),
                epochs=2,
                dtype=dtype,
            )
        ]
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(rounded, exact, rtol=0.1)


def test_a_backbone_in_bfloat16_is_near_the_one_in_float32(drawings: Split) -> None:
    model = Model4(alpha=0.35, rngs=nnx.Rngs(0))
    batches = drawings.batches(16)
    exact, rounded = (
        np.concatenate([batch["feature"] for batch in replaced])
        for replaced in (
            with_features(model, batches),
            with_features(model, batches, dtype="bfloat16"),
        )
    )
    assert rounded.dtype == jnp.bfloat16
    assert np.corrcoef(exact.ravel(), rounded.astype(np.float32).ravel())[0, 1] > 0.99


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(InputError, match="unknown dtype 'float8'; choose float32 or bfloat16"):
        train(coloured(8), dtype="float8")


def test_a_step_is_plain_gradient_descent_on_the_mean_loss_of_unmasked_images() -> None:
    split = coloured(16)
    batch: dict[str, Any] = dict(next(iter(split.batches(16))))
    batch["mask"] = np.arange(16) < 11
    model = create_model("model3", image_size=8, rngs=nnx.Rngs(0))
    model.dropout.rate = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = optax.sgd(0.1)

    graphdef, params = nnx.split(model, nnx.Param)

    def mean_loss(params: Any) -> Any:
        network: Any = nnx.merge(graphdef, params)
        return losses(network(batch["image"][:11]), batch["label"][:11]).mean()

    expected_loss, gradients = jax.value_and_grad(mean_loss)(params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    graphdef, state = create_state(model, optimizer)
    task = Task(graphdef, optimizer)
    new, sums = train_step(task, parallel.replicate(state, batch), parallel.shard(batch))
    assert int(sums["count"]) == 11
    assert float(sums["loss"]) / 11 == pytest.approx(float(expected_loss), rel=1e-5)
    for got, want in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_every_draw_of_every_image_and_step_is_its_own() -> None:
    """Two augmentations and dropout each draw a number an image; a gradient a number tells it."""
    images, steps = 32, 60

    def draw(keys: Any) -> Any:
        return jax.vmap(jax.random.uniform)(keys)[:, None]

    def brighten(channel: int) -> Any:
        return lambda keys, x: x.at[:, 0, :, channel].multiply(draw(keys))

    class Linear(nnx.Module):
        def __init__(self) -> None:
            self.weight = nnx.Param(jnp.zeros((images, 3)))

        def __call__(self, x: Any, keys: Any) -> Any:
            x = x.at[:, 0, :, 2].multiply(draw(keys))
            return jnp.sum(x[:, 0] * self.weight[...], axis=(1, 2))[:, None]

    # Hands the gradient out as its state and changes no weight.
    tell = optax.GradientTransformation(
        lambda params: params,
        lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates),
    )
    one_pixel_each = np.eye(images, dtype=np.uint8)[:, None, :, None].repeat(3, axis=-1)
    batch = {
        "image": one_pixel_each,
        "label": np.zeros(images, np.int32),
        "mask": np.ones(images, bool),
    }
    graphdef, state = create_state(Linear(), tell)
    task = Task(graphdef, tell, (brighten(0), brighten(1)))
    draws = []
    for _ in range(steps):
        state, _ = train_step(task, parallel.replicate(state, batch), parallel.shard(batch))
        # The loss is ln(1 + e^0): its gradient, half the drawn number, over the 32 images.
        draws.append(2 * images * np.asarray(cast(Any, state.opt_state)["weight"][...]))
    drawn = np.stack(draws)  # [steps, images, 3]
    assert len(np.unique(drawn)) > 0.999 * drawn.size  # of 2^23 numbers, two may be alike
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    neighbours = {
        "steps": (drawn[1:], drawn[:-1]),
        "images": (drawn[:, 1:], drawn[:, :-1]),
        "draws": (drawn[..., 1:], drawn[..., :-1]),
    }
    for name, (one, other) in neighbours.items():
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size), name


def test_padding_changes_nothing() -> None:
    split = coloured(12)  # batches of 8 and, padded, of 4
    model = Linear(rngs=nnx.Rngs(0))
    batches: list[dict[str, Any]] = [dict(batch) for batch in split.batches(8)]
    noisy = [dict(batch) for batch in batches]
    noisy[1]["image"] = np.where(
        noisy[1]["mask"][:, None, None, None], noisy[1]["image"], np.uint8(255)
    )
    noisy[1]["label"] = np.where(noisy[1]["mask"], noisy[1]["label"], 1)
    runs = [
        list(fit(nnx.clone(model), lambda _, b=b: b, split.batches(8), epochs=2))
        for b in (batches, noisy)
    ]
    assert history(runs[0]) == history(runs[1])


def test_a_frozen_backbone_stays_and_the_head_moves() -> None:
    split = coloured(8)
    split = Split(
        np.asarray(split.images).repeat(4, axis=1).repeat(4, axis=2),
        split.labels,
        *(("a", "b"), ()),
    )
    model = Model4(alpha=0.35, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(jax.tree.map(jnp.copy, nnx.state(model)))
    train(split, model=model, epochs=1)
    after = nnx.to_pure_dict(nnx.state(model))
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], before["backbone"])
    assert not np.array_equal(after["head"]["kernel"], before["head"]["kernel"])


def test_the_optimizer_sees_nothing_of_a_frozen_backbone() -> None:
    _, state = create_state(Model4(alpha=0.35, rngs=nnx.Rngs(0)), keras_adam())
    assert set(nnx.to_pure_dict(state.params)) == {"head"}
    assert "backbone" in nnx.to_pure_dict(state.frozen)


def test_the_model_and_the_record_hold_the_weights_of_their_epoch() -> None:
    model = Linear(rngs=nnx.Rngs(0))
    split = coloured(16)
    kernels, states = [], []
    for record in fit(model, split.shuffled(8, seed=0), split.batches(8), epochs=3):
        kernels.append(np.asarray(model.linear.kernel[...]))
        states.append(jax.tree.map(jnp.copy, record.state))
    for kernel, state in zip(kernels, states, strict=True):
        np.testing.assert_array_equal(state.params["linear"]["kernel"][...], kernel)
    assert not np.array_equal(kernels[0], kernels[1])
    assert [int(state.step) for state in states] == [2, 4, 6]


def test_adam_is_kerass_by_hand() -> None:
    # m = 0.1 g, v = 0.001 g²; the step is lr √0.001 / 0.1 · m / (√v + 1e-7), here with g = 1e-7.
    optimizer = keras_adam(1e-3)
    gradient = jnp.array([1e-7])
    updates, _ = optimizer.update(gradient, optimizer.init(jnp.zeros(1)))
    root = 0.001**0.5
    np.testing.assert_allclose(np.asarray(updates), [-1e-3 * root / (root + 1)], rtol=1e-4)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(on_device: bool) -> None:
    # Two such steps give losses up to 4e37, still finite; the sum over the third's batch is not.
    with pytest.raises(RunError, match=r"the loss became (nan|inf) in step 3 of epoch 1; try a"):
        train(coloured(32), optimizer=optax.sgd(1e38), epochs=5, on_device=on_device)


def test_weights_spoiled_by_the_last_step_stop_the_run() -> None:
    """All losses of training are finite: an epoch's only step ends with the spoiled weights."""
    with pytest.raises(RunError, match=r"no longer finite .* last step of epoch 2; try a smaller"):
        train(coloured(8), optimizer=optax.sgd(1e38), epochs=5)


def test_the_loop_is_at_most_one_step_ahead_of_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Further ahead, several CPU devices can wait for each other for good."""
    events: list[str] = []
    step, wait = training.train_step, jax.block_until_ready

    def spy_step(*args: Any) -> Any:
        events.append("step")
        return step(*args)

    def spy_wait(tree: Any) -> Any:
        events.append(f"{int(tree['count'])} images done")
        return wait(tree)

    monkeypatch.setattr(training, "train_step", spy_step)
    monkeypatch.setattr(jax, "block_until_ready", spy_wait)
    train(coloured(20), epochs=1)
    seen = ["step", "0 images done", "step", "8 images done", "step", "16 images done"]
    assert events[: len(seen)] == seen  # validation then waits likewise


def test_the_running_sums_of_an_epoch_are_reported() -> None:
    counts: list[int] = []
    train(coloured(20), epochs=1, on_step=lambda _, sums: counts.append(int(sums["count"])))
    assert counts == [8, 16, 20]
