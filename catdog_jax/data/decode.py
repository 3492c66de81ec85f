"""Encoded photos → uint8 pixels of one size.

TensorFlow decodes JPEG, PNG and GIF, as in the post; `photo` does the rest.
"""

import contextlib
import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from ..errors import InputError, first_line
from ..files import FORGET_EVERY, forget_pages
from .photo import JPEG, READ_ERRORS, Header, decode_bytes, read_bytes, read_header, upright

_BY_TENSORFLOW = (*JPEG, "PNG", "GIF")


class Filled(NamedTuple):
    """The outcome of decoding, by row in the array of images."""

    failed: dict[int, str]
    """Rows that could not be decoded, and why."""
    digests: list[bytes]
    """SHA-256 of each encoded photo; empty if it failed."""


Reader: TypeAlias = Callable[[Collection[int], dict[int, str]], Iterator[tuple[int, bytes]]]
"""Yields (index, encoded photo) for the given indices in any order; why photos cannot be read goes
into the given dict."""


def decode_all(
    read: Reader, wanted: Int64[np.ndarray, " n"], images: UInt8[np.ndarray, "n height width 3"]
) -> Filled:
    """Decode the photos that `read` yields, `wanted[row]` into `images[row]`."""
    tf = tensorflow()
    image_size = images.shape[1]
    row_of = {index: row for row, index in enumerate(wanted.tolist())}
    unread: dict[int, str] = {}
    headers: dict[int, Header] = {}
    filled = Filled({}, [b""] * len(wanted))
    missing = set(row_of)
    # disable=None: progress only on a terminal.
    progress = tqdm(total=len(row_of), desc="decoding", unit="photo", disable=None)

    def done(index: int) -> None:
        missing.discard(index)
        progress.update()
        if len(missing) % FORGET_EVERY == 0:
            forget_pages(images)

    def one_by_one(index: int, encoded: bytes) -> None:
        try:
            images[row_of[index]] = decode_bytes(encoded, image_size)
        except ValueError as error:
            filled.failed[row_of[index]] = first_line(error)
        done(index)

    def for_tensorflow() -> Iterator[tuple[int, bytes]]:
        for index, encoded in read(row_of.keys(), unread):
            filled.digests[row_of[index]] = hashlib.sha256(encoded).digest()
            with contextlib.suppress(ValueError):  # reported by one_by_one
                headers[index] = read_header(encoded)
            if index in headers and headers[index].format in _BY_TENSORFLOW:
                yield index, encoded
            else:
                one_by_one(index, encoded)

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.string))
    decoded = tf.data.Dataset.from_generator(for_tensorflow, output_signature=signature).map(
        lambda index, encoded: (index, _decode(encoded, image_size)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,  # the index travels with its photo
    )
    with progress:
        # In batches, since each step of the iterator takes as long as decoding half a photo.
        batches = decoded.ignore_errors().batch(32).prefetch(tf.data.AUTOTUNE)
        for indices, pixels in batches.as_numpy_iterator():
            for index, image in zip(indices.tolist(), pixels, strict=True):
                images[row_of[index]] = upright(image, headers[index].orientation)
                done(index)
        # ignore_errors does not tell what it ignored: decode those few again, one by one.
        for index, encoded in read(missing - unread.keys(), unread):
            one_by_one(index, encoded)
    filled.failed.update({row_of[index]: flaw for index, flaw in unread.items()})
    for row in filled.failed:
        filled.digests[row] = b""
    return filled


def read_files(
    files: list[Path | zipfile.Path], wanted: Collection[int], failed: dict[int, str]
) -> Iterator[tuple[int, bytes]]:
    """A `Reader` of files in a folder or a zip."""
    for index in sorted(wanted):  # sorted by name, roughly the order on disk
        try:
            encoded = read_bytes(files[index])
        except READ_ERRORS as error:
            failed[index] = f"cannot be read: {first_line(error)}"
        else:
            yield index, encoded


def op_reason(error: Exception) -> str:
    """A TensorFlow error's message without the op it came from."""
    said = getattr(error, "message", None) or first_line(error)
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\]", "", said).strip().split("\n")[0]


@functools.cache
def tensorflow() -> Any:
    """Import TensorFlow quietly and keep it off the GPU.

    Raises:
        InputError: it cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with native_stderr_hidden():  # it logs before reading its log level
            import tensorflow as tf
    except Exception as error:  # an incompatible machine or NumPy raises errors of any kind
        raise InputError(
            f"decoding photos needs TensorFlow, which cannot be imported ({first_line(error)}): "
            "install it, or give a folder that load_data has decoded on another machine"
        ) from error
    # Too late if the caller has already used TensorFlow.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf


@contextlib.contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hide what C++ code writes to file descriptor 2, below Python's sys.stderr."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed, so there is nothing to hide
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (no path to speak of)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _decode(encoded: Any, image_size: int) -> Any:
    """Decode and resize as in the post, then round to uint8."""
    tf = tensorflow()
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, 3))  # resize needs a known rank
    size = (image_size, image_size)
    resized = tf.image.resize(image, size, method="bilinear", antialias=False)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
