"""Call a function in a process of its own: TensorFlow never gives its memory back.

In the process that trains it would cost half a gigabyte, and slow a step of model 4 from 86 to
98 ms. A photo that crashes TensorFlow ends only that process.
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
from .decode import native_stderr_hidden

_GRACE = 5.0
"""Grace period (s) for that process after its parent exits."""


def call(module: str, function: str, arguments: Mapping[str, Any], *, reads: str) -> Any:
    """`function(**arguments)` of a module, in a process of its own.

    Args:
        module: full name of the module.
        function: name of the function in it; what it returns must fit JSON.
        arguments: must fit JSON, too.
        reads: what the function reads, named in errors.

    Raises:
        InputError: as the function does, or the process ended without an answer.
    """
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    with subprocess.Popen(
        [*command, json.dumps([module, function, arguments, reads])],
        stdin=subprocess.PIPE,  # which closes when this process ends, however it does
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode or not lines:
        killed = " (killed, perhaps for want of memory)" if process.returncode == -9 else ""
        raise InputError(
            f"the process that was to read {reads} ended with {process.returncode}{killed}: "
            "try again, or with fewer photos"
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["result"]


def _answer() -> None:
    """Be the other process: call the function and print what it returns, or what is wrong."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    module, function, arguments, reads = json.loads(sys.argv[1])
    # TensorFlow's C++ grumbles at every photo that it cannot read; Python shows the progress.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        with native_stderr_hidden():
            answer = {"result": getattr(import_module(module), function)(**arguments)}
    except InputError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        answer = {"error": f"{reads} could not be read ({why}): try with fewer photos"}
    except KeyboardInterrupt:  # Ctrl-C goes to both processes; the other one will say so
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_the_parent() -> None:
    """Wait until nobody waits for the answer any more, then end this process."""
    while os.read(0, 1):  # not through sys.stdin, which could not be closed meanwhile
        pass
    time.sleep(_GRACE)  # after Ctrl-C, to clear away what was half done
    os._exit(1)
