"""Encoded photos in, pixels out: whatever is in a file, it takes neither all memory nor for ever.

    bounded reading -> a look at the header -> TensorFlow -> uint8 of one size

What is a photo, and what its pixels are, TensorFlow decides; it is imported for the first one, and
never sees the GPU.
"""

import contextlib
import errno
import functools
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from ..errors import InputError, first_line
from ..files import FORGET_EVERY, expanded, forget_pages
from .headers import claimed_pixels

# Of one photo: as many bytes as no camera writes, and as many pixels as TensorFlow, which takes no
# JPEG of more than 512 MiB, would decode at most.
_MOST_BYTES = 200_000_000
_MOST_PIXELS = 2**29 // 3
_UNREADABLE = "cannot be read: "
# What reading one file of a folder or of a zip can raise (RuntimeError: it is encrypted).
_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

Reader: TypeAlias = Callable[[Collection[int], dict[int, str]], Iterator[tuple[int, bytes]]]
"""Yields the encoded photos with the given indices, each with its index, in any order, and notes in
the given dict why some cannot be read."""


def decode_file(path: str | Path, image_size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Read one photo as `load_data` would: uint8[image_size, image_size, 3].

    Raises:
      InputError: the file cannot be read, or is not a photo that can be decoded.

    """
    path = expanded(path)
    try:
        encoded = _read(path)
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if reason := _too_large(encoded):
        raise InputError(f"{path} cannot be decoded as a photo: {reason}")
    tf = tensorflow()
    try:
        with native_stderr_hidden():  # it grumbles at what is said below
            return _decode(encoded, image_size).numpy()
    except tf.errors.OpError as error:
        raise InputError(f"{path} cannot be decoded as a photo: {op_reason(error)}") from error


def decode_all(
    read: Reader,
    chosen: Int64[np.ndarray, " n"],
    images: UInt8[np.ndarray, "n height width 3"],
) -> dict[int, str]:
    """Decode the chosen photos into `images`; return why some could not be, by index.

    Args:
      read: where the photos are.
      chosen: indices of photos, one for each row of `images`.
      images: written to.

    """
    tf = tensorflow()
    image_size = images.shape[1]
    row_of = {index: row for row, index in enumerate(chosen.tolist())}
    missing = set(row_of)
    failed: dict[int, str] = {}

    def admitted(wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        for index, photo in read(wanted, failed):
            if reason := _too_large(photo):
                failed[index] = reason
            else:
                yield index, photo

    encoded = tf.data.Dataset.from_generator(
        lambda: admitted(row_of.keys()),
        output_signature=(tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.string)),
    )
    # The index travels with its photo, so neither order nor gaps matter.
    decoded = encoded.map(
        lambda index, photo: (index, _decode(photo, image_size)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    decoded = decoded.ignore_errors().prefetch(tf.data.AUTOTUNE)
    # disable=None: no progress unless on a terminal.
    with tqdm(total=len(row_of), desc="decoding", unit="photo", disable=None) as progress:
        for count, (index, image) in enumerate(decoded.as_numpy_iterator(), 1):
            images[row_of[int(index)]] = image
            missing.remove(int(index))
            progress.update()
            if count % FORGET_EVERY == 0:
                forget_pages(images)
    # ignore_errors does not tell what it ignored: decode those few again, one by one.
    for index, photo in admitted(missing - failed.keys()):
        try:
            images[row_of[index]] = _decode(photo, image_size).numpy()
        except tf.errors.OpError as error:
            failed[index] = op_reason(error)
    return failed


def read_files(
    files: list[Path | zipfile.Path], wanted: Collection[int], failed: dict[int, str]
) -> Iterator[tuple[int, bytes]]:
    """Be the `Reader` of files, in a folder or in a zip."""
    for index in sorted(wanted):  # by name, near the order in which most were written
        try:
            encoded = _read(files[index])
        except _READ_ERRORS as error:
            failed[index] = f"{_UNREADABLE}{first_line(error)}"
        else:
            yield index, encoded


def is_unreadable(reason: str) -> bool:
    """Whether it says that a file could not be read, rather than not be decoded."""
    return reason.startswith(_UNREADABLE)


def op_reason(error: Exception) -> str:
    """Return what an error says, less where in TensorFlow it was said."""
    said = getattr(error, "message", None) or first_line(error)
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\]", "", said).strip().split("\n")[0]


@functools.cache
def tensorflow() -> Any:
    """Import TensorFlow, quietly, and keep it off the GPU.

    Raises:
      InputError: it is not there.

    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with native_stderr_hidden():  # it greets before it reads its log level
            import tensorflow as tf
    except Exception as error:  # where it does not suit the machine or NumPy, of any kind
        raise InputError(
            f"decoding photos needs TensorFlow, which cannot be imported ({first_line(error)}): "
            "install it, or give a folder that load_data prepared on another machine"
        ) from error
    # Too late when the caller has already used TensorFlow: then its devices are the caller's.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf


def tensorflow_is_imported() -> bool:
    """Whether this process has TensorFlow in its memory already."""
    return "tensorflow" in sys.modules


@contextlib.contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hide what C++ code writes to file descriptor 2, which Python's sys.stderr cannot."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (no path to speak of)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _decode(encoded: Any, image_size: int) -> Any:
    """Decode and resize one photo as the blog does, but rounded to uint8."""
    tf = tensorflow()
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, 3))  # which resize must know
    size = (image_size, image_size)
    resized = tf.image.resize(image, size, method="bilinear", antialias=False)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


# Reading.


def _read(file: Path | zipfile.Path) -> bytes:
    """Read a file or an entry of a zip, if it is one that does not hang or fill the memory."""
    size = _file_size(file) if isinstance(file, Path) else _entry_size(file)
    if size > _MOST_BYTES:
        raise OSError(f"it is larger than {_MOST_BYTES // 10**6} MB")
    with file.open("rb") as stream:
        return stream.read(size)  # no more than it said, should that have been a lie


def _file_size(file: Path) -> int:
    status = file.stat()
    if stat.S_ISDIR(status.st_mode):
        os.scandir(file).close()  # says so if it cannot even be listed
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer
        raise OSError("it is a pipe or a device, not a file")
    return status.st_size


def _entry_size(entry: zipfile.Path) -> int:
    if entry.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    info = entry.root.getinfo(entry.at)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Python unpacks the others in pieces of any size.
        raise OSError("it is compressed by another method than deflate, which is not read")
    return info.file_size


def _too_large(encoded: bytes) -> str | None:
    """Say that a photo is too large to be decoded; None if TensorFlow may judge it."""
    try:
        pixels = claimed_pixels(encoded)
    except ValueError as error:
        return str(error)
    if pixels <= _MOST_PIXELS:
        return None
    return f"{pixels:,} pixels, and no more than {_MOST_PIXELS:,} are decoded"
