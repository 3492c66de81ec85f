"""TensorFlow, imported quietly and only when something needs it: TFDS and the export to Keras."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from ..errors import InputError, first_line


def op_reason(error: Exception) -> str:
    """A TensorFlow error's message without the op it came from."""
    said = getattr(error, "message", None) or first_line(error)
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\]", "", said).strip().split("\n")[0]


@functools.cache
def tensorflow() -> Any:
    """Import TensorFlow quietly and keep it off the GPU.

    Raises:
        InputError: it cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with native_stderr_hidden():  # it logs before reading its log level
            import tensorflow as tf
    except Exception as error:  # an incompatible machine or NumPy raises errors of any kind
        raise InputError(
            f"this needs TensorFlow, which cannot be imported ({first_line(error)}): install it"
        ) from error
    # Too late if the caller has already used TensorFlow.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf


@contextlib.contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hide what C++ code writes to file descriptor 2, below Python's sys.stderr."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed, so there is nothing to hide
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (no path to speak of)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
