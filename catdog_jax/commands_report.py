"""The command that makes reports."""

from .arguments import Report
from .commands import _start_jax
from .errors import say


def report_runs(options: Report) -> None:
    """Make the page of a run, or one that compares several."""
    from .runs.make_report import report

    _start_jax()
    path = report(options.runs, options.out, data=options.data, data_dir=options.data_dir)
    say(f"the report is in {path}")
