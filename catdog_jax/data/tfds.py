"""cats_vs_dogs of TensorFlow Datasets (TFDS) as a source of photos."""

import functools
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, first_line
from ..files import expanded, wait_for_lock
from . import decode, sketches
from .quiet_tensorflow import op_reason, tensorflow
from .sources import Photos, Source, stamp

# Where tensorflow-datasets gets cats_vs_dogs from.
_HOST = "https://download.microsoft.com"
# The post's split of cats_and_dogs_filtered: 2,000 in train/; 26 and 6 of the 32 batches of
# validation/, the last of which is not full.
_SIZES = (2000, 808, 192)


def source(data_dir: Path | None, *, download: bool) -> Source | None:
    """cats_vs_dogs as TFDS keeps it in `data_dir`.

    Its files are recognized without importing TFDS. If they are missing, they are downloaded (by
    TFDS, which imports TensorFlow), or the result is None.

    Raises:
        InputError: they cannot be downloaded.
    """
    root = data_dir or expanded(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    shards = _shards(root)
    if not shards:
        if not download:
            return None
        _download(root)
        shards = _shards(root)
    identity = ["cats_vs_dogs", shards and shards[0].parent.name]
    identity.append([(shard.name, *stamp(shard)) for shard in shards])
    return Source(identity, functools.partial(_photos, root), _SIZES)


def _shards(root: Path) -> list[Path]:
    """The files of the newest complete version."""
    infos = (root / "cats_vs_dogs").glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
    versions = {tuple(map(int, info.parent.name.split("."))): info.parent for info in infos}
    return sorted(versions[max(versions)].glob("*.tfrecord*")) if versions else []


@functools.cache
def tensorflow_datasets() -> Any:
    """Import TFDS, quietly."""
    tensorflow()  # first, to keep it quiet and off the GPU
    import tensorflow_datasets as tfds

    # TFDS's logger warns about folders that do not exist yet.
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _download(root: Path) -> None:
    try:
        _check_host()
        folder = root / "cats_vs_dogs"
        folder.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(folder / "download", "downloads cats_vs_dogs"):
            tensorflow_datasets().builder("cats_vs_dogs", data_dir=root).download_and_prepare()
    except Exception as error:  # TFDS does not document what it raises
        raise InputError(
            f"cats_vs_dogs is not in {root} and could not be downloaded to it "
            f"({first_line(error)}): give the data_dir that holds it, or go online"
        ) from error


def _check_host() -> None:
    """Fail at once if offline: TFDS would retry for minutes."""
    try:
        urllib.request.urlopen(_HOST, timeout=20).close()
    except urllib.error.HTTPError as answer:  # any answer will do
        answer.close()


def _photos(root: Path) -> Photos:
    tfds = tensorflow_datasets()
    try:
        builder = tfds.builder("cats_vs_dogs", data_dir=root)
        columns = tfds.decode.PartialDecoding({"label": True, "image/filename": True})
        records = list(_records(builder, columns).batch(1024).as_numpy_iterator())
    except Exception as error:  # as above
        raise InputError(
            f"cats_vs_dogs in {root} is damaged ({op_reason(error)}): "
            "delete that folder to download it again"
        ) from error
    labels = np.concatenate([record["label"] for record in records]).astype(np.int32)
    names = np.concatenate([record["image/filename"] for record in records])
    return Photos(
        # TFDS calls them cat and dog; use the names of the other sources, in the same order.
        class_names=sketches.CLASS_NAMES,
        names=tuple(name.decode() for name in names),
        labels=labels,
        pools={"all": np.arange(len(labels))},
        fill=functools.partial(decode.decode_all, functools.partial(_read, builder)),
    )


def _records(builder: Any, decoders: Any) -> Any:
    """The examples as a `tf.data.Dataset`, always in the same order."""
    tfds = tensorflow_datasets()
    # Autocaching would keep everything in memory.
    config = tfds.ReadConfig(try_autocache=False)
    return builder.as_dataset(
        split="train", decoders=decoders, read_config=config, shuffle_files=False
    )


def _read(builder: Any, wanted: Collection[int], failed: Any) -> Iterator[tuple[int, bytes]]:
    del failed  # listing the photos has read every record
    if not wanted:
        return
    records = _records(builder, {"image": tensorflow_datasets().decode.SkipDecoding()})
    for index, record in enumerate(records.take(max(wanted) + 1).as_numpy_iterator()):
        if index in wanted:
            yield index, record["image"]
