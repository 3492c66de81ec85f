"""Commands about runs."""

from ..errors import say
from ..files import expanded
from .options import Compare, Evaluate, Export, Report
from .start import start_jax, warn_of_death


def compare_runs(options: Compare) -> None:
    """Tabulate and plot runs."""
    from ..runs.compare import compare

    compare(options.runs, options.out)
    say(f"compare.md and compare.png are in {expanded(options.out)}")


def evaluate_run(options: Evaluate) -> None:
    """Print a run's accuracy."""
    from ..runs.results import load_run
    from ..runs.terminal import accuracy_line

    start_jax()
    run = load_run(expanded(options.run), checkpoint=options.checkpoint)
    warn_of_death(run)
    if run.metrics is None:
        done, planned = len(run.history), run.experiment.epochs
        say(f"note: {run.folder} is unfinished, {done} of {planned} epochs")
    predictions = run.predict(
        options.data,
        data_dir=options.data_dir,
        split=options.split,
        unseen=options.unseen,
        seen_to=options.seen_to,
    )
    if options.predictions:
        predictions.write_csv(expanded(options.predictions))
    say(f"{options.split} accuracy: {accuracy_line(run.judge(predictions))}")


def report_runs(options: Report) -> None:
    """Make the page of a run, or one that compares several."""
    from ..runs.make_report import report

    start_jax()
    path = report(options.runs, options.out, data=options.data, data_dir=options.data_dir)
    say(f"the report is in {path}")


def export_run(options: Export) -> None:
    """Write a run's model as a file for another program."""
    start_jax()
    from ..exports.export import export
    from ..runs.results import load_run

    run = load_run(expanded(options.run), checkpoint=options.checkpoint)
    warn_of_death(run)
    export(run, options.to, options.out, photos=options.photos)
