"""The command `catdog-jax`, and `python -m catdog_jax`."""

import os
import sys


def main() -> int:
    """Run the command line and return the exit code; Ctrl-C is quiet even during imports."""
    try:
        _open_closed_streams()
        _use_utf8()
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        # At once: after an interrupt within `exec`, which makes dataclasses, Python would not
        # return this code but end itself by SIGINT.
        os._exit(130)


def _open_closed_streams() -> None:
    """Open /dev/null for streams that a shell closed (`>&-`): files must not get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode where the POSIX locale would make it use ASCII."""
    if sys.getfilesystemencoding() == "ascii" and os.name == "posix":
        environment = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
