"""cats_vs_dogs of TensorFlow Datasets (TFDS), as a source of photos."""

import functools
import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from ..errors import InputError, first_line
from . import decode, sketches
from .sources import Photos, Source, stamp

# Where tensorflow-datasets gets cats_vs_dogs from.
_HOST = "https://download.microsoft.com"
# The blog's split of cats_and_dogs_filtered: 2,000 in train/; 26 and 6 of the 32 batches of
# validation/, the last of which is not full.
_SIZES = (2000, 808, 192)


def source(data_dir: Path | None) -> Source:
    """Return cats_vs_dogs as TFDS keeps it in `data_dir`, downloaded if need be."""
    try:
        builder = _builder(data_dir)
        train = builder.info.splits["train"]
        files = [Path(path) for path in train.filepaths]
        stamps = [(path.name, *stamp(path)) for path in files]
    except Exception as error:  # TFDS documents none of what it raises
        place = data_dir or "the default folder of TFDS"
        raise InputError(
            f"cats_vs_dogs could be neither opened in {place} nor downloaded to it "
            f"({first_line(error)}): give the data_dir that holds it, or go online"
        ) from error
    identity = [builder.name, str(builder.version), train.num_examples, stamps]
    return Source(identity, functools.partial(_photos, builder), _SIZES)


@functools.cache
def tensorflow_datasets() -> Any:
    """Import TFDS, quietly."""
    decode.tensorflow()  # first, so that it is quiet and off the GPU
    import tensorflow_datasets as tfds

    # The logger of TFDS, which warns of folders that are not there yet.
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _builder(data_dir: Path | None) -> Any:
    """Return the TFDS builder of cats_vs_dogs, its photos downloaded if need be."""
    make = functools.partial(tensorflow_datasets().builder, "cats_vs_dogs", data_dir=data_dir)
    builder = make()
    if not builder.is_prepared():
        _check_host()
        folder = Path(builder.data_dir).parent  # of all versions
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            builder = make()  # which looks anew: another process may have downloaded them
            if not builder.is_prepared():
                builder.download_and_prepare()
    return builder


def _check_host() -> None:
    """Fail at once when offline: TFDS itself would retry for minutes."""
    try:
        urllib.request.urlopen(_HOST, timeout=20).close()
    except urllib.error.HTTPError as answer:  # any answer will do
        answer.close()


def _photos(builder: Any) -> Photos:
    tfds = tensorflow_datasets()
    columns = tfds.decode.PartialDecoding({"label": True, "image/filename": True})
    try:
        records = list(_records(builder, columns).batch(1024).as_numpy_iterator())
    except Exception as error:  # as above
        raise InputError(
            f"cats_vs_dogs in {builder.data_dir} is damaged ({decode.op_reason(error)}): "
            "delete that folder to download it again"
        ) from error
    labels = np.concatenate([record["label"] for record in records]).astype(np.int32)
    names = np.concatenate([record["image/filename"] for record in records])
    return Photos(
        # TFDS says cat and dog; they are the classes of the other sources, in the same order.
        class_names=sketches.CLASS_NAMES,
        names=tuple(name.decode() for name in names),
        labels=labels,
        pools={"all": np.arange(len(labels))},
        fill=functools.partial(decode.decode_all, functools.partial(_read, builder)),
    )


def _records(builder: Any, decoders: Any) -> Any:
    """Return the examples as a `tf.data.Dataset`, always in the same order."""
    tfds = tensorflow_datasets()
    # Autocaching would keep what is read once in memory.
    config = tfds.ReadConfig(try_autocache=False)
    return builder.as_dataset(
        split="train", decoders=decoders, read_config=config, shuffle_files=False
    )


def _read(
    builder: Any, wanted: Collection[int], failed: dict[int, str]
) -> Iterator[tuple[int, bytes]]:
    del failed  # listing the photos has read every record
    if not wanted:
        return
    tf, tfds = decode.tensorflow(), tensorflow_datasets()
    is_wanted = np.zeros(max(wanted) + 1, np.bool_)
    is_wanted[list(wanted)] = True
    is_wanted = tf.constant(is_wanted)
    records = _records(builder, {"image": tfds.decode.SkipDecoding()})
    numbered = records.take(len(is_wanted)).enumerate()
    for index, record in numbered.filter(lambda index, _: is_wanted[index]).as_numpy_iterator():
        yield int(index), record["image"]
