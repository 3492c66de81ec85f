"""Prepares the contenders' inputs: folders of photos, one batch, our cache of decoded photos."""

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
from catdog_jax.data.splits import Splits
from catdog_jax.errors import InputError
from catdog_jax.models import ready_made

from .worker import PARTS

DRAWINGS = (64, 32)
"""Number of drawings, for training and for validation, that replace photos in `--quick`."""


@dataclass(frozen=True)
class Photos:
    """A folder with `train/` and `validation/`, and the number of photos in each."""

    folder: Path
    counts: tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """The contenders' inputs."""

    photos: Photos
    growth: dict[int, Photos]
    """Folders of the growth workloads, by number of photos."""
    photo: Path
    """One of the photos."""
    batch: Path
    """An `.npz` with one batch."""
    arrays: Path | None
    """An `.npz` with all photos, decoded."""
    backbone: Path | None
    """The weights of MobileNetV2 as an `.npz`."""
    saved: Path | None
    """model6_deep with random weights as a `.keras` file."""


def prepare(
    folder: Path,
    source: Path | None,
    tfds: Path | None,
    growth: Sequence[int],
    image_size: int,
    batch_size: int,
    weights: Path | None = None,
    *,
    with_arrays: bool = False,
    with_keras: bool = False,
) -> Prepared:
    """Prepare everything in `folder`, reusing photos that are already there.

    Args:
        folder: where the inputs are kept.
        source: a zip or folder of photos; None for drawings.
        tfds: TFDS data folder with cats_vs_dogs prepared.
        growth: the numbers of photos to export from it.
        image_size: height and width of the decoded images.
        batch_size: number of images in the batch.
        weights: a Keras file of MobileNetV2.
        with_arrays: whether to decode all photos.
        with_keras: whether to save a Keras model, too.

    Raises:
        InputError: `source` or `tfds` is missing, cannot be used or has too few photos.
    """
    photos = _draw(folder, 2 * image_size) if source is None else _from_data(source, folder)
    exported = {count: _export(tfds, count, folder) for count in growth} if tfds else {}
    folder.mkdir(parents=True, exist_ok=True)
    if photos.counts[0] < batch_size:
        raise InputError(f"{photos.counts[0]} training photos do not fill a batch of {batch_size}")
    sizes = (*photos.counts, 0)
    splits = load_data(photos.folder, image_size, sizes=sizes, cache_dir=folder / "cache")
    (batch,) = islice(splits.train.shuffled(batch_size, seed=0)(0), 1)
    np.savez(folder / "batch.npz", image=batch["image"], label=batch["label"])
    return Prepared(
        photos,
        exported,
        photo=list_photos(photos.folder / PARTS[1])[0],
        batch=folder / "batch.npz",
        arrays=_arrays(folder, splits) if with_arrays else None,
        backbone=_backbone(folder, weights) if weights else None,
        saved=_keras_model(folder) if with_keras else None,
    )


def _arrays(folder: Path, splits: Splits) -> Path:
    arrays = {}
    for part in PARTS:
        split = getattr(splits, part)
        arrays |= {f"{part}_images": np.asarray(split.images), f"{part}_labels": split.labels}
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
    return folder / "arrays.npz"


def _backbone(folder: Path, weights: Path) -> Path:
    from flax import nnx

    from catdog_jax.models.keras_weights import keras_variables, load_keras_weights
    from catdog_jax.models.mobilenet_v2 import MobileNetV2

    model = nnx.eval_shape(lambda: MobileNetV2(rngs=nnx.Rngs(0)))
    load_keras_weights(model, weights)
    path, variables = folder / "backbone.npz", keras_variables(model)
    arrays = {f"{n:03}": np.asarray(v[...]) for n, v in enumerate(variables.values())}
    np.savez(path, allow_pickle=False, **arrays)
    return path


def _keras_model(folder: Path) -> Path:
    """The network of the classifier that comes with the package, at its size."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from .keras_models import model6
    from .worker import check_parameters

    model = model6(ready_made.facts()["image_size"], (24, 48, 96, 192), (2, 2, 2, 1), stride=2)
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    check_parameters("model6_deep", trained)
    path = folder / "model6_deep.keras"
    model.save(path)
    return path


def _from_data(source: Path, prepared: Path) -> Photos:
    """The photos of a folder or zip; a zip is unpacked into `prepared` once."""
    if not source.exists():
        raise InputError(f"--data {source} does not exist")
    root = source if source.is_dir() else _unpack(source, prepared)
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if all((folder / part).is_dir() for part in PARTS):
            return _photos_in(folder)
    raise InputError(
        f"--data {source} must have train/ and validation/, each with one folder per class"
    )


def _draw(prepared: Path, size: int) -> Photos:
    """Drawings of cats and dogs as JPEG files."""
    images, labels = sketches.draw(sum(DRAWINGS), size)

    def fill(folder: Path) -> None:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = _photo_path(folder, index, label, DRAWINGS[0])
            Image.fromarray(image).save(path)

    return _photos_in(_create_once(prepared / f"drawings-{size}", fill))


def _export(data_dir: Path, count: int, prepared: Path) -> Photos:
    """The first `count` photos of TFDS's cats_vs_dogs, four fifths of them for training."""

    def fill(folder: Path) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder("cats_vs_dogs", data_dir=data_dir)
        if not builder.is_prepared():
            raise InputError(f"--tfds {data_dir} has no prepared cats_vs_dogs")
        available = builder.info.splits["train"].num_examples
        if available < count:
            raise InputError(f"--tfds {data_dir} has {available} photos, fewer than {count}")
        records = builder.as_dataset(
            split="train",
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
            shuffle_files=False,
        )
        for index, record in enumerate(tfds.as_numpy(records.take(count))):
            path = _photo_path(folder, index, record["label"], count * 4 // 5)
            path.write_bytes(record["image"])

    return _photos_in(_create_once(prepared / f"tfds-{count}", fill))


def _unpack(source: Path, prepared: Path) -> Path:
    def fill(folder: Path) -> None:
        try:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(folder)
        except zipfile.BadZipFile as error:
            raise InputError(f"--data {source} is not a readable zip: {error}") from error

    return _create_once(prepared / f"{source.stem}-{source.stat().st_size}", fill)


def _photos_in(folder: Path) -> Photos:
    classes = sum(path.is_dir() for path in (folder / PARTS[0]).iterdir())
    if classes != 2:
        raise InputError(f"the post's models need two classes; {folder} has {classes}")
    photos = [list_photos(folder / part) for part in PARTS]
    for path in (*photos[0], *photos[1]):
        path.read_bytes()  # warms the page cache, so that no contender waits for the disk
    return Photos(folder, (len(photos[0]), len(photos[1])))


def _photo_path(folder: Path, index: int, label: int, training: int) -> Path:
    parent = folder / PARTS[index >= training] / sketches.CLASS_NAMES[label]
    parent.mkdir(parents=True, exist_ok=True)
    return parent / f"{index}.jpg"


def _create_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled unless it exists; it only gets its name once complete."""
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        unfinished.rename(folder)
    return folder
