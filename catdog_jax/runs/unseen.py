"""Which photos a run has seen in training: by looks, in whatever size or encoding."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.copies import without_copies
from ..data.splits import Split, Splits
from ..errors import InputError
from ..files import written_whole
from . import build

if TYPE_CHECKING:
    from .results import Log, Run


def without_seen(
    run: "Run", parts: Sequence[Split], own: Splits | None, log: "Log", listed: Path | None = None
) -> list[Split]:
    """`parts` without photos that look like one the run was trained or validated on.

    Args:
        run: is not asked about the run that it may have started from (`init`).
        parts: photos.
        own: the run's own data, if loaded already.
        log: gets a line with their number.
        listed: CSV file for them and the photos that they look like.

    Raises:
        InputError: its own data are gone, have changed or were arrays; or no photo is left.
    """
    experiment = run.experiment
    if experiment.data == build.ARRAYS:
        raise InputError("this run was trained on arrays, so it is not known which photos it saw")
    seen = own or build.load_splits(experiment, image_size=run.image_size)
    if seen.fingerprint != run.inputs["photos"]:
        raise InputError(
            f"{experiment.data} has changed since this run was trained, so it is not known which "
            "photos it has seen"
        )
    kept, copies = zip(
        *(without_copies(part, [seen.train, seen.validation]) for part in parts), strict=True
    )
    if listed is not None:
        with written_whole(listed) as file:
            rows = csv.writer(file)
            rows.writerow(["photo", "looks like", "correlation"])
            rows.writerows(copy for part in copies for copy in part)
    count, total = sum(map(len, copies)), sum(map(len, parts))
    log(f"left out {count} of {total} photos: they look like photos this run has seen")
    if experiment.init != "none":
        log(f"note: photos that {experiment.init} has seen are not left out")
    if count == total:
        raise InputError("no photos are left that this run has not seen")
    return [part for part in kept if len(part)]
