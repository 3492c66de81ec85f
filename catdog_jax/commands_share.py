"""Commands that give a run to other programs."""

from .arguments import Export
from .commands import _start_jax, _warn_of_death


def export_run(options: Export) -> None:
    """Write a run's model as a file for another program."""
    _start_jax()
    from .exports.export import export
    from .files import expanded
    from .runs.results import load_run

    run = load_run(expanded(options.run), checkpoint=options.checkpoint)
    _warn_of_death(run)
    export(run, options.to, options.out, photos=options.photos)
