"""`fit`: a generator of epoch records."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Bool, PyTree

from ..data.arrays import Arrays, as_split
from ..data.splits import Split
from ..errors import InputError, RunError
from . import hosts
from .augment import Augmentation, combined, is_for_one_image
from .epoch import TrainEpoch, make_train_epoch
from .evaluation import check_fit
from .features import has_fixed_features
from .feed import photos_fit_in_memory
from .losses import Loss, cross_entropy
from .memory import settle_memory
from .mesh import data_mesh, replicate
from .metrics import Metrics, Sums
from .state import Dtype, TrainState, create_state, put_weights, split_trained
from .step import Task
from .validation import Validation, make_validation

Optimizer: TypeAlias = optax.GradientTransformation | Callable[[int], optax.GradientTransformation]
Callback: TypeAlias = Callable[["EpochRecord", TrainState], None]

_WHAT_TO_TRY = "try a smaller learning rate or rescaled images"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. Losses in nats, accuracies in 0…1; `seconds` include validation."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float = field(compare=False)
    on_device: bool = field(compare=False)
    """Whether the epoch was one program over photos on the devices."""
    devices: int = field(compare=False)
    """How many devices shared each batch."""
    val_logits: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Of the validation photos, in order; None if one program added up their losses."""

    def __str__(self) -> str:
        return f"epoch {self.epoch:>2}  {self.numbers}"

    @property
    def numbers(self) -> str:
        """All but the epoch's number, in words."""
        columns = ("loss", "accuracy", "val_loss", "val_accuracy")
        named = "  ".join(f"{name} {getattr(self, name):.4f}" for name in columns)
        return f"{named}  {self.seconds:.1f} s"


def fit(
    model: nnx.Module,
    train: Split | Arrays,
    validation: Split | Arrays,
    *,
    epochs: int = 20,
    batch_size: int = 32,
    optimizer: Optimizer | None = None,
    loss: Loss = cross_entropy,
    augment: Augmentation | Sequence[Augmentation] = (),
    trainable: Any = nnx.Param,
    class_weights: Sequence[float] | None = None,
    ema: float | None = None,
    patience: int | None = None,
    threshold: float = 0.0,
    seed: int = 0,
    dtype: Dtype = "float32",
    on_device: bool | None = None,
    mesh: Mesh | None = None,
    callbacks: Sequence[Callback] = (),
    start: int = 0,
    after: tuple[Sequence[float], TrainState] | None = None,
    on_step: Callable[[int, Sums], None] | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` and yield a record after each epoch.

    The arguments are checked at once; training starts when the first record is asked for, from the
    weights that `model` has then. When a record is yielded, it holds those of that epoch.

    With several processes (`jax.distributed`) all call it with the same arguments, and start from
    the first one's weights. Each reads its own part of every batch.

    Args:
        model: any NNX module that is called with pixels 0…255, `[batch, height, width, channels]`,
            and returns logits. Batch statistics and dropout keys are carried from step to step.
        train: photos to train on, reshuffled in each epoch; or two arrays, images and labels
            (class numbers, or probabilities `[n, classes]`).
        validation: like `train`; evaluated after each epoch, in order.
        epochs: number of the last epoch; those of `start` and `after` are counted.
        batch_size: photos in a step; the last batch of an epoch is padded with photos that do not
            count for the loss.
        optimizer: an optax transformation, or a function from the number of steps to one; by
            default Adam at 1e-3.
        loss: (logits, labels) -> one number per image; hashable, as functions are. Labels are class
            numbers, `[batch]`, but probabilities, `[batch, classes]`, after mixup and with label
            smoothing.
        augment: one augmentation or several, see `catdog_jax.training.augment`.
        trainable: an `nnx` filter of the parameters to train, by default all.
        class_weights: a factor for the training losses of each class; for soft labels, their mean.
        ema: decay of a moving average of the weights, which is then evaluated instead of them.
        patience: stop after this many epochs without a better validation accuracy.
        threshold: a single logit above it means class 1.
        seed: of the order of photos and of augmentation.
        dtype: of the model's computations, forward and backward: "float32", or "bfloat16", which
            takes up to half the memory and is faster on accelerators made for it (in MobileNetV2
            only some matrix products are). Stored weights, augmentation, losses, optimizer and
            metrics stay float32. "float32" means it on GPUs and TPUs, too, unless JAX's own option
            `jax_default_matmul_precision` is set.
        on_device: keep the photos on the devices and run each epoch as one program; by default on
            a GPU if they fit into half of the free memory, on a TPU into a quarter. The history is
            the same up to rounding.
        mesh: the devices; by default all.
        callbacks: called as (record, state) after each epoch. The next epoch reuses the state's
            memory: read it, and copy what you keep (`jax.tree.map(jnp.copy, …)`).
        start: how many epochs another training has had before, as that of the head alone; the
            epochs are numbered, and their photos shuffled, as if there had been one training.
        after: to resume a training: the validation accuracies of its epochs, and its state. With
            the same other arguments, training continues as if it had not stopped.
        on_step: called with the epoch's number, from 0, and its sums so far, after each step (or
            after the epoch if that is one program).

    Raises:
        InputError: an argument is out of range, or images, labels, loss, augmentation, filter or
            batch size do not fit each other.
        RunError: the loss or the weights are not finite; that epoch yields no record.
    """
    splits = as_split(train, "train"), as_split(validation, "validation")
    augmentations = [augment] if callable(augment) else list(augment)
    _check_arguments(
        optimizer,
        augmentations,
        class_weights,
        start=start,
        epochs=epochs,
        patience=patience,
        ema=ema,
    )
    augmentation = combined(augmentations)
    mixes = not all(map(is_for_one_image, augmentations))
    check_fit(model, *splits, loss=loss, augment=augmentation if mixes else None)
    classes = len(splits[0].class_names)
    if class_weights is not None and len(class_weights) != classes:
        raise InputError(f"{len(class_weights)} class weights for {classes} classes")
    steps = (epochs - start) * len(splits[0].batches(batch_size))
    optimizer = optax.adam(1e-3) if optimizer is None else optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer(steps)
    graphdef, params, _ = split_trained(model, trainable)
    jax.eval_shape(optimizer.init, params)
    mesh = data_mesh(batch_size) if mesh is None else mesh
    task = Task(
        graphdef,
        optimizer,
        loss,
        augmentation,
        class_weights,
        ema,
        threshold,
        dtype,
        on_features=not augmentations and has_fixed_features(model, params),
    )

    def begin() -> TrainState:
        if after is None:
            averaged = ema is not None
            return create_state(model, optimizer, trainable=trainable, seed=seed, ema=averaged)[1]
        put_weights(model, after[1])
        return jax.tree.map(jnp.copy, after[1])

    resident = photos_fit_in_memory(splits) if on_device is None else on_device
    return _epochs(
        model,
        lambda: replicate(hosts.of_first(begin()), mesh),
        [] if after is None else list(after[0]),
        make_train_epoch(task, model, splits[0], batch_size, seed, mesh, resident=resident),
        make_validation(task, model, params, splits[1], batch_size, mesh, resident=resident),
        start=start,
        epochs=epochs,
        patience=patience,
        placed={"on_device": resident, "devices": mesh.size},
        callbacks=callbacks,
        on_step=on_step,
    )


def _check_arguments(
    optimizer: Any,
    augmentations: Sequence[Any],
    class_weights: Any,
    *,
    start: int,
    epochs: int,
    patience: int | None,
    ema: float | None,
) -> None:
    for name, value in (
        ("optimizer", optimizer),
        ("class_weights", class_weights),
        *(("augment", one) for one in augmentations),
    ):
        if isinstance(value, str):
            raise InputError(f"fit takes no names for {name}, as {value!r}: those are Experiment's")
    if epochs < 1 or (patience is not None and patience < 1):
        raise InputError("epochs and patience must be 1 or more")
    if not 0 <= start < epochs:
        raise InputError(f"start must be from 0 to epochs - 1, not {start}")
    if ema is not None and not 0 <= ema <= 1:
        raise InputError(f"ema must be from 0 to 1, not {ema}")
    if class_weights is not None and min(class_weights, default=0) < 0:
        raise InputError("class_weights must be 0 or more")


def _epochs(
    model: nnx.Module,
    begin: Callable[[], TrainState],
    accuracies: list[float],
    train_epoch: TrainEpoch,
    validate: Validation,
    *,
    start: int,
    epochs: int,
    patience: int | None,
    placed: dict[str, Any],
    callbacks: Sequence[Callback],
    on_step: Callable[[int, Sums], None] | None,
) -> Iterator[EpochRecord]:
    first, state = start + len(accuracies), begin()
    del begin  # and with it the state to resume from
    settle_once = cache(settle_memory)

    def report(epoch: int, sums: Sums) -> None:
        settle_once()  # the step has been compiled
        if on_step is not None:
            on_step(epoch, sums)

    for epoch in range(first, epochs):
        if patience is not None and _epochs_without_gain(accuracies) >= patience:
            return
        begun = time.perf_counter()
        state, totals, bad_step = train_epoch(state, epoch, partial(report, epoch))
        if bad_step:
            raise RunError(
                f"the loss became {float(totals['loss'])} in step {bad_step} of epoch {epoch + 1}; "
                f"{_WHAT_TO_TRY}"
            )
        put_weights(model, state)
        trained, (validated, logits) = Metrics.from_sums(totals), validate(model)
        if epoch == first:
            settle_memory()  # validation has been compiled, too
        # A step's loss is computed before its update, so the last update is checked here.
        if not (np.isfinite(validated.loss) and _all_finite((state.params, state.opt_state))):
            raise RunError(
                f"the weights or the validation loss are not finite "
                f"after the last step of epoch {epoch + 1}; {_WHAT_TO_TRY}"
            )
        accuracies.append(validated.accuracy)
        record = EpochRecord(
            epoch=epoch + 1,
            loss=trained.loss,
            accuracy=trained.accuracy,
            val_loss=validated.loss,
            val_accuracy=validated.accuracy,
            seconds=time.perf_counter() - begun,
            **placed,
            val_logits=logits,
        )
        for callback in callbacks:
            callback(record, state)
        yield record


def _epochs_without_gain(accuracies: Sequence[float]) -> int:
    return len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0


@jax.jit
def _all_finite(tree: PyTree) -> Bool[jax.Array, ""]:
    # A sum with an infinity or a NaN is not finite, and compiles faster than a question to each.
    leaves = (leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree))
    return jnp.isfinite(sum(leaf.sum() for leaf in leaves))
