"""Call a function in a process of its own, because TensorFlow never frees its memory.

In the training process it would cost half a gigabyte and slow a step of model 4 from 86 to 98 ms.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ..errors import InputError, first_line
from .quiet_tensorflow import native_stderr_hidden

_GRACE = 5.0
"""Grace period (s) for that process after its parent exits."""


def call(module: str, function: str, arguments: Mapping[str, Any], *, reads: str) -> Any:
    """Call a module's function in a process of its own and return its result.

    Args:
        module: full name of the module.
        function: name of the function, whose result JSON can hold.
        arguments: keyword arguments that JSON can hold.
        reads: what the function reads, named in errors.

    Raises:
        InputError: the function raised it, or the process ended without an answer.
    """
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    with subprocess.Popen(
        [*command, json.dumps([module, function, arguments, reads])],
        stdin=subprocess.PIPE,  # closes when this process ends, even if it is killed
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode or not lines:
        killed = " (killed, perhaps out of memory)" if process.returncode == -9 else ""
        raise InputError(
            f"the process reading {reads} ended with code {process.returncode}{killed}: "
            "try again, or with fewer photos"
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["result"]


def _answer() -> None:
    """The other process: call the function and print its result, or the error."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    module, function, arguments, reads = json.loads(sys.argv[1])
    # Keeps Python's progress bar; TensorFlow's C++ logs are hidden below.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        with native_stderr_hidden():
            answer = {"result": getattr(import_module(module), function)(**arguments)}
    except InputError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        answer = {"error": f"{reads} could not be read ({why}): try with fewer photos"}
    except KeyboardInterrupt:  # Ctrl-C reaches both processes; the parent reports it
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_the_parent() -> None:
    """End this process when its parent has ended."""
    while os.read(0, 1):  # not sys.stdin, whose lock would block the exit
        pass
    time.sleep(_GRACE)  # time to clean up after Ctrl-C
    os._exit(1)
