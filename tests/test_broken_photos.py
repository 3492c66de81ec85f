"""Photos of every kind of trouble: what TensorFlow reads is read as it does, the rest is named."""

import dataclasses
import io
import json
import shutil
import sys
import time

import numpy as np
import pytest
from photo_files import (
    JXL,
    gif_of_frames,
    jxl_in_pieces,
    png_chunk,
    png_header,
    write_classes,
    write_photo,
    write_readable,
    write_unreadable,
    zip_of,
)
from PIL import Image, features

from catdog_jax.cli import main
from catdog_jax.data import decode
from catdog_jax.data.headers import claimed_pixels
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError, say
from catdog_jax.runs.messages import describe

SIZE = 48


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def error_of(source, **arguments):
    with pytest.raises(InputError) as caught:
        load_data(source, SIZE, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixels_of(loaded):
    splits = (loaded.train, loaded.validation, loaded.test)
    return {name: split.images[row] for split in splits for row, name in enumerate(split.names)}


def read_by_tensorflow(path):
    tf = decode.tensorflow()
    image = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
    return tf.image.resize(image, (SIZE, SIZE)).numpy()


# In a data set.


def test_a_data_set_of_every_kind(tmp_path, monkeypatch, capsys):
    folder = write_classes(tmp_path / "photos", dog=20)
    colors = write_readable(folder / "cats")
    readable = {f"cats/{path.name}" for path in (folder / "cats").iterdir()}
    reasons = write_unreadable(folder / "cats", monkeypatch)
    loaded = load_data(folder, SIZE)
    skipped = {photo.name: photo.reason for photo in loaded.skipped}
    assert skipped.keys() == {f"cats/{name}" for name in reasons}
    for name, reason in reasons.items():
        assert reason in skipped[f"cats/{name}"]
        assert "\n" not in skipped[f"cats/{name}"]
    pixels = pixels_of(loaded)
    assert {name for name in pixels if name.startswith("cats/")} == readable
    for name in readable:
        assert np.abs(pixels[name] - read_by_tensorflow(folder / name)).max() <= 0.5
    for name, color in colors.items():
        assert pixels[f"cats/{name}"][0, 0].tolist() == list(color), name
    # What is in the cache tells the same, names that are no Unicode included.
    assert load_data(folder, SIZE).skipped == loaded.skipped
    for line in describe(loaded):  # which a terminal can show
        say(line)
    capsys.readouterr().out.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_class_named_by_bytes_that_are_no_unicode(tmp_path, capsys):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats").rename(folder / "ch\udce2ts")
    loaded = load_data(folder, SIZE)
    assert loaded.class_names == ("ch\udce2ts", "dogs")
    assert load_data(loaded.folder, SIZE).class_names == loaded.class_names
    given = ["--image-size", str(SIZE), "--out", str(tmp_path / "out")]
    assert main(["data", str(folder), *given]) == 0  # which draws figures with the names
    assert "7 ch\\udce2ts, 7 dogs" in capsys.readouterr().out


@pytest.mark.parametrize("as_zip", [False, True])
def test_strict_stops_at_a_single_bad_photo(tmp_path, as_zip):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats/cat.5.png").write_text("no photo")
    (folder / "dogs/dog.3.png").write_bytes(b"")
    source = zip_of(folder) if as_zip else folder
    for _ in range(2):  # decoding them, and finding them in the cache
        message = error_of(source, strict=True)
        assert message.startswith(
            f"2 of the photos of {source} cannot be read, the first of them 'cats/c"
        )
        assert "'cats/cat.5.png' (Unknown image file format" in message
    prepared = load_data(source, SIZE)
    assert len(prepared.skipped) == 2
    assert "2 of the photos" in error_of(prepared.folder, strict=True)


def test_strict_takes_good_photos(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    assert len(load_data(folder, SIZE, strict=True).train) == 14


@pytest.mark.parametrize("strict", [False, True])
def test_more_than_half_bad_stops_always(tmp_path, cache, strict):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    for number in range(5):
        (folder / f"cats/cat.{number}.png").write_text("no photo")
        (folder / f"dogs/dog.{number}.png").write_text("no photo")
    if not strict:
        assert len(load_data(folder, SIZE, sizes=(14, 6, 0)).skipped) == 10  # half is not more
    (folder / "cats/cat.5.png").write_text("no photo")
    for _ in range(2):
        message = error_of(folder, strict=strict, sizes=(14, 6, 0))
        assert message.startswith(f"11 of the 20 photos of {folder} cannot be read, the first of")
        assert "'cats/cat.0.png' (Unknown image file format" in message
    assert not list((cache / "data").glob(".preparing-*"))


def test_strict_on_the_command_line(tmp_path, capsys):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats/cat.5.png").write_text("no photo")
    given, out = ["--image-size", str(SIZE), "--strict"], ["--out", str(tmp_path / "out")]
    for command in (
        ["data", str(folder)],
        ["train", "model1", "--data", str(folder)],
        ["reproduce", "--models", "model1", "--data", str(folder)],
    ):
        assert main([*command, *given, *out]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: 1 of the photos of {folder} cannot be read")
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def with_copies(tmp_path):
    """Photos in given splits, one of train in validation, too, and two photos of test elsewhere."""
    folder = write_classes(tmp_path / "photos/train", cat=8, dog=8).parent
    for number in range(50, 55):
        write_photo(folder / f"validation/cats/cat.{number}.png")
        write_photo(folder / f"validation/dogs/dog.{number}.png")
        write_photo(folder / f"test/cats/cat.{number + 10}.png")
        write_photo(folder / f"test/dogs/dog.{number + 10}.png")
    shutil.copy(folder / "train/dogs/dog.1.png", folder / "validation/dogs/again.png")
    shutil.copy(folder / "train/dogs/dog.1.png", folder / "train/dogs/twice.png")  # within a split
    with Image.open(folder / "train/cats/cat.3.png") as photo:
        photo.save(folder / "test/cats/other_file.bmp")
    shutil.copy(folder / "validation/cats/cat.51.png", folder / "test/cats/same.png")
    return folder


def test_photos_in_two_splits_are_reported(with_copies):
    loaded = load_data(with_copies, SIZE)
    expected = {
        ("validation", "validation/dogs/again.png", "train", "train/dogs/dog.1.png"),
        ("test", "test/cats/other_file.bmp", "train", "train/cats/cat.3.png"),
        ("test", "test/cats/same.png", "validation", "validation/cats/cat.51.png"),
    }
    # Which of two copies in train is named depends on the split's order.
    found = {dataclasses.astuple(shared) for shared in loaded.shared}
    assert {(*row[:3], row[3].replace("twice", "dog.1")) for row in found} == expected
    assert len(loaded.shared) == 3
    assert load_data(with_copies, SIZE).shared == loaded.shared
    assert load_data(loaded.folder, SIZE).shared == loaded.shared
    lines = describe(loaded)
    assert "    shared: 3 photos are in an earlier split, too" in lines
    twins = "test: test/cats/same.png = validation: validation/cats/cat.51.png"
    assert f"            {twins}" in lines


def test_photos_of_their_own_are_not_reported(tmp_path):
    loaded = load_data(write_classes(tmp_path / "photos", cat=10, dog=10), SIZE)
    assert loaded.shared == ()
    assert not any("shared" in line for line in describe(loaded))


def test_a_run_folder_lists_what_was_left_out_and_what_is_shared(with_copies, tmp_path, capsys):
    (with_copies / "train/cats/cat.0.png").write_text("no photo")
    given = ["--data", str(with_copies), "--image-size", "32", "--batch-size", "8"]
    assert main(["train", "model3", *given, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text("utf-8"))
    (skipped,) = config["data"]["skipped"]
    assert skipped["name"] == "train/cats/cat.0.png"
    assert skipped["reason"].startswith("Unknown image file format")
    names = {shared["name"] for shared in config["data"]["shared"]}
    assert {"test/cats/other_file.bmp", "test/cats/same.png"} < names
    printed = capsys.readouterr().out
    assert "train/cats/cat.0.png: Unknown image file format" in printed
    assert "shared: 3 photos are in an earlier split, too" in printed


def test_long_lists_are_cut_short_on_the_terminal(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=40, dog=40)
    for number in range(25):
        kind = ("cat", "dog")[number % 2]
        (folder / f"{kind}s/{kind}.{number}.png").write_text("no photo")
    loaded = load_data(folder, SIZE)
    assert len(loaded.skipped) == 25
    lines = describe(loaded)
    assert sum("Unknown image file format" in line for line in lines) == 20
    assert lines[-1].strip() == f"and 5 more, in {loaded.folder / 'meta.json'}"
    assert len(json.loads((loaded.folder / "meta.json").read_text("utf-8"))["skipped"]) == 25


def test_a_missing_class_is_said_to_be_missing(tmp_path):
    loaded = load_data(write_classes(tmp_path / "photos", cat=9, dog=3), SIZE, sizes=(8, 3, 1))
    lines = describe(loaded)
    assert "(6 cats, 2 dogs; always guessing the commonest: 75.0 %)" in lines[0]
    assert lines[2].endswith("(1 cats, no dogs; always guessing the commonest: 100.0 %)")


# By the header alone.


def test_huge_photos_are_refused_by_their_header(tmp_path, monkeypatch):
    reasons = write_unreadable(tmp_path / "photos", monkeypatch)
    monkeypatch.setattr(decode, "tensorflow", lambda: pytest.fail("it was to be decoded"))
    huge = [name for name, reason in reasons.items() if "pixels" in reason]
    assert len(huge) == 8
    for name in huge:
        with pytest.raises(InputError, match=reasons[name]):
            decode.decode_file(tmp_path / "photos" / name, SIZE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True, "comment": b"\xff\xc0" * 99}, {"lossless": True}, {"exif": b"x"}],
)
def test_the_header_tells_the_size(format, options):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow writes no WebP")
    encoded = io.BytesIO()
    Image.new("RGB", (123, 45)).save(encoded, format, **options)
    assert claimed_pixels(encoded.getvalue()) == 123 * 45
    for length in range(len(encoded.getvalue())):  # nor does what is cut off raise anything
        assert claimed_pixels(encoded.getvalue()[:length]) in (0, 123 * 45)


@pytest.mark.parametrize(
    ("header", "pixels"),
    [
        ("ff0ae8301009", 40 * 30),
        ("ff0a4f4024", 64 * 64),
        ("ff0a00101009", 1),
        ("ff0aa80be68348", 500 * 374),
        ("ff0af83e1009", 640 * 480),
        ("ff0a823ee87681", 3000 * 2001),
    ],
)
def test_the_header_of_a_jpeg_xl_tells_the_size(header, pixels):
    jxl = bytes.fromhex(header) + bytes(9)
    assert claimed_pixels(jxl) == claimed_pixels(jxl_in_pieces(jxl)) == pixels


def test_a_png_may_hide_its_size_behind_another_chunk():
    header = png_header(60_000, 60_000)
    hidden = header[:8] + png_chunk(b"abCd", b"x" * 20) + header[8:]
    assert claimed_pixels(hidden) == 60_000 * 60_000


@pytest.mark.parametrize("kind", ["jxl", "jxl in pieces", "webp"])
def test_newer_formats_are_read_if_tensorflow_reads_them(tmp_path, kind):
    if kind == "webp" and not features.check("webp"):
        pytest.skip("this Pillow writes no WebP")
    path = tmp_path / "photo.jpg"
    if kind == "webp":
        Image.new("RGB", (40, 30), "red").save(path, "WEBP")
    else:
        path.write_bytes(JXL if kind == "jxl" else jxl_in_pieces(JXL))
    try:
        expected = read_by_tensorflow(path)
    except decode.tensorflow().errors.OpError:
        with pytest.raises(InputError, match="cannot be decoded as a photo"):
            decode.decode_file(path, SIZE)
    else:
        assert np.abs(decode.decode_file(path, SIZE) - expected).max() <= 0.5


def test_all_frames_of_a_gif_are_counted():
    encoded = io.BytesIO()
    frames = [Image.new("P", (30, 20), number) for number in range(7)]
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    pixels = claimed_pixels(encoded.getvalue())
    assert 30 * 20 < pixels <= 7 * 30 * 20  # later frames hold only what changes


def in_pieces(kind):
    """A file of 20 MB in the smallest blocks."""
    start, block = {
        "PNG": (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0tEXt\0\0\0\0"),
        "JPEG": (b"\xff\xd8", b"\xff\xe0\0\2"),
        "GIF": (b"GIF89a" + bytes(7) + b"\x21\xfe", b"\1x"),
        "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x08free"),
    }[kind]
    return start + block * (20_000_000 // len(block))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "JPEG XL"])
def test_what_is_in_millions_of_pieces_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    path.write_bytes(in_pieces(kind))
    began = time.monotonic()
    with pytest.raises(InputError, match="it is in more than 1,000,000 pieces, as no photo is"):
        decode.decode_file(path, SIZE)
    assert time.monotonic() - began < 5


def test_a_gif_of_all_the_whole_blocks_that_are_read_is_gone_through():
    comment = b"GIF89a" + bytes(7) + b"\x21\xfe" + (b"\xff" + bytes(255)) * (190_000_000 // 256)
    frame = gif_of_frames(1, 30, 20)[19:]  # less what is before it
    assert claimed_pixels(comment + b"\0" + frame) == 30 * 20
