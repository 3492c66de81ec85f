"""One training in several processes, on one or several hosts (`jax.distributed`).

All processes run the same program, each on its own part of every batch, and reach the same results.
What only one shall do, such as writing files, is done by the first. Functions here that talk to the
other processes must be called by all of them, in the same order.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ..errors import InputError, RunError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def several() -> bool:
    """Whether other processes take part in what this one does."""
    return jax.process_count() > 1 and not _ALONE.get()


def is_first() -> bool:
    """Whether this is the process that writes files and messages."""
    return jax.process_index() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process works on its own devices, without the others."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def devices() -> list[Any]:
    """The devices to work on, those of each process side by side."""
    if not several():
        return jax.local_devices()
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def from_first(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call `function` in the first process only; all get its result, or its error.

    So that, for example, the run's folder needs to exist on its disk alone.

    Raises:
        InputError, RunError: raised by `function`.
    """
    if not several():
        return function(*args, **kwargs)
    message = b""
    if is_first():
        answer: tuple[Any, Exception | None]
        try:
            with alone():
                answer = function(*args, **kwargs), None
        except (InputError, RunError) as error:
            answer = None, error
        message = pickle.dumps(answer)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    sent = np.frombuffer(message, np.uint8) if is_first() else np.zeros(size, np.uint8)
    # Bytes of our own process, so they can be trusted.
    result, error = pickle.loads(multihost_utils.broadcast_one_to_all(sent).tobytes())
    if error is not None:
        raise error
    return result


def first_then_others(function: Callable[[], Result]) -> Result:
    """Call `function` in the first process, then in the others: on a shared disk one prepares.

    The first process's error ends all.
    """
    if not several():
        return function()
    prepared: list[Result] = []
    from_first(lambda: prepared.append(function()))
    return prepared[0] if prepared else function()


def of_first(tree: PyTree) -> PyTree:
    """The arrays of the first process's `tree`; those that are on all hosts stay as they are."""
    if not several():
        return tree
    leaves, structure = jax.tree.flatten(tree)
    own = [i for i, leaf in enumerate(leaves) if leaf.is_fully_addressable]
    keys = [i for i in own if jnp.issubdtype(leaves[i].dtype, jax.dtypes.prng_key)]
    for i in keys:
        leaves[i] = jax.random.key_data(leaves[i])
    sent = multihost_utils.broadcast_one_to_all([np.asarray(leaves[i]) for i in own])
    for i, array in zip(own, sent, strict=True):
        leaves[i] = jax.random.wrap_key_data(array) if i in keys else array
    return jax.tree.unflatten(structure, leaves)


def all_agree(answer: bool) -> bool:
    """Whether `answer` is true in all processes."""
    return bool(np.all(_of_all(np.bool_(answer)))) if several() else answer


def check_same(what: str, fingerprint: str) -> None:
    """Refuse to go on if this process's `what` is not that of the first one.

    Raises:
        InputError: it differs.
    """
    first = from_first(lambda: fingerprint)
    wrong = np.flatnonzero(_of_all(np.bool_(fingerprint != first))) if several() else []
    if len(wrong):
        raise InputError(
            f"process {wrong[0]} has other {what} than process 0; all processes need the same"
        )


def check_same_settings(settings: Mapping[str, Any]) -> None:
    """Refuse to go on if this process's `settings` are not those of the first one.

    With other ones, processes would train on, each its own way, or wait for each other for ever.

    Raises:
        InputError: they differ; the process with the others says in what.
    """
    first = from_first(lambda: settings)
    other = next((name for name in settings if settings[name] != first[name]), None)
    check_same(f"settings ({other})" if other else "settings", other or "")


def _of_all(value: Any) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(value))
