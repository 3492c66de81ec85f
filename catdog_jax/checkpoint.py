"""Saving and restoring a model's weights with Orbax."""

from pathlib import Path

import orbax.checkpoint as ocp
from flax import nnx

from .errors import InputError


def save(folder: Path, model: nnx.Module) -> None:
    """Write all of `model`'s variables to `folder`, replacing what is there.

    Orbax writes beside and renames, so a reader never meets half a checkpoint.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), nnx.to_pure_dict(nnx.state(model)), force=True)


def restore(folder: Path, model: nnx.Module) -> None:
    """Fill `model`, in place, from `folder`.

    Raises:
        InputError: there is no checkpoint, or it is another model's.
    """
    if not folder.is_dir():
        raise InputError(f"no checkpoint at {folder}")
    state = nnx.state(model)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.restore(folder.absolute(), nnx.to_pure_dict(state))
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is not a checkpoint of this model: {reason}") from error
    nnx.replace_by_pure_dict(state, saved)
    nnx.update(model, state)
