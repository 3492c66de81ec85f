"""Photos of every kind: pixels as TensorFlow's, upright, or one reason why there are none."""

import io
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from photo_files import color, write_classes, write_jpeg, write_photo
from PIL import Image, ImageOps

from catdog_jax.data import decode
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
    return decode.tensorflow().image.resize(np.asarray(pixels), (SIZE, SIZE)).numpy()


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG", "a.png", "a.gif"])
def test_pixels_are_those_of_tensorflow(tmp_path, name):
    path = write_jpeg(tmp_path / name)
    image = decode.tensorflow().io.decode_image(path.read_bytes(), 3, expand_animations=False)
    pixels = decode.decode_file(path, SIZE)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - resized(image)).max() <= 0.5


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_what_pillow_reads_is_resized_alike(tmp_path, kind, mode):
    """Palettes of BMP among them, which TensorFlow reads as grey levels of their numbers."""
    path = tmp_path / "photo"
    gradient().convert(mode).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(path) as photo:
        expected = resized(photo.convert("RGB"))
    assert np.abs(decode.decode_file(path, SIZE) - expected).max() <= 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, kind, orientation):
    path, exif = tmp_path / "photo", Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    gradient().save(path, kind, exif=exif, **options.get(kind, {}))
    with Image.open(path) as photo:
        expected = resized(ImageOps.exif_transpose(photo).convert("RGB"))
    # TensorFlow and Pillow decode a JPEG to slightly other pixels.
    assert np.abs(decode.decode_file(path, SIZE) - expected).max() <= 8


def test_grey_and_transparent_photos_become_rgb(tmp_path):
    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert (decode.decode_file(tmp_path / "grey.png", SIZE) == 77).all()
    assert (decode.decode_file(str(tmp_path / "clear.png"), SIZE) == (1, 2, 3)).all()


def bad_photos(folder):
    """One of every trouble, with what is said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_jpeg(folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    png = io.BytesIO()
    gradient().save(png, "PNG")
    huge = png.getvalue()[:16] + struct.pack(">II", 40_000, 40_000) + png.getvalue()[24:]
    contents = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"not a photo", "unknown image format"),
        "html.png": (b"<html><body>404</body></html>", "unknown image format"),
        "cut.jpg": (whole[: len(whole) // 2], ""),
        "start.jpg": (whole[:3], "unknown image format"),
        "cut.png": (png.getvalue()[:60], ""),
        "huge.png": (huge, ""),
        "noise.jpg": (bytes(range(256)) * 9, "unknown image format"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: said for name, (_, said) in contents.items()}


def test_a_photo_that_cannot_be_decoded_is_one_line(tmp_path):
    for name, said in bad_photos(tmp_path / "bad").items():
        with pytest.raises(
            InputError, match=f"{name} cannot be decoded as a photo: {said}"
        ) as info:
            decode.decode_file(tmp_path / "bad" / name, SIZE)
        assert "\n" not in str(info.value)
    with pytest.raises(InputError, match=r"none\.jpg cannot be read: No such file"):
        decode.decode_file(tmp_path / "none.jpg", SIZE)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        decode.decode_file(tmp_path, SIZE)


def test_a_data_set_of_every_kind(tmp_path):
    """What decode_file reads is read to the same pixels, what it refuses is left out."""
    folder = write_classes(tmp_path / "photos", dog=20)
    bad = bad_photos(folder / "cats")
    for number, kind in enumerate(["jpg", "JPEG", "jfif", "png", "gif", "bmp", "webp", "tif"] * 2):
        path = folder / f"cats/{number}.{kind}"
        gradient(60 + number, 45).save(path, "JPEG" if kind == "jfif" else None)
    loaded = load_data(folder, SIZE)
    assert {photo.name for photo in loaded.skipped} == {f"cats/{name}" for name in bad}
    assert loaded.passed_over == {}
    read = 0
    for split in (loaded.train, loaded.validation, loaded.test):
        for image, name in zip(split.images, split.names, strict=True):
            np.testing.assert_array_equal(image, decode.decode_file(folder / name, SIZE))
            read += 1
    assert read == 36


def test_a_file_larger_than_any_photo_is_not_read(tmp_path, monkeypatch):
    path = write_jpeg(tmp_path / "photo.jpg")
    monkeypatch.setattr(decode, "_MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="cannot be read: it is larger than 0 MB"):
        decode.decode_file(path, SIZE)


def test_a_photo_whose_bytes_are_copied_has_the_same_digest(tmp_path):
    paths = [write_photo(tmp_path / "cat.1.png"), tmp_path / "cat.2.png"]
    shutil.copy(tmp_path / "cat.1.png", paths[1])
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    files = [tmp_path / "cat.1.png", tmp_path / "cat.2.png"]
    filled = decode.decode_all(
        lambda wanted, failed: decode.read_files(files, wanted, failed), np.arange(2), images
    )
    assert filled.digests[0] == filled.digests[1] != b""
    assert (images == color("cat.1.png")).all()


def test_tensorflow_sees_no_gpu():
    assert decode.tensorflow().config.get_visible_devices("GPU") == []


def test_tensorflow_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(InputError, match="needs TensorFlow, which cannot be imported"):
        decode.tensorflow.__wrapped__()


def test_the_public_bug_reports_pictures(shared: Path):
    """Extensions and layouts that were passed over or taken for something else."""
    cases = shared / "cases"
    loaded = load_data(cases / "extensions", 32)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 20
    assert (loaded.passed_over, loaded.skipped) == ({}, ())
    for name in ("kaggle", "train_val"):
        loaded = load_data(cases / "split_folders" / name, 32)
        assert loaded.class_names == ("cats", "dogs")
