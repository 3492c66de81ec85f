"""The two errors that a user can cause; the command line ends each in one line."""


class InputError(ValueError):
    """Something given is wrong: a path, a name, a file's contents. Exit code 2."""


class RunError(RuntimeError):
    """A run that began could not be finished: a loss that is not finite, say. Exit code 1."""


def first_line(error: BaseException) -> str:
    """Return what any error says, in one line, to be told in one of the above."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().split("\n")[0] or type(error).__name__
