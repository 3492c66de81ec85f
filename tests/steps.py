"""A training step of a model, made as `fit` makes it, and meshes of some of the devices."""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from catdog_jax.training.augment import combined
from catdog_jax.training.losses import Loss, cross_entropy
from catdog_jax.training.mesh import replicate
from catdog_jax.training.state import TrainState, create_state
from catdog_jax.training.step import Step, Task, jit_step


def mesh_of(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",))


def jitted_step(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    trainable: Any = nnx.Param,
    augment: Any = (),
    class_weights: Any = None,
    ema: float | None = None,
    threshold: float = 0.0,
    loss: Loss = cross_entropy,
) -> tuple[Step, TrainState]:
    graphdef, state = create_state(model, optimizer, trainable=trainable, ema=ema is not None)
    task = Task(
        graphdef,
        optimizer,
        loss,
        combined(augment),
        class_weights,
        ema,
        threshold,
        "float32",
    )
    return jit_step(task, mesh), replicate(state, mesh)
