"""What several commands begin with."""

import os
import sys
from typing import TYPE_CHECKING

from ..errors import InputError, first_line

if TYPE_CHECKING:
    from ..runs.results import Run


def start_jax() -> None:
    """Set up JAX; refuse a platform in JAX_PLATFORMS that does not exist here."""
    import jax

    from ..training.mesh import set_up_jax

    set_up_jax()
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # an empty one where a plugin is missing
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"JAX has no such device here: JAX_PLATFORMS={asked} ({first_line(error)}); install "
            "JAX for it, or leave JAX_PLATFORMS out"
        ) from error


def warn_of_death(run: "Run") -> None:
    if run.is_dead:
        print(
            "note: this model died in training: its answer is the same for any photo",
            file=sys.stderr,
        )
