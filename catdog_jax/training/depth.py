"""Training by depth: only the last stages of a model, or each stage at its own learning rate."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import optax
from flax import nnx

from ..errors import InputError
from ..models.layers import PathParts


@runtime_checkable
class Staged(Protocol):
    """A model that names its parts in order, so that it can be trained by depth."""

    @property
    def stages(self) -> Sequence[PathParts]:
        """Paths of the parts that hold all parameters, from the input to the output.

        As `[("stem",), ("blocks", 0), ("blocks", 1), ("head",)]`.
        """
        ...


def last_stages(model: nnx.Module, count: int) -> Callable[[PathParts, Any], bool]:
    """An `nnx` filter of the parameters in the last `count` of the model's stages.

    Raises:
        InputError: the model does not name its stages, or has fewer.
    """
    stages = _stages_of(model)
    if not 1 <= count <= len(stages):
        raise InputError(f"last={count}: {type(model).__name__} has {len(stages)} stages")
    first = len(stages) - count
    return lambda path, _: _stage(path, stages) >= first


def scale_by_depth(model: nnx.Module, decay: float) -> optax.GradientTransformation:
    """Multiply updates by `decay` for each stage between theirs and the output.

    Layer-wise learning rates (Howard & Ruder 2018, arXiv:1801.06146): the early stages, which are
    the most general, change least.

    Raises:
        InputError: the model does not name its stages.
    """
    stages = _stages_of(model)

    def scaled(path: jax.tree_util.KeyPath, leaf: Any) -> Any:
        keys = tuple(getattr(entry, "key", None) for entry in path)
        return leaf * decay ** (len(stages) - 1 - _stage(keys, stages))

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


def _stages_of(model: nnx.Module) -> list[PathParts]:
    """The model's stages.

    Raises:
        InputError: it does not name them, or a parameter is in none.
    """
    name = type(model).__name__
    if not isinstance(model, Staged):
        raise InputError(
            f"{name} does not name its stages: give it a property `stages`, the paths of its parts "
            "from input to output, as MobileNetV2 has"
        )
    stages = list(model.stages)
    for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if _stage(path, stages) < 0:
            raise InputError(f"the stages of {name} leave out {'.'.join(map(str, path))}")
    return stages


def _stage(path: Sequence[Any], stages: Sequence[PathParts]) -> int:
    """The number of a parameter's stage, or -1."""
    found = (n for n, stage in enumerate(stages) if tuple(path[: len(stage)]) == tuple(stage))
    return next(found, -1)
