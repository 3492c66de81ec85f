"""What several commands begin with."""

import os
import sys
from typing import TYPE_CHECKING

from ..errors import InputError, first_line
from .processes import join, tie_together

if TYPE_CHECKING:
    from ..runs.results import Run
    from .settings import Train


def start_jax(together: "Train | None" = None) -> None:
    """Set up JAX; refuse a platform in JAX_PLATFORMS that does not exist here.

    `together` are the options of a command that several processes may run together.
    """
    import jax

    from ..training.mesh import set_up_jax

    set_up_jax()
    if together is not None:
        join(together.coordinator, together.processes, together.process)
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # an empty one where a plugin is missing
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"JAX has no such device here: JAX_PLATFORMS={asked} ({first_line(error)}); install "
            "JAX for it, or leave JAX_PLATFORMS out"
        ) from error
    if together is not None:
        tie_together()


def warn_of_death(run: "Run") -> None:
    if run.is_dead:
        print(
            "note: this model died in training: its answer is the same for any photo",
            file=sys.stderr,
        )
