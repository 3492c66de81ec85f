"""The command `catdog-jax`, and `python -m catdog_jax`."""

import sys


def main() -> int:
    """Run the command line; gives the exit code. Ctrl-C ends it quietly even while it starts."""
    try:
        from .cli import main as run  # takes seconds: JAX comes with it
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
