"""Runs side by side: one table whose columns are the settings that differ, one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, say
from ..files import expanded, is_file, make_folder, written_whole
from ..reports import plots, tables
from ..reports.tables import Entry
from .naming import differing, in_words
from .results import Log, Run, load_run
from .run_folder import CONFIG, identity

_FINGERPRINTS = {"data": "photos", "weights": "weights file", "init": "init"}
"""Settings of which the content counts, not the path, and its name in a run's inputs."""

HOW_TO_READ = (
    "Each run counts at its epoch of the best validation accuracy. With several seeds: mean ± "
    "standard deviation (lowest … highest) over those that lived. In brackets: the 95 % Wilson "
    "interval of a test accuracy on as many photos."
)


def compare(folders: Sequence[str | Path], out: str | Path, *, log: Log = say) -> list[Run]:
    """Tabulate runs, finished or not, and plot their validation accuracies.

    Args:
        folders: of runs, or of series of runs.
        out: gets `compare.md` and `compare.png`.
        log: is called with one line at a time.

    Raises:
        InputError: there are no runs in one of the folders, or one is damaged.
    """
    found = [run for one in folders for run in runs_in(one)]
    if not found:
        raise InputError("no runs to compare; name some folders of runs")
    runs = list({_content(run): run for run in found}.values())
    entries, out = entries_of(runs), expanded(out)
    make_folder(out)
    table = tables.series_table(entries)
    with written_whole(out / "compare.md") as file:
        file.write(f"{table}\n\n{HOW_TO_READ}\n")
    plots.plot_comparison(out / "compare.png", entries)
    for line in table.splitlines():
        log(line)
    return runs


def _content(run: Run) -> str:
    """The same for a run, a copy of it, and another run of the same settings on that machine."""
    history = [{**row, "seconds": 0} for row in run.history]
    return str(
        (identity(run.experiment), run.experiment.epochs, sorted(run.inputs.items()), history)
    )


def runs_in(folder: str | Path) -> list[Run]:
    """The run in a folder, or those in its folders, by model, settings and seed.

    Raises:
        InputError: there is none, or one is damaged.
    """
    folder = expanded(folder)
    if is_file(folder / CONFIG):
        return [load_run(folder)]
    found = [load_run(path.parent) for path in folder.glob(f"*/{CONFIG}")]
    if not found:
        raise InputError(f"{folder} holds no run: no {CONFIG} in it or in one of its folders")
    return in_order(found)


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Runs by model, settings and seed."""

    def order(run: Run) -> list[tuple[bool, Any]]:
        settings = vars(run.experiment)
        return [
            (True, value)
            if isinstance(value, int | float)
            else (False, in_words(run.experiment, n))
            for n, value in settings.items()
        ]

    return sorted(runs, key=order)


def entries_of(runs: Sequence[Run]) -> list[Entry]:
    """The runs for tables and figures, labelled by what sets them apart."""
    settings = [
        name
        for name in differing([run.experiment for run in runs])
        if name != "data_dir" and (name not in _FINGERPRINTS or _differ(runs, _FINGERPRINTS[name]))
    ]
    labels = [
        {name.replace("_", " "): in_words(run.experiment, name) for name in ["model", *settings]}
        for run in runs
    ]
    for name in dict.fromkeys(name for run in runs for name in run.inputs):
        alike: dict[Any, list[Run]] = {}
        for run, label in zip(runs, labels, strict=True):
            alike.setdefault(tuple(label.values()), []).append(run)
        # The same words for different content, as two versions of my_net.py.
        if any(_differ(group, name) for group in alike.values()):
            for run, label in zip(runs, labels, strict=True):
                label[f"{name} (SHA-256)"] = run.inputs.get(name, "none")[:8]
    same = [name for name in labels[0] if len({label[name] for label in labels}) == 1]
    return [
        Entry(
            label={name: label[name] for name in label if name == "model" or name not in same},
            seed=run.experiment.seed,
            epochs=run.experiment.epochs,
            history=run.history,
            metrics=run.metrics,
            dead=run.is_dead,
        )
        for run, label in zip(runs, labels, strict=True)
    ]


def _differ(runs: Sequence[Run], name: str) -> bool:
    return len({run.inputs.get(name) for run in runs}) > 1
