"""A run's checkpoints, written by Orbax: those of the last and of the best epoch.

`checkpoint/4/` holds the state after epoch 4 and a record of the run it belongs to. Orbax renames
the folder into place once it is complete. Then the hashes of its files are written to `sha256.json`
in it, and are compared before the checkpoint is read.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from ..errors import InputError, first_line
from ..files import sha256, written_whole
from ..training import hosts
from ..training.mesh import local
from ..training.state import TrainState
from .history import COLUMNS, Row, best_epoch

FORMAT = 3
"""Increase it when the content of a checkpoint changes."""

DIGESTS = "sha256.json"

Arrays: TypeAlias = dict[str, np.ndarray]
ShapeAndDtype: TypeAlias = tuple[tuple[int, ...], Any]


class Record(TypedDict):
    """What a checkpoint holds besides its arrays."""

    format: int
    experiment: dict[str, Any]
    """As in `config.json`."""
    inputs: dict[str, str]
    """Fingerprints of the photos, the weights file and the experiment's code."""
    class_names: list[str]
    """In the order of their labels."""
    history: list[Row]
    """Up to this epoch."""
    device: str
    """Devices of the last epoch, as `2 × NVIDIA H200`."""
    on_device: bool


def epochs(folder: Path) -> list[int]:
    """The epochs with a checkpoint in `folder`, in order.

    Raises:
        OSError: the folder cannot be listed.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = [int(name) for name in names if name.isdecimal()]
    return sorted(n for n in numbers if (folder / str(n) / "_CHECKPOINT_METADATA").is_file())


def on_host(state: TrainState) -> Arrays:
    """A copy of all arrays of a state, by path."""
    # At once: Orbax would fetch arrays from the devices one by one.
    return jax.tree.map(np.array, jax.device_get(_named(local(state))))


def save(folder: Path, arrays: Arrays, record: Record) -> None:
    """Write the checkpoint of the history's last epoch, then remove those no longer needed.

    Args:
        folder: of the run's checkpoints.
        arrays: the state after that epoch.
        record: of the run up to it.

    Raises:
        OSError: it cannot be written; earlier ones are intact.
    """
    epoch = len(record["history"])
    try:
        folder.mkdir(exist_ok=True)
        # On a full disk Orbax's threads print many lines, so check before.
        if shutil.disk_usage(folder).free < 1.2 * sum(x.nbytes for x in arrays.values()) + 1e6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(record)
        )
        with _manager(folder, keep=[epoch, best_epoch(record["history"])]) as manager:
            manager.save(epoch, args=items, force=True)
        path = folder / str(epoch)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        digests = {file.relative_to(path).as_posix(): sha256(file) for file in files}
        with written_whole(path / DIGESTS) as file:
            json.dump(digests, file, indent=2)
    except Exception as error:  # Orbax does not document its errors
        raise OSError(f"the checkpoint of epoch {epoch}: {first_line(error)[:200]}") from error


def read(path: Path) -> Record:
    """The record of the checkpoint `path`.

    Raises:
        InputError: it is missing, damaged, of another version, or cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}; restore it from a backup, or train again")
    items = ocp.args.Composite(record=ocp.args.JsonRestore())
    with _reading(path), _manager(path.parent) as manager:
        # Format 2 had no record.
        there = (path / "record").is_dir()
        record: Any = manager.restore(int(path.name), args=items).record if there else {"format": 2}
    if record["format"] != FORMAT:
        raise InputError(
            f"{path} was written in format {record['format']}, this version of catdog_jax reads "
            f"format {FORMAT}; train again into another folder"
        )
    numbers = [row["epoch"] for row in record["history"] if row.keys() >= set(COLUMNS)]
    if numbers != list(range(1, int(path.name) + 1)):
        raise InputError(f"{path} is not the checkpoint of this epoch; was it renamed?")
    return Record(**{name: record[name] for name in Record.__annotations__})


def restore(path: Path, state: TrainState, *, weights_only: bool = False) -> TrainState:
    """The state in the checkpoint `path`; with several processes all call it, the first reads.

    Args:
        path: a checkpoint's folder.
        state: a state of the same model and optimizer; is not changed.
        weights_only: take the optimizer's state from `state`.

    Raises:
        InputError: a tensor is missing, unexpected, of another shape or dtype, or not finite; or
            the checkpoint is damaged or cannot be read.
    """
    wanted = {name: (array.shape, array.dtype) for name, array in _named(state).items()}
    saved = hosts.from_first(_saved, path, wanted, weights_only=weights_only)
    # jnp.asarray would compile a program for each shape.
    arrays = [jax.device_put(saved[name]) for name in wanted]
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(
        structure,
        [
            jax.random.wrap_key_data(array) if _is_key(leaf) else array
            for array, leaf in zip(arrays, leaves, strict=True)
        ],
    )


def _saved(path: Path, wanted: Mapping[str, ShapeAndDtype], *, weights_only: bool) -> Arrays:
    """The arrays in a checkpoint; see `restore`."""
    with _reading(path), _manager(path.parent) as manager:
        epoch = int(path.name)
        there: Any = manager.item_metadata(epoch).state
        found = {name: (tuple(x.shape), x.dtype) for name, x in there.tree.items()}
        compared = found
        if weights_only:
            compared = {n: x for n, x in found.items() if not n.startswith("opt_state.")}
        _check(path, compared, wanted)
        # As NumPy arrays: the checkpoint shall not decide on which devices they are.
        template = {name: np.empty(*shape_and_dtype) for name, shape_and_dtype in found.items()}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        saved: Any = manager.restore(epoch, args=items).state
    for name in wanted:
        if np.issubdtype(saved[name].dtype, np.floating) and not np.isfinite(saved[name]).all():
            raise InputError(f"{path} cannot be used: {name} holds NaN or infinity")
    return {name: np.asarray(saved[name]) for name in wanted}


def _manager(folder: Path, keep: list[int] | None = None) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints in `folder`; when saving, it keeps only these epochs."""
    # The state is the same in all processes, so one writes and reads it without the others.
    me = jax.process_index()
    by_itself = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(
            create=False,
            cleanup_tmp_directories=keep is not None,  # unfinished ones of killed processes
            enable_async_checkpointing=False,
            preservation_policy=policies.CustomSteps(keep or []),
            save_root_metadata=False,
            multiprocessing_options=by_itself,
        ),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=by_itself),
            "record": ocp.JsonCheckpointHandler(multiprocessing_options=by_itself),
        },
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading into one line that says whether the checkpoint is damaged."""
    try:
        _verify(path)  # Orbax detects damage, too, but its threads print many lines
        yield
    except InputError:
        raise
    except Exception as error:  # of the system or of Orbax, which does not document its errors
        raise InputError(
            f"{path} cannot be read ({first_line(error)[:200]}); fix the cause and try again"
        ) from error


def _verify(path: Path) -> None:
    """Compare the files with their hashes, unless a killed process wrote none."""
    if not (path / DIGESTS).exists():
        return
    damaged = DIGESTS
    try:
        for name, digest in json.loads((path / DIGESTS).read_text("utf-8")).items():
            damaged = name
            if sha256(path / name) != digest:
                raise ValueError("its content has changed")  # noqa: TRY301
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({damaged}: {first_line(error)}); restore it from a backup, or "
            "train again (if there is an earlier one, deleting this is enough)"
        ) from error


def _check(
    path: Path, found: Mapping[str, ShapeAndDtype], wanted: Mapping[str, ShapeAndDtype]
) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            there, here = (
                "no such tensor" if side.get(name) is None else "{1}{0}".format(*side[name])
                for side in (found, wanted)
            )
            raise InputError(
                f"{path} is not a checkpoint of this model: {name} is {there} there, {here} here"
            )


def _named(state: TrainState) -> dict[str, jax.Array]:
    """All arrays by path; random keys as their raw data."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
