"""One encoded photo → uint8 pixels of one size.

The pixels are those of TensorFlow, without its seconds of import. Pillow reads size and orientation
from the header, refuses images too large for memory, and decodes all formats but JPEG.
"""

import contextlib
import errno
import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import Float32, Int64, Num, UInt8
from PIL import Image, ImageOps

from ..errors import InputError, first_line
from ..files import expanded

# What reading one file of a folder or of a zip can raise (RuntimeError: it is encrypted).
READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile)
READ_ERRORS += (zlib.error,)
JPEG = ("JPEG", "MPO")  # MPO: a JPEG of several pictures
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
_MOST_BYTES = 200_000_000  # for one photo, more than cameras write


class Header(NamedTuple):
    """What is known of a photo before it is decoded."""

    format: str
    """As Pillow calls it."""
    orientation: int
    """In EXIF, 1 to 8; 1 is upright."""
    pixels: int
    """Width times height."""


def decode_file(path: str | Path, image_size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Read one photo as `load_data` would: uint8[image_size, image_size, 3].

    Raises:
        InputError: the file cannot be read or decoded.
    """
    path = expanded(path)
    try:
        return decode_given(path, image_size)
    except ValueError as error:
        raise InputError(f"{path} {error}") from error


def decode_given(
    photo: Path | bytes, image_size: int, most_pixels: float = math.inf
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode one photo, a file or its contents.

    Raises:
        ValueError: why not, to be read after its name: `cannot be read: …`.
    """
    try:
        encoded = read_bytes(photo) if isinstance(photo, Path) else photo
    except READ_ERRORS as error:
        raise ValueError(f"cannot be read: {first_line(error)}") from error
    try:
        return decode_bytes(encoded, image_size, most_pixels)
    except ValueError as error:
        raise ValueError(f"cannot be decoded as a photo: {first_line(error)}") from error


def decode_bytes(
    encoded: bytes, image_size: int, most_pixels: float = math.inf
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode one photo.

    Raises:
        ValueError: it cannot be decoded, or has more than `most_pixels`.
    """
    header = read_header(encoded)
    if header.pixels > most_pixels:
        raise ValueError(f"it has {header.pixels:,} pixels, more than {most_pixels:,.0f}")
    try:
        if header.format in JPEG:
            return upright(resized(_decode_jpeg(encoded), image_size), header.orientation)
        with _opened(encoded) as photo:
            pixels = np.asarray(_eight_bits(ImageOps.exif_transpose(photo)).convert("RGB"))
    except Exception as error:  # as in read_header
        raise ValueError(first_line(error)) from error
    return resized(pixels, image_size)


def read_header(encoded: bytes) -> Header:
    """Read format and orientation of a photo without decoding it.

    Raises:
        ValueError: it is not a photo, or has more pixels than Pillow allows.
    """
    try:
        with _opened(encoded) as photo:
            # Not photo.getexif(): it decodes a whole PNG in search of EXIF data after the pixels.
            orientation = Image.Image.getexif(photo).get(0x0112, 1)
            return Header(str(photo.format), orientation, photo.width * photo.height)
    except Image.UnidentifiedImageError as error:
        raise ValueError(_kind(encoded)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(first_line(error).partition(", could be")[0]) from error
    except Exception as error:  # Pillow's readers raise all kinds of errors
        raise ValueError(first_line(error)) from error


def _kind(encoded: bytes) -> str:
    """What there is in place of a photo."""
    if not encoded:
        return "the file is empty"
    if encoded[4:8] == b"ftyp":
        return "HEIC and AVIF are not read; save it as JPEG"
    return "it is a zip; unpack it" if encoded[:2] == b"PK" else "unknown image format"


def upright(
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


def read_bytes(file: Path | zipfile.Path) -> bytes:
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


def _decode_jpeg(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode to TensorFlow's pixels; Pillow's, by another method, are a grey level brighter."""
    try:
        *_, colors, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
        if colors in ("CMYK", "YCCK"):
            inks = simplejpeg.decode_jpeg(encoded, "CMYK", fastdct=True).astype(np.uint16)
            return (inks[..., :3] * inks[..., 3:] // 255).astype(np.uint8)
        return simplejpeg.decode_jpeg(encoded, fastdct=True)
    except ValueError as error:
        if "extraneous bytes" not in str(error):
            raise
    return simplejpeg.decode_jpeg(encoded, fastdct=True, strict=False)


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


def resized(
    pixels: UInt8[np.ndarray, "height width 3"], image_size: int
) -> UInt8[np.ndarray, "side side 3"]:
    """Resize as in the post, bilinearly without antialiasing, then round to uint8."""
    top, bottom, down = _neighbours(pixels.shape[0], image_size)
    left, right, across = _neighbours(pixels.shape[1], image_size)

    def between(rows: Int64[np.ndarray, " side"]) -> Float32[np.ndarray, "side side 3"]:
        first, last = (pixels[rows][:, at].astype(np.float32) for at in (left, right))
        return first + (last - first) * across[:, None]

    upper, lower = between(top), between(bottom)
    return np.rint(upper + (lower - upper) * down[:, None, None]).astype(np.uint8)


def _neighbours(
    length: int, size: int
) -> tuple[Int64[np.ndarray, " size"], Int64[np.ndarray, " size"], Float32[np.ndarray, " size"]]:
    """For each pixel of an axis, the two it lies between and its distance from the first."""
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size)
    at -= np.float32(0.5)
    first = np.floor(at)
    index = first.astype(np.int64)
    return index.clip(0, length - 1), (index + 1).clip(0, length - 1), at - first
