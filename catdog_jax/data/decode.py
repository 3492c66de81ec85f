"""Encoded photos → uint8 pixels of one size.

TensorFlow decodes JPEG, PNG and GIF, as in the post; Pillow decodes BMP, TIFF and WebP. Before
that, Pillow reads size and orientation from the header, and refuses images too large for memory.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64, Num, UInt8
from PIL import Image, ImageOps
from tqdm import tqdm

from ..errors import InputError, first_line
from ..files import FORGET_EVERY, expanded, forget_pages

_MOST_BYTES = 200_000_000  # for one photo, more than cameras write
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
_BY_TENSORFLOW = ("JPEG", "MPO", "PNG", "GIF")  # MPO: a JPEG of several pictures
# What reading one file of a folder or of a zip can raise (RuntimeError: it is encrypted).
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile)
_READ_ERRORS += (zlib.error,)


class Filled(NamedTuple):
    """The outcome of decoding, by row in the array of images."""

    failed: dict[int, str]
    """Rows that could not be decoded, and why."""
    digests: list[bytes]
    """SHA-256 of each encoded photo; empty if it failed."""


Reader: TypeAlias = Callable[[Collection[int], dict[int, str]], Iterator[tuple[int, bytes]]]
"""Yields (index, encoded photo) for the given indices in any order; why photos cannot be read goes
into the given dict."""


class _Header(NamedTuple):
    format: str
    orientation: int  # EXIF orientation, 1 is upright


def decode_file(path: str | Path, image_size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Read one photo as `load_data` would: uint8[image_size, image_size, 3].

    Raises:
        InputError: the file cannot be read or decoded.
    """
    path = expanded(path)
    try:
        encoded = _read(path)
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    try:
        with native_stderr_hidden():  # TensorFlow logs what is raised below
            return _decode_one(encoded, image_size)
    except InputError:  # TensorFlow is missing
        raise
    except ValueError as error:
        raise InputError(f"{path} cannot be decoded as a photo: {first_line(error)}") from error


def decode_all(
    read: Reader, wanted: Int64[np.ndarray, " n"], images: UInt8[np.ndarray, "n height width 3"]
) -> Filled:
    """Decode the photos that `read` yields, `wanted[row]` into `images[row]`."""
    tf = tensorflow()
    image_size = images.shape[1]
    row_of = {index: row for row, index in enumerate(wanted.tolist())}
    unread: dict[int, str] = {}
    headers: dict[int, _Header] = {}
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
            images[row_of[index]] = _decode_one(encoded, image_size)
        except ValueError as error:
            filled.failed[row_of[index]] = first_line(error)
        done(index)

    def for_tensorflow() -> Iterator[tuple[int, bytes]]:
        for index, encoded in read(row_of.keys(), unread):
            filled.digests[row_of[index]] = hashlib.sha256(encoded).digest()
            with contextlib.suppress(ValueError):  # reported by one_by_one
                headers[index] = _header(encoded)
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
                images[row_of[index]] = _upright(image, headers[index].orientation)
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
            encoded = _read(files[index])
        except _READ_ERRORS as error:
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


# Decoding.


def _header(encoded: bytes) -> _Header:
    """What Pillow reads of a photo without decoding it.

    Raises:
        ValueError: it is not a photo, or has more pixels than Pillow allows.
    """
    try:
        with _opened(encoded) as photo:
            # Not photo.getexif(): it decodes a whole PNG in search of EXIF data after the pixels.
            return _Header(str(photo.format), Image.Image.getexif(photo).get(0x0112, 1))
    except Image.UnidentifiedImageError as error:
        raise ValueError("unknown image format" if encoded else "the file is empty") from error
    except Exception as error:  # Pillow's readers raise all kinds of errors
        raise ValueError(first_line(error)) from error


def _decode_one(encoded: bytes, image_size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Decode one photo.

    Raises:
        ValueError: it cannot be decoded.
    """
    header, tf = _header(encoded), tensorflow()
    try:
        if header.format in _BY_TENSORFLOW:
            return _upright(_decode(encoded, image_size).numpy(), header.orientation)
        with _opened(encoded) as photo:
            pixels = np.asarray(_eight_bits(ImageOps.exif_transpose(photo)).convert("RGB"))
    except tf.errors.OpError as error:
        raise ValueError(op_reason(error)) from error
    except Exception as error:  # of Pillow, as in _header
        raise ValueError(first_line(error)) from error
    return _resized(pixels, image_size).numpy()


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    with (
        warnings.catch_warnings(action="ignore"),
        Image.open(io.BytesIO(encoded), formats=_FORMATS) as photo,
    ):
        yield photo


def _eight_bits(photo: Image.Image) -> Image.Image:
    """Scale 16 bits to 8; Pillow would clip them to white."""
    if photo.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of unknown range: save it with 8")
    return photo


def _decode(encoded: Any, image_size: int) -> Any:
    tf = tensorflow()
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return _resized(
        tf.ensure_shape(image, (None, None, 3)), image_size
    )  # resize needs a known rank


def _resized(image: Any, image_size: int) -> Any:
    """Resize as in the post, then round to uint8."""
    tf = tensorflow()
    size = (image_size, image_size)
    resized = tf.image.resize(image, size, method="bilinear", antialias=False)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _upright(
    image: Num[np.ndarray, "side side 3"], orientation: int
) -> Num[np.ndarray, "side side 3"]:
    """Apply an EXIF orientation, 1 to 8, to a square image, as photo viewers do.

    Resizing to a square treats both axes alike, so the order of the two does not matter.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


# Reading.


def _read(file: Path | zipfile.Path) -> bytes:
    """Read a file or an entry of a zip, unless reading it could hang or fill the memory."""
    if isinstance(file, Path):
        if file.is_dir():
            next(file.iterdir(), None)  # raises if the folder cannot be listed
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not file.is_file() and file.exists():  # reading a pipe would block
            raise OSError("it is a pipe or a device, not a file")
        size = file.stat().st_size
    elif file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    else:
        size = file.root.getinfo(file.at).file_size
    if size > _MOST_BYTES:
        raise OSError(f"it is larger than {_MOST_BYTES // 10**6} MB")
    with file.open("rb") as stream:
        return stream.read(size)  # no more than announced
