"""`catdog-jax report`: the page of a run again, or one page that compares several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..data.splits import Splits
from ..errors import InputError, say
from ..files import expanded, is_file, make_folder
from ..reports.answers import Answers
from . import build
from .compare import runs_in
from .comparison_page import write_comparison_page
from .predictions import predictions_of
from .results import Log, Run
from .run_folder import CONFIG, REPORT
from .run_page import AtHand, write_run_page
from .saved_answers import answers_of, recorded_answers

DEFAULT = Path("runs/compare") / REPORT
"""Of a comparison of several folders."""


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    data_dir: str | None = None,
    log: Log = say,
) -> Path:
    """Write the page of a run, or one page that compares several runs.

    A page is one HTML file with everything inside. That of a run shows its photos if they are
    found; otherwise it is made from the run's records, and says so.

    Args:
        runs: folder of a run, or of a series; or several of them, to compare.
        out: the file; by default `report.html` in the folder of the run or the series, or in
            `runs/compare`.
        data: where the photos of a single run are, if not where they were.
        data_dir: as in `load_data`, if it has moved.
        log: gets a line if photos are missing.

    Returns:
        The path of the page.

    Raises:
        InputError: there is no run, one is damaged, or `data` holds other photos than the run's.
    """
    folders = [expanded(one) for one in ([runs] if isinstance(runs, str | Path) else runs)]
    if not folders:
        raise InputError("no run to report on; name a folder of one, or several to compare")
    alone = len(folders) == 1
    path = expanded(out) if out else folders[0] / REPORT if alone else DEFAULT
    found = list({run.folder.absolute(): run for one in folders for run in runs_in(one)}.values())
    make_folder(path.parent)
    if alone and is_file(folders[0] / CONFIG):
        _report_one(path, found[0], data, data_dir, log)
    elif data is not None or data_dir is not None:
        raise InputError("data says where the photos of one run are; a comparison needs none")
    else:
        write_comparison_page(path, found)
    return path


def _report_one(
    path: Path, run: Run, data: str | Path | None, data_dir: str | None, log: Log
) -> None:
    splits = _splits_of(run, data, data_dir, log) if run.history else None
    at_hand = None if splits is None else AtHand(run.model, splits)
    answers = recorded_answers(run)
    if at_hand is not None and not answers:
        answers = _answers_now(run, at_hand)
    write_run_page(path, run, answers, at_hand)


def _answers_now(run: Run, at_hand: AtHand) -> dict[str, Answers]:
    parts = {"validation": at_hand.splits.validation, "test": at_hand.splits.test}
    return {
        name: answers_of(
            predictions_of(at_hand.model, split, run.experiment, run.class_names),
            split,
            replace(run.experiment, data=at_hand.splits.source),
        )
        for name, split in parts.items()
        if len(split)
    }


def _splits_of(run: Run, data: str | Path | None, data_dir: str | None, log: Log) -> Splits | None:
    """A run's photos, or None with a line that says why.

    Raises:
        InputError: those given are others.
    """
    if run.experiment.data == build.ARRAYS and data is None:
        log("note: without photos, since this run was trained on arrays")
        return None
    given = {} if data is None else {"data": str(expanded(data).absolute())}
    given |= {} if data_dir is None else {"data_dir": data_dir}
    source = replace(run.experiment, **given)
    try:
        splits = build.load_splits_again(source, image_size=run.image_size)
    except InputError as error:
        if given:
            raise
        log(f"note: without photos: {error}")
        return None
    if splits.fingerprint == run.inputs["photos"]:
        return splits
    if given:
        raise InputError(f"{source.data} holds other photos than {run.folder} was trained on")
    log(f"note: without photos, since {source.data} has changed; --data can give the old ones")
    return None
