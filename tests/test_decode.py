"""Photos of every kind: decoded as by TensorFlow, upright, or refused with one reason."""

import functools
import hashlib
import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from photo_files import (
    write_classes,
    write_jpeg,
    write_readable,
    write_unreadable,
)
from PIL import Image, ImageFile, ImageOps

from catdog_jax.data import decode, photo, quiet_tensorflow
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError

SIZE = 48


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))


def gradient(width=70, height=50):
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([255 * columns / width, 255 * rows / height, 80 + 0 * rows], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def resized(pixels):
    return quiet_tensorflow.tensorflow().image.resize(np.asarray(pixels), (SIZE, SIZE)).numpy()


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG", "a.png", "a.gif"])
def test_pixels_equal_tensorflows(tmp_path, name):
    path = write_jpeg(tmp_path / name)
    image = quiet_tensorflow.tensorflow().io.decode_image(
        path.read_bytes(), 3, expand_animations=False
    )
    pixels = photo.decode_file(path, SIZE)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - resized(image)).max() <= 0.5


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_what_pillow_reads_is_resized_in_the_same_way(tmp_path, kind, mode):
    """Also BMP with a palette, whose indices TensorFlow reads as grey levels."""
    path = tmp_path / "photo"
    gradient().convert(mode).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(path) as picture:
        expected = resized(picture.convert("RGB"))
    assert np.abs(photo.decode_file(path, SIZE) - expected).max() <= 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, kind, orientation):
    path, exif = tmp_path / "photo", Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    gradient().save(path, kind, exif=exif, **options.get(kind, {}))
    with Image.open(path) as picture:
        expected = resized(ImageOps.exif_transpose(picture).convert("RGB"))
    # TensorFlow and Pillow decode a JPEG to slightly other pixels.
    assert np.abs(photo.decode_file(path, SIZE) - expected).max() <= 8


def test_the_header_is_read_without_decoding(monkeypatch):
    def refuse(self):
        raise AssertionError(f"{self.format} was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        for options in ({}, {"exif": exif}):
            encoded = io.BytesIO()
            monkeypatch.undo()
            gradient().save(encoded, kind, **options)
            monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
            header = photo.read_header(encoded.getvalue())
            assert header == (kind, 6 if options else 1, 70 * 50)


@pytest.mark.parametrize(
    "exif", [b"", b"garbage", b"II*\0\x08\0\0\0\x05\0\x12\x01", b"MM\0*\xff\xff\xff\0"]
)
def test_a_photo_with_damaged_exif_is_still_read(tmp_path, exif):
    encoded = write_jpeg(tmp_path / "plain.jpg").read_bytes()
    block = b"Exif\0\0" + exif
    damaged = encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + encoded[2:]
    (tmp_path / "damaged.jpg").write_bytes(damaged)
    plain = photo.decode_file(tmp_path / "plain.jpg", SIZE)
    np.testing.assert_array_equal(photo.decode_file(tmp_path / "damaged.jpg", SIZE), plain)


@pytest.mark.filterwarnings("error")
def test_more_than_8_bits(tmp_path):
    grey = np.asarray(gradient().convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "32.tif")
    eight = photo.decode_file(tmp_path / "8.tif", SIZE)
    np.testing.assert_array_equal(photo.decode_file(tmp_path / "16.tif", SIZE), eight)
    with pytest.raises(InputError, match="cannot be decoded as a photo: its pixels have 32 bits"):
        photo.decode_file(tmp_path / "32.tif", SIZE)


@pytest.mark.filterwarnings("error")
def test_a_large_photo_is_read_without_a_warning(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    gradient().save(path)
    # Above this number Pillow warns, above twice the number it refuses.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 50 - 1)
    assert photo.decode_file(path, SIZE).shape == (SIZE, SIZE, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 50 // 2 - 1)
    with pytest.raises(InputError, match="exceeds limit"):
        photo.decode_file(path, SIZE)


def test_a_photo_that_cannot_be_decoded_is_refused_in_one_line(tmp_path, monkeypatch):
    for name, said in write_unreadable(tmp_path / "bad", monkeypatch).items():
        path = tmp_path / "bad" / name
        with pytest.raises(InputError, match=said) as caught:
            photo.decode_file(path, SIZE)
        assert re.match(rf"{path} cannot be (read|decoded as a photo): .", str(caught.value))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        photo.decode_file(tmp_path, SIZE)


def test_photos_of_every_kind_in_one_source(tmp_path, monkeypatch):
    """The pixels are those of decode_file; what it refuses is named."""
    colors = write_readable(tmp_path / "photos")
    reasons = write_unreadable(tmp_path / "photos", monkeypatch)
    files = sorted((tmp_path / "photos").iterdir(), key=lambda path: hash(path.name) % 97)
    wanted = np.arange(len(files))[::-1]
    images = np.zeros((len(files), SIZE, SIZE, 3), np.uint8)
    filled = decode.decode_all(functools.partial(decode.read_files, files), wanted, images)
    failed = {files[wanted[row]].name: flaw for row, flaw in filled.failed.items()}
    assert failed.keys() == reasons.keys()
    for name, flaw in failed.items():
        assert reasons[name] in flaw
    for row, index in enumerate(wanted):
        path = files[index]
        if path.name in reasons:
            assert filled.digests[row] == b""
            continue
        assert filled.digests[row] == hashlib.sha256(path.read_bytes()).digest()
        assert images[row, 0, 0].tolist() == list(colors[path.name]), path.name
        np.testing.assert_array_equal(images[row], photo.decode_file(path, SIZE))


def test_the_listing_finds_every_kind(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", dog=30)
    colors = write_readable(folder / "cats")
    reasons = write_unreadable(folder / "cats", monkeypatch)
    loaded = load_data(folder, SIZE)
    assert {photo.name for photo in loaded.skipped} == {f"cats/{name}" for name in reasons}
    read = {n for split in (loaded.train, loaded.validation, loaded.test) for n in split.names}
    assert {f"cats/{name}" for name in colors} == {n for n in read if n.startswith("cats/")}
    assert loaded.passed_over == {}


def test_tensorflow_sees_no_gpu():
    assert quiet_tensorflow.tensorflow().config.get_visible_devices("GPU") == []


def test_tensorflow_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(InputError, match="this needs TensorFlow, which cannot be imported"):
        quiet_tensorflow.tensorflow.__wrapped__()


def test_pictures_from_bug_reports_are_read(shared: Path):
    """Extensions and layouts that were once passed over or misunderstood."""
    cases = shared / "cases"
    loaded = load_data(cases / "extensions", 32)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 20
    assert (loaded.passed_over, loaded.skipped) == ({}, ())
    for name in ("kaggle", "train_val"):
        loaded = load_data(cases / "split_folders" / name, 32)
        assert loaded.class_names == ("cats", "dogs")
