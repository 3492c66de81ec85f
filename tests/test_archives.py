"""Zips that are damaged or unusual: refused, or the entry left out, in one line."""

import os
import struct
import time
import tracemalloc
import zipfile

import pytest
from photo_files import white_png, write_classes, zip_of

from catdog_jax.data import photo
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError

SIZE = 32
# Offsets in an entry of the central directory.
FLAGS, METHOD, UNPACKED_SIZE, OFFSET = 8, 10, 24, 42


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path):
    """A zip of ten cats and ten dogs."""
    return zip_of(write_classes(tmp_path / "photos", cat=10, dog=10))


def error_of(source):
    with pytest.raises(InputError) as caught:
        load_data(source, SIZE)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def skipped_of(source):
    loaded = load_data(source, SIZE)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 20
    return {photo.name: photo.reason for photo in loaded.skipped}


def add(path, name, content, **attributes):
    entry = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, content)


def forge(path, name, place, layout, value):
    """Overwrite a field of an entry in the central directory."""
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    struct.pack_into(layout, content, at + place, value)
    path.write_bytes(content)


def test_odd_names_do_no_harm(archive):
    for name in ("cats/a..b.txt", "...", "notes: a.txt", "cats/.hidden/x.txt"):
        add(archive, name, b"")
    assert skipped_of(archive) == {}


def test_photos_in_folders_of_a_class_are_read(archive):
    before = load_data(archive, SIZE)
    with zipfile.ZipFile(archive) as opened:
        photo = opened.read("cats/cat.0.png")
    add(archive, "cats/more/and/more/cat.0.png", photo)
    after = load_data(archive, SIZE)
    names = [
        {name for split in (loaded.train, loaded.validation, loaded.test) for name in split.names}
        for loaded in (before, after)
    ]
    assert names[1] - names[0] == {"cats/more/and/more/cat.0.png"}


def test_a_zip_of_many_folders_is_listed_quickly(archive):
    with zipfile.ZipFile(archive, "a") as opened:
        for number in range(500):
            opened.writestr(f"{number}/" + "a/" * 25 + "1.jpg", b"")
    start = time.monotonic()
    assert "cannot be read" in error_of(archive)  # most of these photos
    assert time.monotonic() - start < 30


def test_a_folder_with_the_name_of_a_photo(archive):
    """It is entered like any other."""
    add(archive, "cats/folder.jpg/notes.txt", b"")
    add(archive, "cats/folder.jpg/cut.png", b"\x89PNG")
    assert list(skipped_of(archive)) == ["cats/folder.jpg/cut.png"]


def test_an_entry_larger_than_any_photo_is_not_unpacked(archive, monkeypatch):
    add(archive, "cats/bomb.png", b"\0" * 10_000_000, compress_type=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(photo, "_MOST_BYTES", 5_000_000)
    tracemalloc.start()
    reasons = skipped_of(archive)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons == {"cats/bomb.png": "cannot be read: it is larger than 5 MB"}
    assert peak < 5_000_000


def test_an_entry_that_lies_about_its_size_is_not_unpacked_whole(archive):
    add(archive, "cats/bomb.png", b"\0" * 50_000_000, compress_type=zipfile.ZIP_DEFLATED)
    forge(archive, "cats/bomb.png", UNPACKED_SIZE, "<I", 1000)
    tracemalloc.start()
    reasons = skipped_of(archive)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(reasons) == ["cats/bomb.png"]
    assert "Bad CRC-32" in reasons["cats/bomb.png"]
    assert peak < 10_000_000


def test_a_photo_that_claims_gigabytes_is_not_decoded(archive):
    add(archive, "cats/huge.png", white_png(20_000))
    assert "400000000 pixels" in skipped_of(archive)["cats/huge.png"]


def test_an_encrypted_photo_is_left_out(archive):
    add(archive, "cats/secret.png", b"secret")
    forge(archive, "cats/secret.png", FLAGS, "<H", 1)
    assert "is encrypted, password required" in skipped_of(archive)["cats/secret.png"]


def test_an_encrypted_zip_is_refused(archive):
    for number in range(10):
        forge(archive, f"cats/cat.{number}.png", FLAGS, "<H", 1)
    forge(archive, "dogs/dog.0.png", FLAGS, "<H", 1)
    message = error_of(archive)
    assert message.startswith(f"11 of the 20 photos of {archive} cannot be read")
    assert "is encrypted" in message


@pytest.mark.parametrize(
    ("place", "layout", "value"),
    [(OFFSET, "<I", 10**6), (OFFSET, "<I", 7), (METHOD, "<H", 77), (FLAGS, "<H", 0x20)],
)
def test_a_damaged_entry_is_left_out(archive, place, layout, value):
    add(archive, "cats/damaged.png", b"x" * 50)
    forge(archive, "cats/damaged.png", place, layout, value)
    reasons = skipped_of(archive)
    assert list(reasons) == ["cats/damaged.png"]
    assert reasons["cats/damaged.png"].startswith("cannot be read: ")


def test_a_duplicate_name_is_one_photo(archive):
    with pytest.warns(UserWarning, match="Duplicate name"):
        add(archive, "cats/cat.3.png", b"no photo")
    loaded = load_data(archive, SIZE)
    assert [photo.name for photo in loaded.skipped] == ["cats/cat.3.png"]  # the later one
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 19


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x03\x04" + bytes(99), b"<html>not found</html>", b"\xff\xd8\xff\xe0" * 99],
)
def test_what_is_not_a_zip_is_refused(tmp_path, content):
    (tmp_path / "photos.zip").write_bytes(content)
    assert "neither a folder nor a zip that can be opened" in error_of(tmp_path / "photos.zip")


def test_a_truncated_zip_is_refused(archive):
    whole = archive.read_bytes()
    for length in range(0, len(whole), 97):
        archive.write_bytes(whole[:length])
        assert "neither a folder nor a zip that can be opened" in error_of(archive)


def test_a_name_that_is_not_utf8_is_refused(archive):
    forge(archive, "cats/cat.1.png", FLAGS, "<H", 0x800)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"cats/cat.1.png", b"cats/cat.\xff.png"))
    assert "neither a folder nor a zip that can be opened" in error_of(archive)


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["cat.1.png"], ["cats/1.txt", "dogs/1.md"]])
def test_a_zip_without_classes_of_pictures_is_refused(tmp_path, names):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    assert any(said in error_of(path) for said in ("but holds none", "holds no pictures"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photos.zip")
    assert "is a pipe or a device" in error_of(tmp_path / "photos.zip")
