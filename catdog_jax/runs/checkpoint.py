"""A run's checkpoints, with Orbax: all that training needs to go on as if it had never stopped.

`checkpoint/` holds a folder an epoch, named by its number: the last epoch's, and the best one's
where that is another. A checkpoint is complete when it holds `sha256.json`, the hashes of its other
files, which is written last; they are checked before it is read.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..errors import InputError, first_line
from ..files import sha256, written_whole
from ..reports.report import COLUMNS
from ..training.loop import TrainState

FORMAT = 2
"""Raise it when a checkpoint would hold something else."""

_DIGESTS = "sha256.json"

Rows = list[dict[str, float]]
Result = TypeVar("Result")


class Record(TypedDict):
    """What a checkpoint says of itself, beside its arrays."""

    format: int
    experiment: dict[str, Any]
    """As in `config.json`."""
    inputs: dict[str, str]
    """Fingerprints of the photos and of the weights file."""
    class_names: list[str]
    """In the order of their labels."""
    history: Rows
    """Up to its epoch."""
    on_device: bool


def best_epoch(history: Rows) -> int:
    """The epoch, counted from 1, of the best validation accuracy; the first of several."""
    accuracies = [row["val_accuracy"] for row in history]
    return 1 + accuracies.index(max(accuracies))


def epochs(folder: Path) -> list[int]:
    """The epochs that have a checkpoint in `folder`, in order."""
    complete = folder.glob(f"[0-9]*/{_DIGESTS}")
    return sorted(int(path.parent.name) for path in complete if path.parent.name.isdecimal())


def save(folder: Path, state: TrainState, record: Record) -> None:
    """Write the checkpoint of the history's last epoch; then remove those no longer needed.

    Raises:
        OSError: it cannot be written; those that were there are still whole.
    """
    epoch, kept = len(record["history"]), epochs(folder)
    arrays = _named(state)
    try:
        folder.mkdir(exist_ok=True)
        # Orbax on a full disk says so in many lines from its threads: better not to begin.
        if shutil.disk_usage(folder).free < 1.2 * sum(x.nbytes for x in arrays.values()) + 1e6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                (folder / str(epoch)).absolute(),
                arrays,
                custom_metadata=cast(dict[str, Any], record),
                force=True,
            )
        path = folder / str(epoch)
        written = sorted(file for file in path.rglob("*") if file.is_file())
        digests = {file.relative_to(path).as_posix(): sha256(file) for file in written}
        with written_whole(path / _DIGESTS) as file:
            json.dump(digests, file, indent=2)
    except Exception as error:  # Orbax and its storage document none of what they raise
        _remove_all_but(kept, folder)
        raise OSError(f"the checkpoint of epoch {epoch}: {first_line(error)[:200]}") from error
    _remove_all_but([epoch, best_epoch(record["history"])], folder)


def read(path: Path) -> Record:
    """What the checkpoint `path` says of itself.

    Raises:
        InputError: there is none, it is damaged, or another version's.
    """
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}; restore it from a copy, or train anew")
    return _orderly(path, partial(_read, path))


def restore(path: Path, state: TrainState) -> TrainState:
    """The state in the checkpoint `path`.

    Args:
        path: a checkpoint's folder.
        state: another state of the same model and optimizer; stays as it is.

    Raises:
        InputError: a tensor is missing, left over, of another shape or dtype, or not finite; or
            the checkpoint is damaged.
    """
    wanted = _named(state)
    saved = _orderly(path, partial(_restore, path, wanted))
    for name, array in saved.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InputError(f"{path} is of no use: {name} holds NaN or infinity")
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(
        structure,
        [
            jax.random.wrap_key_data(saved[name]) if _is_key(leaf) else saved[name]
            for name, leaf in zip(wanted, leaves, strict=True)
        ],
    )


def _read(path: Path) -> Record:
    with ocp.StandardCheckpointer() as checkpointer:
        record: Any = checkpointer.metadata(path.absolute()).custom_metadata
    if record["format"] != FORMAT:
        raise InputError(
            f"{path} was written in format {record['format']}, this version of catdog_jax reads "
            f"format {FORMAT}; train anew into another folder"
        )
    if [row["epoch"] for row in record["history"]] != list(range(1, int(path.name) + 1)):
        raise ValueError("its history is another epoch's")
    for row in record["history"]:
        sum(row[name] for name in COLUMNS)  # numbers, all of them
    return Record(**{name: record[name] for name in Record.__annotations__})


def _restore(path: Path, wanted: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    with ocp.StandardCheckpointer() as checkpointer:
        found: Any = checkpointer.metadata(path.absolute()).item_metadata
        _check(path, {name: (tuple(x.shape), x.dtype) for name, x in found.items()}, wanted)
        return checkpointer.restore(path.absolute(), dict(wanted))


def _orderly(path: Path, work: Callable[[], Result]) -> Result:
    """What `work` gives; what Orbax raises, which it does not document, as one `InputError`."""
    try:
        _verify(path)
        return work()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({first_line(error)[:200]}); restore it from a "
            "copy, or train anew (if it is the last epoch's, deleting it is enough)"
        ) from error


def _verify(path: Path) -> None:
    # Orbax would find damage, too, but say so in a hundred lines from its threads.
    for name, digest in json.loads((path / _DIGESTS).read_text("utf-8")).items():
        if sha256(path / name) != digest:
            raise ValueError(f"{name} is not what was written")


def _check(path: Path, found: dict[str, Any], wanted: Mapping[str, jax.Array]) -> None:
    expected = {name: (array.shape, array.dtype) for name, array in wanted.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            there, here = (
                "no such tensor" if side.get(name) is None else "{1}{0}".format(*side[name])
                for side in (found, expected)
            )
            raise InputError(
                f"{path} is not a checkpoint of this model: {name} is {there} there, {here} here"
            )


def _named(state: TrainState) -> dict[str, jax.Array]:
    """Every array by the path to it, keys as the numbers they are made of."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _remove_all_but(kept: Collection[int], folder: Path) -> None:
    """Also what a killed process left unfinished; but nothing that is not of this module."""
    for path in folder.glob("[0-9]*"):
        epoch, _, _unfinished = path.name.partition(".orbax-checkpoint-tmp")
        if epoch.isdecimal() and path.name not in map(str, kept):
            # What cannot be removed does no harm but to the room that it takes.
            shutil.rmtree(path, ignore_errors=True)
