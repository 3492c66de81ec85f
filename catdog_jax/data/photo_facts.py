"""What can be said of photos besides their pixels and labels: brightness, size, copies."""

import contextlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..errors import InputError
from ..files import cache_folder, expanded, forget_pages, is_file
from . import decoded_folder
from .listing import open_tree
from .sources import filtered_zip, pictures_in
from .splits import ImageView, Splits

_ROWS = 256  # photos at once


def brightness(images: np.ndarray | ImageView) -> Float[np.ndarray, " n"]:
    """The mean pixel of each photo, 0 (black) to 1 (white)."""
    means = np.zeros(len(images))
    for start in range(0, len(images), _ROWS):
        rows = np.asarray(images[start : start + _ROWS])
        means[start : start + _ROWS] = rows.mean(axis=tuple(range(1, rows.ndim))) / 255
        if isinstance(images, np.ndarray):  # a view does this itself
            forget_pages(images)
    return means


def original_sizes(
    source: str, data_dir: str | Path | None, names: Collection[str]
) -> dict[str, tuple[int, int]]:
    """Width and height of photos as they are in a folder or a zip, read from their headers.

    Args:
        source: as given to `load_data`.
        data_dir: as given to `load_data`.
        names: of the photos to look at, as in `Split.names`.

    Returns:
        The sizes by name; nothing for other sources, or where a photo is not found.
    """
    from PIL import Image

    path = expanded(source)
    if source == "cats_and_dogs_filtered":
        path = filtered_zip(expanded(data_dir or cache_folder() / "downloads"))
    if decoded_folder.is_decoded(path) or not (path.is_dir() or is_file(path)):
        return {}
    found = {}
    with contextlib.suppress(InputError, OSError), open_tree(path) as root:
        pictures = pictures_in(root)
        for name in names:
            # Pillow's readers raise all kinds of errors; a photo without a size is no loss.
            with contextlib.suppress(Exception), pictures[name].open("rb") as file:
                found[name] = Image.open(file).size
    return found


def copies_in(splits: Splits) -> list[list[str]] | None:
    """Names of photos that look alike, in groups; None if that is unknown, as for arrays."""
    if splits.folder is None:
        return None
    meta, _ = decoded_folder.read(splits.folder)
    return [[meta.names[index] for index in group] for group in meta.copies]
