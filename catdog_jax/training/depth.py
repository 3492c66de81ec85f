"""Training by depth: only the last stages of a model, or each stage at its own learning rate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from ..errors import InputError
from ..models.layers import Path, Staged


def last_stages(model: nnx.Module, count: int) -> Callable[[Path, Any], bool]:
    """An `nnx` filter of the parameters in the last `count` of the model's stages.

    Raises:
        InputError: the model does not name its stages, or has fewer.
    """
    stages = stages_of(model)
    if not 1 <= count <= len(stages):
        raise InputError(f"last={count}: {type(model).__name__} has {len(stages)} stages")
    chosen = stages[-count:]
    return lambda path, _: any(path[: len(stage)] == stage for stage in chosen)


def scale_by_depth(model: nnx.Module, decay: float) -> optax.GradientTransformation:
    """Multiply updates by `decay` for each stage between theirs and the output.

    Layer-wise learning rates (Howard & Ruder 2018, arXiv:1801.06146): the early stages, which are
    the most general, change least.

    Raises:
        InputError: the model does not name its stages.
    """
    stages = stages_of(model)

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * decay ** (len(stages) - 1 - _stage(path, stages)), updates
        )

    return optax.stateless(update)


def stages_of(model: nnx.Module) -> list[Path]:
    """The model's stages.

    Raises:
        InputError: it does not name them.
    """
    if not isinstance(model, Staged):
        raise InputError(
            f"{type(model).__name__} does not name its stages: give it a property `stages`, the "
            "paths of its parts from input to output, as MobileNetV2 has"
        )
    return list(model.stages)


def _stage(path: Sequence[Any], stages: Sequence[Path]) -> int:
    """The stage of a parameter; one outside all stages counts as the last."""
    keys = tuple(getattr(entry, "key", None) for entry in path)
    found = (i for i, stage in enumerate(stages) if keys[: len(stage)] == stage)
    return next(found, len(stages) - 1)
