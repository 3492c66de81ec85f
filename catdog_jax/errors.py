"""Errors that users can cause, and helpers that print them in one line."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any


class InputError(ValueError):
    """Something given is wrong: a path, a name, a file's contents. Exit code 2."""


class RunError(RuntimeError):
    """A run that began could not be finished: a loss that is not finite, say. Exit code 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().split("\n")[0] or type(error).__name__


def printable(text: str) -> str:
    """`text` with unprintable characters escaped; file names may hold them."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def say(line: str) -> None:
    """Print a line and flush it; characters that stdout cannot encode are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def guarded(command: Callable[[], object]) -> int:
    """Run `command`; an error that the user can fix is one line on stderr, without a traceback.

    Returns:
        The exit code: what `command` returns if that is a number, else 0; 1, 2 or 130 on errors.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_interrupt_again, hook)
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _failed(str(error), 2)
    except RunError as error:
        return _failed(str(error), 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # broken pipe or full disk: keep Python from flushing again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as of `| head`
            return 1
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{first_line(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        # XLA raises a RuntimeError when an accelerator's memory is full.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what_to_try = "try a smaller --batch-size or --image-size, or --on-device False"
        return _failed(f"not enough memory ({first_line(error)[:200]}); {what_to_try}", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        sys.unraisablehook = hook


def _interrupt_again(hook: Callable[[Any], object], dropped: Any) -> None:
    """Press Ctrl-C again if Python has dropped it: JAX lets the garbage collector call Python."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, _press_ctrl_c).start()
    else:
        hook(dropped)


def _press_ctrl_c() -> None:
    if hasattr(signal, "pthread_kill"):  # ends a sleep, too; not on Windows
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _failed(said: str, code: int) -> int:
    print(f"error: {printable(said)}", file=sys.stderr)
    return code
