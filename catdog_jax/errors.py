"""What is said to users: the two errors that they can cause, each in one line, and printing."""

import sys


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
