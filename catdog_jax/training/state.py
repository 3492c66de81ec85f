"""The state of a training: how a model is split into it, put together and called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, PyTree

from ..errors import InputError
from ..models.layers import STAYS_FLOAT32
from .losses import Logits

Dtype = Literal["float32", "bfloat16"]
Model = TypeVar("Model", bound=nnx.Module)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step reads and changes: arrays, or what JAX puts in their place."""

    step: PyTree
    """int32[], the number of steps taken."""
    key: PyTree
    """A random key, for augmentation; a model's dropout has its own keys, in `other`."""
    params: PyTree
    """The trained part of the model."""
    other: PyTree
    """The rest of the model: frozen weights, batch statistics, dropout keys."""
    opt_state: optax.OptState
    ema: PyTree
    """The moving average of `params`, or None."""


def create_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Any = nnx.Param,
    seed: int = 0,
    ema: bool = False,
) -> tuple[nnx.GraphDef, TrainState]:
    """Split `model` into its structure and the state that training starts from.

    Args:
        model: is not changed.
        optimizer: to initialize.
        trainable: an `nnx` filter of the parameters to train.
        seed: of augmentation.
        ema: keep a moving average of the weights.

    Raises:
        InputError: `trainable` selects no parameter.
    """
    graphdef, params, other = split_trained(model, trainable)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        # Another key than `nnx.Rngs(seed)` uses for initial weights.
        key=jax.random.split(jax.random.key(seed))[1],
        params=params,
        other=other,
        opt_state=jax.jit(optimizer.init)(params),
        ema=params if ema else None,
    )
    return graphdef, _copied(state)  # steps donate their state


def split_trained(model: nnx.Module, trainable: Any) -> tuple[nnx.GraphDef, PyTree, PyTree]:
    """Structure of `model`, its parameters that are trained, and everything else; no copies.

    Raises:
        InputError: `trainable` selects no parameter.
    """
    graphdef, params, other = nnx.split(model, nnx.All(nnx.Param, trainable), ...)
    if not jax.tree.leaves(params):
        parts = ", ".join(name for name in vars(model) if not name.startswith("_"))
        raise InputError(
            f"nothing to train: {trainable} selects no parameter of {type(model).__name__} "
            f"(its parts: {parts})"
        )
    return graphdef, params, other


def put_weights(model: nnx.Module, state: TrainState) -> None:
    """Fill `model`, in place, with the weights to evaluate: the moving average if there is one."""
    params = state.params if state.ema is None else state.ema
    # Copies, because the next step donates the state.
    nnx.update(model, *_copied((params, state.other)))


# One program: jnp.copy alone compiles one for each shape, a second altogether for model 5.
@jax.jit
def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def in_mode(model: Model, *, training: bool) -> Model:
    """A view of `model` in training mode (dropout, batch statistics of the batch) or not."""
    return nnx.view(
        model,
        raise_if_not_found=False,  # not every model has such layers
        deterministic=not training,
        use_running_average=not training,
    )


def in_dtype(state: PyTree, dtype: Dtype) -> PyTree:
    """A model's parameters in the dtype to compute in.

    Batch statistics stay float32, and so does what a layer rounds itself (`STAYS_FLOAT32`).

    Raises:
        InputError: the dtype is unknown.
    """
    if dtype == "float32":  # as they are stored
        return state
    if dtype != "bfloat16":
        raise InputError(f"unknown dtype '{dtype}'; choose float32 or bfloat16")

    def convert(variable: Any) -> Any:
        if not isinstance(variable, nnx.Param) or variable.get_metadata().get(STAYS_FLOAT32):
            return variable
        return variable.replace(variable[...].astype(jnp.bfloat16))

    return jax.tree.map(convert, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def trained_parts(params: PyTree) -> Sequence[str]:
    """Names of the model's attributes that hold trained parameters."""
    return sorted({str(path[0]) for path, _ in nnx.to_flat_state(params)})


def apply(graphdef: nnx.GraphDef, dtype: Dtype, state: PyTree, images: Array) -> Logits:
    """Logits of a model, at least float32; its mode (training or not) is in `graphdef`."""
    model: Any = nnx.merge(graphdef, in_dtype(state, dtype))
    return full_precision(model(in_pixels(images, dtype)))


def in_pixels(images: Array, dtype: Dtype) -> Array:
    """Pixels as models get them; bfloat16 represents 0…255 exactly."""
    return images.astype(float if dtype == "float32" else dtype)  # float64 in x64 mode


def full_precision(logits: Logits) -> Logits:
    """`logits` in at least float32, for the loss."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
