"""Makes what the contenders read: folders of photos, one batch of them, our decoded cache."""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from catdog_jax.data import sketches
from catdog_jax.data.listing import list_photos
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError

PARTS = ("train", "validation")
DRAWINGS = (64, 32)
"""How many drawings stand in for photos, to train and to validate on."""


@dataclass(frozen=True)
class Photos:
    """A folder with `train/` and `validation/`, and how many photos are in each."""

    folder: Path
    counts: tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """All that the contenders read."""

    photos: Photos
    growth: dict[int, Photos]
    """By the number of photos."""
    batch: Path
    """An `.npz` with one batch."""
    cache: Path
    """Our cache, with the photos decoded."""


def prepare(
    folder: Path,
    source: Path | None,
    tfds: Path | None,
    growth: Sequence[int],
    image_size: int,
    batch_size: int,
) -> Prepared:
    """Make all of it in `folder`, as far as it is not there.

    Args:
        folder: where it is kept.
        source: a zip or folder of photos; None draws some.
        tfds: folder of TFDS's prepared cats_vs_dogs.
        growth: how many of its photos to export.
        image_size: height and width of the batch's images.
        batch_size: their number.

    Raises:
        InputError: `source` or `tfds` is not what it should be.
    """
    photos = _drawn(folder, 2 * image_size) if source is None else _given(source, folder)
    exported = {count: _exported(tfds, count, folder) for count in growth} if tfds else {}
    folder.mkdir(parents=True, exist_ok=True)
    prepared = Prepared(photos, exported, folder / "batch.npz", folder / "cache")
    if photos.counts[0] < batch_size:
        raise InputError(f"{photos.counts[0]} training photos do not fill a batch of {batch_size}")
    sizes = (*photos.counts, 0)
    splits = load_data(photos.folder, image_size, sizes=sizes, cache_dir=prepared.cache)
    (batch,) = islice(splits.train.shuffled(batch_size, seed=0)(0), 1)
    np.savez(prepared.batch, image=batch["image"], label=batch["label"])
    return prepared


def _given(source: Path, prepared: Path) -> Photos:
    """The photos of a folder, or of a zip, which is unpacked once into `prepared`."""
    if not source.exists():
        raise InputError(f"--data {source} does not exist")
    root = source if source.is_dir() else _unpacked(source, prepared)
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if all((folder / part).is_dir() for part in PARTS):
            return _counted(folder)
    raise InputError(f"--data {source} has no train/ and validation/, each with a folder a class")


def _drawn(prepared: Path, size: int) -> Photos:
    """Drawings of cats and dogs as JPEG files."""
    images, labels = sketches.draw(sum(DRAWINGS), size)

    def fill(folder: Path) -> None:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = _place(folder, index, label, DRAWINGS[0])
            Image.fromarray(image).save(path)

    return _counted(_once(prepared / f"drawings-{size}", fill))


def _exported(data_dir: Path, count: int, prepared: Path) -> Photos:
    """The first `count` photos of TFDS's cats_vs_dogs, four fifths of them to train on."""

    def fill(folder: Path) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder("cats_vs_dogs", data_dir=data_dir)
        if not builder.is_prepared():
            raise InputError(f"--tfds {data_dir} does not hold cats_vs_dogs")
        held = builder.info.splits["train"].num_examples
        if held < count:
            raise InputError(f"--tfds {data_dir} holds {held} photos, fewer than {count}")
        records = builder.as_dataset(
            split="train",
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
            shuffle_files=False,
        )
        for index, record in enumerate(tfds.as_numpy(records.take(count))):
            path = _place(folder, index, record["label"], count * 4 // 5)
            path.write_bytes(record["image"])

    return _counted(_once(prepared / f"tfds-{count}", fill))


def _unpacked(source: Path, prepared: Path) -> Path:
    def fill(folder: Path) -> None:
        try:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(folder)
        except zipfile.BadZipFile as error:
            raise InputError(f"--data {source} is no zip that can be read: {error}") from error

    return _once(prepared / f"{source.stem}-{source.stat().st_size}", fill)


def _counted(folder: Path) -> Photos:
    if len([path for path in (folder / PARTS[0]).iterdir() if path.is_dir()]) != 2:
        raise InputError(f"{folder} must hold two classes, as the post's models tell two apart")
    photos = [list_photos(folder / part) for part in PARTS]
    for path in (*photos[0], *photos[1]):
        path.read_bytes()  # so that the contender who comes first need not wait for the disk
    return Photos(folder, (len(photos[0]), len(photos[1])))


def _place(folder: Path, index: int, label: int, training: int) -> Path:
    place = folder / PARTS[index >= training] / sketches.CLASS_NAMES[label]
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{index}.jpg"


def _once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled if it is not there yet, all of it or nothing."""
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        unfinished.rename(folder)
    return folder
