"""Runs the commands on standard input, a line each, in forks of a process that has imported all.

Prints a command's process id before its output and `ended CODE` after it: CODE is the exit status,
or minus the signal that killed it. JAX starts its threads in the forks alone.
"""

import os
import shlex
import sys

import catdog_jax.commands.training
import catdog_jax.runs.runner  # noqa: F401 (with JAX, Flax and Orbax)
from catdog_jax.cli import main

for line in sys.stdin:
    if not (process := os.fork()):
        os._exit(main(shlex.split(line)))
    print(process, flush=True)
    print(f"ended {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}", flush=True)
