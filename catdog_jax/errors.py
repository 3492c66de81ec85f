"""What is said to users: the two errors that they can cause, each in one line, and printing."""

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something given is wrong: a path, a name, a file's contents. Exit code 2."""


class RunError(RuntimeError):
    """A run that began could not be finished: a loss that is not finite, say. Exit code 1."""


def first_line(error: BaseException) -> str:
    """Return what any error says, in one line, to be told in one of the above."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().split("\n")[0] or type(error).__name__


def printable(text: str) -> str:
    """Return `text` with what a line on a terminal cannot hold escaped: file names may have it."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def say(line: str) -> None:
    """Print a line at once, whatever names it holds, and wherever it goes."""
    encoding = sys.stdout.encoding or "utf-8"  # of a terminal or file that may not take them all
    print(printable(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def guarded(command: Callable[[], object]) -> int:
    """Run `command`; an error that the user can mend ends in one line, without a traceback.

    Returns:
        The exit code: what `command` returns, if that is a number.
    """
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
        except OSError:  # nobody reads our output, or its disk is full: do not let Python try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as of `| head`
            return 1
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{first_line(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        # When an accelerator's memory is full, XLA raises a kind of RuntimeError.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what_to_try = "try a smaller --batch-size or --image-size, or --on-device False"
        return _failed(f"not enough memory ({first_line(error)[:200]}); {what_to_try}", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _failed(said: str, code: int) -> int:
    print(f"error: {printable(said)}", file=sys.stderr)
    return code
