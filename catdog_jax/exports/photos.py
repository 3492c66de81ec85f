"""The photos that an exported file is checked on: the run's own where they are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..data import sketches
from ..data.decoded_cache import is_here
from ..data.listing import list_photos
from ..data.photo import decode_file
from ..data.splits import Split, Splits
from ..errors import InputError
from ..files import expanded
from ..runs import build
from ..runs.results import Log, Run

MOST = 64
"""How many photos are compared, at most."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos to compare predictions on, and the run's data."""

    images: UInt8[np.ndarray, "n height width 3"]
    origin: str
    """What they are, in words."""
    own: Splits | None
    """The run's data; None if they are not on this machine, or have changed."""


def photos_of(run: Run, given: Sequence[str | Path], log: Log) -> Photos:
    """The photos `given`, else the run's test photos, else drawings; at most `MOST`.

    Args:
        run: downloads are not started for its photos.
        given: files and folders.
        log: gets a line if the run's own photos cannot be used.

    Raises:
        InputError: a photo given cannot be read.
    """
    own = _own(run, log)
    if given:
        paths = [path for one in given for path in list_photos(expanded(one))][:MOST]
        images = [decode_file(path, run.image_size) for path in paths]
        return Photos(np.stack(images), f"{len(images)} photos given", own)
    if own is not None and len(own.test):
        images = some_of(own.test, MOST)
        return Photos(images, f"{len(images)} of the run's test photos", own)
    images = sketches.draw(MOST, run.image_size)[0]
    return Photos(images, f"{MOST} drawings, as the run's photos are not at hand", own)


def some_of(split: Split, most: int) -> UInt8[np.ndarray, "n height width 3"]:
    """At most so many photos of a split, evenly spaced, so that all classes are among them."""
    chosen = np.linspace(0, len(split) - 1, min(most, len(split))).round().astype(int)
    return np.asarray(split.take(chosen).images)


def _own(run: Run, log: Log) -> Splits | None:
    source, folder = run.experiment.data, run.experiment.data_dir
    if source == build.ARRAYS or not is_here(source, expanded(folder) if folder else None):
        return None
    try:
        splits = build.load_splits(run.experiment, image_size=run.image_size)
    except InputError as error:
        log(f"note: the run's photos cannot be used: {error}")
        return None
    if splits.fingerprint != run.inputs["photos"]:
        log(f"note: the run's photos are not used: {source} has changed since it was trained")
        return None
    return splits
