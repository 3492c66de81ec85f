"""Training: a state, a pure step, and a generator of epoch records."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Int, Key, PyTree

from ..errors import RunError
from ..models.ops import in_microbatches
from .augment import Augmentation
from .feed import Batch, Resident, Shelf, stream
from .mesh import give_back_freed_memory, jit, replicate, shard, sum_batch
from .metrics import (
    BLOG_THRESHOLD,
    Dtype,
    FrozenBackbone,
    Metrics,
    Sums,
    add,
    evaluate,
    full_precision,
    in_dtype,
    losses,
    metric_sums,
    no_sums,
    scan_sums,
    with_features,
)

_WHAT_TO_TRY = "try a smaller learning rate or rescaled images"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step reads and changes."""

    step: Int[Array, ""]
    key: Key[Array, ""]
    params: PyTree
    """The trained part of the model."""
    frozen: PyTree
    """The rest of it: a backbone's weights, batch statistics."""
    opt_state: optax.OptState


@dataclass(frozen=True)
class Task:
    """What a step needs beside arrays; static under `jax.jit`."""

    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    augmentations: tuple[Augmentation, ...] = ()
    threshold: float = BLOG_THRESHOLD
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class EpochRecord:
    """One line of a history. Losses in nats, accuracies as shares, `seconds` with validation."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    on_device: bool = field(compare=False)
    """Whether it was one program over photos on the devices."""
    state: TrainState = field(repr=False, compare=False)
    """The state after this epoch. The next epoch is computed in its place: to keep it for longer,
    copy it with `jax.tree.map(jnp.copy, record.state)`."""


@cache  # the same optimizer object, so that a second run of a model is not compiled again
def keras_adam(
    learning_rate: float = 1e-3, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Adam as Keras computes it.

    Keras adds its epsilon, 1e-7, to the root of the second moment before that one's bias is
    corrected, `optax.adam` after: with that, an epsilon of 1e-7 / √(1 - b2^t) in step t, thirty
    times as much in the first (both forms are in Kingma & Ba 2015, section 2, arXiv:1412.6980).
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        rate = learning_rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        steps = jax.tree.map(
            lambda m, v: (-rate * m / (jnp.sqrt(v) + 1e-7)).astype(m.dtype), mu, nu
        )
        return steps, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def create_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, *, seed: int = 0
) -> tuple[nnx.GraphDef, TrainState]:
    """Split `model` into its structure and the state that training starts from.

    Everything that is a parameter is trained, save a frozen backbone.
    """
    trained: Any = nnx.Param
    if isinstance(model, FrozenBackbone):
        trained = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("backbone")))
    graphdef, params, frozen = nnx.split(model, trained, ...)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
        params=params,
        frozen=frozen,
        opt_state=optimizer.init(params),
    )
    return graphdef, jax.tree.map(jnp.copy, state)  # a step donates its state, not the model


def _step(task: Task, state: TrainState, batch: PyTree) -> tuple[TrainState, Sums]:
    """One step of gradient descent on one batch.

    Args:
        task: model structure, optimizer, augmentations.
        state: given up: its buffers are reused for the new one.
        batch: `image` `[batch, height, width, 3]` of pixels 0…255, `label` `[batch]` and `mask`
            `[batch]`, False for padding.

    Returns:
        The next state, and the batch's metric sums as they were during the step (with dropout).
    """
    step_key = jax.random.fold_in(state.key, state.step)
    examples = {**batch, "key": jax.random.split(step_key, batch["label"].shape[0])}

    def gradient_sums(states: tuple[PyTree, PyTree], part: PyTree) -> tuple[PyTree, Sums]:
        params, frozen = states
        return jax.grad(partial(_loss_sum, task), has_aux=True)(params, frozen, part)

    gradients, sums = sum_batch(gradient_sums, (state.params, state.frozen), examples)
    gradients = jax.tree.map(lambda gradient: gradient / sums["count"], gradients)
    updates, opt_state = task.optimizer.update(gradients, state.opt_state, state.params)
    new_state = TrainState(
        step=state.step + 1,
        key=state.key,
        params=optax.apply_updates(state.params, updates),
        frozen=state.frozen,
        opt_state=opt_state,
    )
    return new_state, sums


train_step = jit(static_argnames="task", donate_argnames="state")(_step)


@jit(static_argnames="task", donate_argnames="state")
def train_epoch(
    task: Task, state: TrainState, photos: PyTree, rows: Int[Array, "steps batch"]
) -> tuple[TrainState, Sums, Bool[Array, " steps"]]:
    """An epoch of `train_step` as one program over photos that are on the devices.

    The host sends the order of the photos, a few kilobytes, rather than let the device draw it, so
    that an epoch is the same one whether its photos are on the device or streamed.

    Args:
        task: as in `train_step`.
        state: given up, as in `train_step`.
        photos: `image` uint8 `[photos, height, width, 3]` and `label` `[photos]`, on every device.
        rows: which photos are a step's batch; -1 is padding.

    Returns:
        The state after the epoch, the sums over all of it, and after which steps the sum of
        losses was finite.
    """
    return scan_sums(partial(_step, task), state, photos, rows)


def _loss_sum(task: Task, params: PyTree, frozen: PyTree, examples: PyTree) -> tuple[Array, Sums]:
    # Cast here, so that the gradients by the stored float32 weights are float32 again.
    model: Any = nnx.merge(task.graphdef, *in_dtype((params, frozen), task.dtype))
    dropout_key, *augment_keys = jnp.unstack(
        jax.vmap(lambda key: jax.random.split(key, 1 + len(task.augmentations)))(examples["key"]),
        axis=1,
    )

    def augment(images: Array, *keys: Array) -> Array:
        for augmentation, its_keys in zip(task.augmentations, keys, strict=True):
            images = augmentation(its_keys, images)
        return images

    images = examples["image"].astype(jnp.float32)
    if task.augmentations:
        images = in_microbatches(augment, images, *augment_keys)
    logits = full_precision(model(in_dtype(images, task.dtype), dropout_key))
    labels, mask = examples["label"], examples["mask"]
    sums = metric_sums(logits, labels, mask, task.threshold)
    return jnp.sum(losses(logits, labels) * mask), sums


def fit(
    model: nnx.Module,
    train: Callable[[int], Iterable[Batch]],
    validation: Iterable[Batch],
    *,
    epochs: int = 20,
    optimizer: optax.GradientTransformation | None = None,
    augmentations: tuple[Augmentation, ...] = (),
    threshold: float = BLOG_THRESHOLD,
    seed: int = 0,
    dtype: Dtype = "float32",
    on_device: bool | None = None,
    after: tuple[int, TrainState] | None = None,
    on_step: Callable[[int, Sums], None] | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` and yield a record after each epoch.

    After each record `model` holds the weights of that epoch.

    Args:
        model: called as `model(images, keys=None)`: pixels 0…255 and, in training, a key an image;
            gives logits. Only its parameters are trained; running statistics are left as they are.
        train: the batches of an epoch, by its number from 0: `splits.train.shuffled(seed=0)`.
        validation: batches that can be gone through many times: `splits.validation.batches()`.
        epochs: how many, those before `after` counted in.
        optimizer: by default Keras's Adam at 1e-3.
        augmentations: applied in turn to the training images, each with a key an image.
        threshold: for models with one logit, see `BLOG_THRESHOLD`.
        seed: of dropout and augmentation.
        dtype: what the model computes in, forward and backward: "float32", or "bfloat16", half the
            memory and faster on accelerators made for it. Stored weights, augmentation, losses,
            the optimizer and metrics are float32 all the same.
        on_device: whether the photos of `splits.….shuffled` and `.batches` are kept on the devices
            and an epoch is one program over them; by default on an accelerator where they take no
            more than half of the free memory. Otherwise, as any other iterable, batches are sent
            one by one. The history is the same up to rounding.
        after: the number and state (a copy, see `EpochRecord.state`) of the epoch to go on after,
            with the other arguments of then: what follows is what would have followed then.
        on_step: called with the epoch's number from 0 and its sums so far, still on the device:
            after each step, or after the epoch where that is one program.

    Raises:
        InputError: there are no images, or no such dtype.
        RunError: the loss or the weights are no longer finite numbers; that epoch has no record.
    """
    optimizer = keras_adam() if optimizer is None else optimizer
    graphdef, state = create_state(model, optimizer, seed=seed)
    done = 0
    if after is not None:
        done, state = after
        nnx.update(model, state.params, state.frozen)
        state = jax.tree.map(jnp.copy, state)  # a step donates its state, not the caller's
    task = Task(graphdef, optimizer, augmentations, threshold, dtype)
    train_photos, validation_photos = Shelf(on_device), Shelf(on_device)
    for epoch in range(done, epochs):
        start = time.perf_counter()
        report = None if on_step is None else partial(on_step, epoch)
        batches = train_photos.place(train(epoch))
        one_program = isinstance(batches, Resident)
        state, totals, bad_step = _run_epoch(task, state, batches, report)
        del batches  # or its photos would stay while those of another split come
        if bad_step:
            raise RunError(
                f"the loss became {float(totals['loss'])} in step {bad_step} of epoch {epoch + 1}; "
                f"{_WHAT_TO_TRY}"
            )
        trained = Metrics.from_sums(totals)
        # A copy of what is trained, not of all: the next step donates the state.
        nnx.update(model, jax.tree.map(jnp.copy, state.params))
        if epoch == done:
            # Nothing random touches validation images, so a frozen backbone sees them once.
            validation = with_features(model, validation, dtype=dtype)
        validated = evaluate(
            model, validation_photos.place(validation), threshold=threshold, dtype=dtype
        )
        if epoch == done:
            give_back_freed_memory()  # all programs of an epoch are compiled now
        # The last step's loss is that of the weights before it.
        if not (np.isfinite(validated.loss) and _all_finite((state.params, state.opt_state))):
            raise RunError(
                f"the weights are no longer finite numbers, or give no finite validation loss, "
                f"after the last step of epoch {epoch + 1}; {_WHAT_TO_TRY}"
            )
        yield EpochRecord(
            epoch=epoch + 1,
            loss=trained.loss,
            accuracy=trained.accuracy,
            val_loss=validated.loss,
            val_accuracy=validated.accuracy,
            seconds=time.perf_counter() - start,
            on_device=one_program,
            state=state,
        )


@jax.jit
def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _run_epoch(
    task: Task,
    state: TrainState,
    batches: Resident | Iterable[Batch],
    on_step: Callable[[Sums], None] | None,
) -> tuple[TrainState, Sums, int]:
    """Train on all batches: as one program, or step by step.

    Returns:
        The state, the sums, and the first step (from 1) whose loss was not finite, or 0.
    """
    if isinstance(batches, Resident):
        placed = replicate((state, batches.photos, batches.rows), batches.rows[0])
        state, totals, finite = train_epoch(task, *placed)
        if on_step is not None:
            on_step(totals)
        bad_steps = np.flatnonzero(~np.asarray(finite))
        return state, totals, 1 + int(bad_steps[0]) if len(bad_steps) else 0
    totals, step = no_sums(), 0
    for step, batch in enumerate(map(dict, stream(batches)), 1):
        # The step before is still being computed while this batch is sent.
        state, sums = train_step(task, replicate(state, batch), shard(batch))
        before, totals = totals, add(totals, sums)
        if not np.isfinite(before["loss"]):  # it is there: `add` has waited for it
            return state, before, step - 1
        if on_step is not None:
            on_step(totals)
    return state, totals, 0 if np.isfinite(totals["loss"]) else step
