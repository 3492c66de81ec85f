"""`load_data`: the cache, splits, the decoding process, TFDS; photos as Keras and TFDS read."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from inspect import unwrap
from pathlib import Path
from types import SimpleNamespace

import keras_reference
import numpy as np
import pytest
from photo_files import color, write_classes, write_jpeg, write_photo, zip_of

from catdog_jax.data import (
    decode,
    decoded_cache,
    decoded_folder,
    quiet_tensorflow,
    sources,
    tfds,
)
from catdog_jax.data.copies import without_copies
from catdog_jax.data.load import load_data, unused_photos
from catdog_jax.data.splits import SPLIT_NAMES, ImageView, class_counts
from catdog_jax.errors import InputError
from catdog_jax.runs import series

SIZE = 32

pytestmark = keras_reference.ignore_keras_warnings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CATDOG_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("requests.get", refuse)
    monkeypatch.setattr(tfds.urllib.request, "urlopen", refuse)


@pytest.fixture
def own_process(monkeypatch):
    """TFDS is read in another process, as for users."""
    monkeypatch.delenv(decoded_cache.DECODE_HERE)


@pytest.fixture
def no_tensorflow(monkeypatch):
    def refuse():
        pytest.fail("TensorFlow was asked for")

    monkeypatch.setattr(tfds, "tensorflow", refuse)


def splits_of(loaded):
    return [getattr(loaded, name) for name in SPLIT_NAMES]


def sizes_of(loaded):
    return tuple(map(len, splits_of(loaded)))


def names_of(loaded):
    return [name for split in splits_of(loaded) for name in split.names]


def error_of(source, **arguments):
    with pytest.raises(InputError) as caught:
        unwrap(load_data)(source, **{"image_size": SIZE, **arguments})  # as without type checks
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_whole(loaded, folders=None):
    """Check types, the pixels beside each label and name, and that no photo is used twice."""
    for split in splits_of(loaded):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), SIZE, SIZE, 3)
        assert isinstance(split.images.array, np.memmap)
        assert split.labels.dtype == np.int32
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            assert (image == color(name)).all()
            assert Path(name).parent.name == (folders or split.class_names)[label]
    names = names_of(loaded)
    assert len(set(names)) == len(names)


def decoded_in(cache):
    return [path for path in (cache / "data").iterdir() if path.suffix != ".lock"]


# The cache.


def test_a_folder_and_a_zip_of_it_hold_the_same_photos(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=20, dog=20, fox=11)
    loaded, zipped = load_data(folder, SIZE), load_data(zip_of(folder, "wrapped/"), SIZE)
    assert loaded.class_names == ("cats", "dogs", "foxs")
    assert sum(sizes_of(loaded)) == 51
    check_whole(loaded)
    assert names_of(zipped) == names_of(loaded)
    assert zipped.fingerprint == loaded.fingerprint


def test_photos_are_decoded_once_for_all_splits(tmp_path, monkeypatch, cache):
    folder = write_classes(tmp_path / "photos", cat=20, dog=20)
    first = load_data(folder, SIZE)
    monkeypatch.setattr(decoded_folder, "write", lambda *args, **rest: pytest.fail("decoded again"))
    others = [load_data(folder, SIZE, seed=1), load_data(folder, SIZE, sizes=(9, 5, 3))]
    for other in others:
        check_whole(other)
        assert other.fingerprint == first.fingerprint
        assert names_of(other) != names_of(first)
    assert len(decoded_in(cache)) == 1


def test_drawings_are_drawn_once_per_edition(monkeypatch, cache):
    first = load_data("sketches", SIZE, sizes=(6, 4, 2))
    assert sizes_of(first) == (6, 4, 2)
    assert sizes_of(load_data("sketches", SIZE, seed=3, sizes=(8, 2, 2))) == (8, 2, 2)
    assert len(decoded_in(cache)) == 1
    monkeypatch.setattr(sources.sketches, "EDITION", 0)
    load_data("sketches", SIZE, sizes=(6, 4, 2))
    assert len(decoded_in(cache)) == 2


def test_a_copied_folder_is_the_same_data(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)  # with new times
    first, second = load_data(folder, SIZE), load_data(copied, SIZE)
    assert second.fingerprint == first.fingerprint
    assert names_of(second) == names_of(first)
    write_photo(copied / "cats/cat.77.png")
    assert load_data(copied, SIZE).fingerprint != first.fingerprint


def test_a_changed_photo_is_noticed(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    first = load_data(folder, SIZE)
    write_photo(folder / "cats/cat.99.png")
    (folder / "cats/cat.99.png").replace(folder / "cats/cat.3.png")
    assert load_data(folder, SIZE).fingerprint != first.fingerprint


def test_the_same_photos_under_another_name_are_not_decoded_again(tmp_path, cache):
    path = zip_of(write_classes(tmp_path / "photos", cat=20, dog=20))
    copy = shutil.copy2(path, tmp_path / "copy.zip")
    one, other = load_data(path, SIZE), load_data(copy, SIZE)
    assert (one.source, other.source) == (str(path), str(copy))
    assert one.folder == other.folder
    assert len(decoded_in(cache)) == 1


def test_opening_reads_no_pixels(monkeypatch):
    load_data("sketches", SIZE, sizes=(12, 6, 2))
    monkeypatch.setattr(ImageView, "__getitem__", pytest.fail)
    loaded = load_data("sketches", SIZE, sizes=(12, 6, 2))
    assert isinstance(loaded.train.images, ImageView)
    assert isinstance(loaded.train.images.array, np.memmap)


def test_an_empty_split_or_class_is_reported(tmp_path, caplog):
    folder = write_classes(tmp_path / "photos", cat=40, dog=2)
    loaded = load_data(folder, SIZE)
    assert [class_counts(split)["dogs"] for split in splits_of(loaded)] == [1, 1, 0]
    (message,) = caplog.messages
    assert f"the test split of {folder} has no photos of dogs" in message
    write_classes(tmp_path / "parts/train", cat=4, dog=4)
    write_classes(tmp_path / "parts/validation", cat=4, dog=4)
    caplog.clear()
    assert sizes_of(load_data(tmp_path / "parts", SIZE)) == (8, 8, 0)
    (message,) = caplog.messages
    assert f"the test split of {tmp_path / 'parts'} is empty" in message
    caplog.clear()
    load_data(tmp_path / "parts", SIZE, sizes=(8, 8, 0))
    assert caplog.messages == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, cache, error):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)

    def fail(*args):
        assert len(list((cache / "data").rglob("images.npy"))) == 1
        raise error

    monkeypatch.setattr(decode, "decode_all", fail)
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        load_data(folder, SIZE)
    if isinstance(error, OSError):
        assert "cannot be written (No space left on device)" in str(caught.value)
    assert decoded_in(cache) == []


def test_a_disk_that_is_too_small_is_reported_before_decoding(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "decoding 10 photos takes 3 MB" in error_of(folder, image_size=320)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    (tmp_path / "file").touch()
    assert "cache_dir or CATDOG_CACHE" in error_of(folder, cache_dir=tmp_path / "file/in")


@pytest.mark.usefixtures("no_tensorflow", "own_process")
def test_a_folder_with_the_name_of_a_source(tmp_path, monkeypatch):
    """A path is never a name; and a photo in it cannot be read."""
    folder = write_classes(tmp_path / "sketches", cat=10, dog=10)
    (folder / "cats/cat.99.jpg").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    loaded = load_data(Path("sketches"), SIZE, sizes=(14, 3, 3))
    assert (sizes_of(loaded), len(loaded.skipped)) == ((14, 3, 3), 1)
    assert loaded.source == "sketches"
    check_whole(loaded)


# Decoded folders as a source.


def test_a_copied_decoded_folder_is_a_source(tmp_path, no_tensorflow, own_process):
    folder = load_data("sketches", SIZE, sizes=(6, 4, 2)).folder
    assert folder is not None
    shutil.copytree(folder, tmp_path / "copied")
    loaded = load_data(tmp_path / "copied", SIZE, seed=4, sizes=(4, 4, 4))
    assert sizes_of(loaded) == (4, 4, 4)
    assert "decoded at 32 pixels, not 64" in error_of(tmp_path / "copied", image_size=64)


def test_any_number_of_decoded_drawings_is_a_source(monkeypatch):
    monkeypatch.setattr(sources, "_SKETCHES_SIZES", (12, 6, 2))
    folder = load_data("sketches", SIZE, sizes=(40, 20, 10)).folder
    assert folder is not None
    assert sum(sizes_of(load_data(folder, SIZE))) == 70
    folder = load_data("sketches", SIZE).folder
    assert folder is not None
    assert sizes_of(load_data(folder, SIZE)) == (12, 6, 2)


def test_photos_beside_a_meta_json_are_photos(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=20, dog=20)
    (folder / "meta.json").write_text("{}")
    assert len(names_of(load_data(folder, SIZE))) == 40


@pytest.mark.parametrize("damage", ["meta", "lists", "format", "truncated", "missing", "shape"])
def test_a_damaged_decoded_folder_is_reported(tmp_path, damage):
    folder = load_data("sketches", SIZE, sizes=(6, 4, 2)).folder
    assert folder is not None
    meta = json.loads((folder / "meta.json").read_text())
    images, said = folder / "images.npy", "images.npy is missing or damaged"
    if damage in ("meta", "format", "lists"):
        meta |= {"format": 3} if damage == "format" else {"labels": [0]}
        text = json.dumps(meta)[: -9 if damage == "meta" else None]
        (folder / "meta.json").write_text(text)
        said = {"meta": "meta.json is missing", "format": "decoded in format 3"}.get(damage, said)
    elif damage == "truncated":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "missing":
        images.unlink()
    else:
        np.save(images, np.zeros((3, 4), np.uint8))
    assert said in error_of(folder)


# Photos that cannot be read.


def test_unreadable_photos_are_left_out_and_named(tmp_path, cache):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats/cat.99.png").write_text("no photo")
    (folder / "dogs/dog.99.jpg").touch()
    (folder / "dogs/dog.98.png").symlink_to("nowhere")
    loaded = load_data(folder, SIZE)
    check_whole(loaded)
    assert sum(sizes_of(loaded)) == 20
    reasons = {photo.name: photo.reason for photo in loaded.skipped}
    assert reasons == {
        "cats/cat.99.png": "unknown image format",
        "dogs/dog.98.png": "cannot be read: No such file or directory",
        "dogs/dog.99.jpg": "the file is empty",
    }
    assert "3 of the photos of" in error_of(folder, strict=True)


def test_a_photo_that_becomes_readable_is_read(tmp_path, cache):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    before = load_data(folder, SIZE).fingerprint
    (folder / "cats/cat.50.png").symlink_to(tmp_path / "away.png")
    assert len(load_data(folder, SIZE).skipped) == 1
    Path(write_classes(tmp_path / "x", cat=1) / "cats/cat.0.png").rename(tmp_path / "away.png")
    loaded = load_data(folder, SIZE)
    assert not loaded.skipped
    assert sum(sizes_of(loaded)) == 21
    assert loaded.fingerprint != before


def test_a_repaired_zip_entry_is_read(tmp_path):
    path = zip_of(write_classes(tmp_path / "photos", cat=20, dog=20))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("cats/cat.3.png")
    content = bytearray(whole)
    content[entry.header_offset + 30 + len(entry.filename) + 20] ^= 255
    path.write_bytes(content)
    broken = load_data(path, SIZE)
    path.write_bytes(whole)  # the sizes and checksums in its directory are the same
    mended = load_data(path, SIZE)
    assert [photo.name for photo in broken.skipped] == ["cats/cat.3.png"]
    assert mended.skipped == ()
    assert mended.fingerprint != broken.fingerprint


def test_more_than_half_unreadable_stops(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=2, dog=5)
    for number in range(5):
        (folder / f"dogs/bad.{number}.jpg").write_text("no photo")
    for path in (folder / "cats").iterdir():
        os.truncate(path, 0)
    message = error_of(folder)
    assert "7 of the 12 photos of" in message
    assert "'cats/cat.0.png' (the file is empty)" in message


def test_a_class_without_one_readable_photo(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=2, dog=9)
    for path in (folder / "cats").iterdir():
        os.truncate(path, 0)
    assert "none of the 2 photos of class 'cats' in" in error_of(folder)


def test_strict_refuses_pictures_that_are_passed_over(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats/notes.txt").touch()
    assert load_data(folder, SIZE, strict=True).passed_over == {".txt files": 1}
    (folder / "cats/phone.HEIC").touch()
    loaded = load_data(folder, SIZE)
    assert loaded.passed_over == {".heic files": 1, ".txt files": 1}
    assert "1 .heic files in" in error_of(folder, strict=True)


def test_copies_in_two_splits_are_reported(tmp_path):
    folder = tmp_path / "photos"
    for seed in range(10):
        write_jpeg(folder / f"train/{'cats' if seed < 5 else 'dogs'}/{seed}.jpg", seed)
    for seed in (20, 21):
        write_jpeg(folder / f"validation/cats/{seed}.jpg", seed)
    shutil.copy(folder / "train/cats/2.jpg", folder / "validation/cats/copy.jpg")
    write_jpeg(folder / "validation/dogs/smaller.jpg", 7, size=(40, 44))
    found = {(photo.name, photo.other_name) for photo in load_data(folder, SIZE).shared}
    assert found == {
        ("validation/cats/copy.jpg", "train/cats/2.jpg"),
        ("validation/dogs/smaller.jpg", "train/dogs/7.jpg"),
    }


def test_photos_in_no_split_can_be_had(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    loaded = load_data(folder, SIZE, sizes=(4, 3, 2))
    unused = unused_photos(loaded)
    parts = [*splits_of(loaded), unused]
    assert len(unused) == 11
    assert len({name for part in parts for name in part.names}) == 20
    assert [name.startswith("dogs") for name in unused.names] == unused.labels.astype(bool).tolist()
    assert tuple(unused.images[0][0, 0]) == color(unused.names[0])
    assert not len(unused_photos(load_data(folder, SIZE)))


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_size": 31}, "image_size must be from 32 to 4096, not 31"),
        ({"image_size": 64.0}, "image_size must be a whole number, not 64.0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"sizes": (1, 2)}, "sizes must be three whole numbers"),
        ({"sizes": (0, 2, 1)}, "sizes must be three whole numbers"),
    ],
)
def test_bad_arguments(arguments, said):
    assert said in error_of("sketches", **arguments)


@pytest.mark.parametrize("source", ["no_such_thing", "x" * 5000, "cats_vs_dog"])
def test_unknown_source(source):
    assert "is neither a known data set (cats_vs_dogs, " in error_of(source)


def test_the_filtered_zip_is_downloaded(tmp_path, monkeypatch, cache):
    path = zip_of(write_classes(tmp_path / "photos", cat=15, dog=15))

    def fetch(url, wanted, check):
        check(path)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(path, wanted)

    monkeypatch.setattr(sources, "fetch", fetch)
    assert len(names_of(load_data("cats_and_dogs_filtered", SIZE))) == 30
    load_data("cats_and_dogs_filtered", SIZE, tmp_path / "zips")
    for folder in (cache / "downloads", tmp_path / "zips"):
        assert (folder / "cats_and_dogs_filtered.zip").is_file()


def test_the_filtered_zip_without_network():
    message = error_of("cats_and_dogs_filtered")
    assert "no network in tests" in message
    assert "give its path" in message


# TFDS.


def store_tfds(tmp_path, write):
    """Store 12 photos that `write` makes as TFDS would store cats_vs_dogs; return the folder."""
    library = tfds.tensorflow_datasets()
    features = library.features.FeaturesDict(
        {
            "image": library.features.Image(),
            "image/filename": library.features.Text(),
            "label": library.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    examples = []
    for number in range(12):
        class_name = ("cat", "dog")[number % 2]
        path = tmp_path / f"made/{class_name}/{class_name}.{number}.png"
        write(path)
        name = path.relative_to(tmp_path / "made").as_posix()
        example = {"image": str(path), "image/filename": name, "label": number % 2}
        examples.append((number, example))
    library.dataset_builders.store_as_tfds_dataset(
        name="cats_vs_dogs",
        version="4.0.1",
        features=features,
        split_datasets={"train": examples},
        data_dir=tmp_path / "tfds",
    )
    return tmp_path / "tfds"


@pytest.fixture
def tfds_folder(tmp_path):
    """Flat photos, number 5 of them truncated."""

    def write(path):
        write_photo(path)
        if path.name == "dog.5.png":
            os.truncate(path, 40)

    return store_tfds(tmp_path, write)


@pytest.mark.parametrize(
    "other_process",
    [False, pytest.param(True, marks=pytest.mark.slow)],  # which imports TensorFlow and TFDS
)
def test_tfds(tfds_folder, other_process, monkeypatch):
    """Once decoded, photos are known by TFDS's files, without TensorFlow or another process."""

    def refuse(*arguments):
        pytest.fail(f"TensorFlow or another process was asked for: {arguments}")

    if other_process:
        monkeypatch.setattr(tfds, "tensorflow", refuse)
        monkeypatch.delenv(decoded_cache.DECODE_HERE)
    loaded = load_data("cats_vs_dogs", SIZE, tfds_folder, sizes=(6, 3, 2))
    assert loaded.class_names == ("cats", "dogs")
    assert [skipped.name for skipped in loaded.skipped] == ["dog/dog.5.png"]
    check_whole(loaded, folders=("cat", "dog"))  # as TFDS names its files, though not its classes
    monkeypatch.setattr(tfds, "tensorflow", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.delenv(decoded_cache.DECODE_HERE, raising=False)
    again = load_data("cats_vs_dogs", SIZE, tfds_folder, seed=1, sizes=(6, 3, 2))
    assert again.folder == loaded.folder
    assert "was to hold 2000 photos, but cats_vs_dogs has only" in error_of(
        "cats_vs_dogs", data_dir=tfds_folder
    )


@pytest.mark.usefixtures("own_process")
def test_a_process_reading_tfds_that_dies_is_reported(tfds_folder, tmp_path, monkeypatch):
    def error():
        return error_of("cats_vs_dogs", data_dir=tfds_folder, sizes=(6, 3, 2))

    ended = "the process reading cats_vs_dogs ended with code"
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert f"{ended} 1" in error()
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    assert f"{ended} -9 (killed, perhaps out of memory)" in error()


def test_tfds_damaged(tfds_folder):
    (record,) = tfds_folder.rglob("*.tfrecord*")
    os.truncate(record, record.stat().st_size - 9)
    message = error_of("cats_vs_dogs", data_dir=tfds_folder, sizes=(6, 3, 2))
    assert "is damaged (" in message
    assert "delete that folder to download it again" in message


def test_tfds_without_network(tmp_path):
    message = error_of("cats_vs_dogs", data_dir=tmp_path / "none")
    assert f"cats_vs_dogs is not in {tmp_path / 'none'} and could not be downloaded" in message
    assert "no network in tests" in message


# Pixels.


def by_name(splits):
    """The image and label of each photo."""
    return {
        name: (image, label)
        for split in splits
        for name, image, label in zip(split.names, split.images[:], split.labels, strict=True)
    }


def check_against_keras(folder, loaded, image_size):
    """Compare each photo of a part with what Keras reads from its folder."""
    keras = keras_reference.import_keras()
    read = 0
    for part in ("train", "validation"):
        theirs = keras.utils.image_dataset_from_directory(
            folder / part,
            image_size=(image_size, image_size),
            batch_size=32,
            shuffle=False,
            verbose=False,
        )
        assert tuple(theirs.class_names) == loaded.class_names
        splits = [loaded.train] if part == "train" else [loaded.validation, loaded.test]
        ours = by_name(splits)
        assert len(ours) == len(theirs.file_paths)
        paths = iter(theirs.file_paths)
        for images, labels in theirs:
            for image, label in zip(images.numpy(), labels.numpy(), strict=True):
                pixels, ours_label = ours[Path(next(paths)).relative_to(folder).as_posix()]
                assert label == ours_label
                assert np.abs(pixels - image).max() <= 0.5
                read += 1
    assert read == sum(sizes_of(loaded))


def test_photos_equal_keras(tmp_path):
    folder = tmp_path / "photos"
    for number, size in enumerate([(60, 45), (31, 90), (SIZE, SIZE), (200, 7), (500, 374)] * 8):
        part = "train" if number < 20 else "validation"
        write_jpeg(folder / part / ("cats", "dogs")[number % 2] / f"{number}.jpg", number, size)
    check_against_keras(folder, load_data(folder, SIZE), SIZE)


def check_against_tfds(folder, loaded, at_least):
    """Compare our photos with those of the same name among the first thousand that TFDS yields."""
    tf, library = quiet_tensorflow.tensorflow(), tfds.tensorflow_datasets()
    records = library.load("cats_vs_dogs", split="train", data_dir=folder)
    ours = by_name(splits_of(loaded))
    image_size, compared = loaded.train.images.shape[1], 0
    for record in records.take(1000):
        name = record["image/filename"].numpy().decode()
        if name in ours:
            pixels, label = ours[name]
            expected = tf.image.resize(record["image"], (image_size, image_size)).numpy()
            assert label == record["label"].numpy()
            assert np.abs(pixels - expected).max() <= 0.5
            compared += 1
    assert compared >= at_least


def test_photos_equal_what_tfds_reads(tmp_path):
    def write(path):
        write_jpeg(path.with_suffix(".jpg"), int(path.stem.split(".")[1])).rename(path)

    folder = store_tfds(tmp_path, write)
    check_against_tfds(folder, load_data("cats_vs_dogs", SIZE, folder, sizes=(6, 4, 2)), 12)


# Real photos.


@pytest.fixture(scope="module")
def decoded_once(tmp_path_factory):
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture
def kept_cache(cache, decoded_once, monkeypatch):
    """Decoded photos are kept for the next test."""
    del cache  # sets the folder that is replaced here
    monkeypatch.setenv("CATDOG_CACHE", str(decoded_once))


@pytest.mark.slow
def test_the_posts_photos_equal_keras(tmp_path, shared):
    """Slow: Keras and we decode 3,000 photos."""
    archive = shared / "data/cats_and_dogs_filtered.zip"
    with zipfile.ZipFile(archive) as photos:
        photos.extractall(tmp_path)
    loaded = load_data(archive, 160)
    counts = [tuple(class_counts(split).values()) for split in splits_of(loaded)]
    assert counts == [(1000, 1000), (404, 404), (96, 96)]
    assert loaded.fingerprint == series.POSTS_PHOTOS
    assert loaded.skipped == ()
    assert Counter(Path(name).parent.as_posix() for name in names_of(loaded)) == {
        "train/cats": 1000,
        "train/dogs": 1000,
        "validation/cats": 500,
        "validation/dogs": 500,
    }
    check_against_keras(tmp_path / "cats_and_dogs_filtered", loaded, 160)


@pytest.mark.slow
@pytest.mark.usefixtures("kept_cache")
def test_the_photos_of_tfds(shared):
    """Slow: 18,000 photos are decoded."""
    folder = shared / "data/tensorflow_datasets"
    loaded = load_data("cats_vs_dogs", SIZE, folder)
    assert loaded.class_names == ("cats", "dogs")
    counts = [tuple(class_counts(split).values()) for split in splits_of(loaded)]
    assert counts == [(1000, 1000), (404, 404), (96, 96)]
    for split in splits_of(loaded):
        for name, label in zip(split.names, split.labels, strict=True):
            assert Path(name).parent.name.lower() + "s" == split.class_names[label]
    check_against_tfds(folder, loaded, 100)


def key(name: str) -> tuple[bool, str]:
    """A photo's class and number, from `train/cats/cat.0.jpg` and `PetImages/Cat/0.jpg` alike."""
    return "dog" in name.lower(), "".join(filter(str.isdigit, Path(name).stem))


@pytest.mark.slow
@pytest.mark.usefixtures("kept_cache")
def test_the_posts_photos_are_found_among_those_of_tfds(shared: Path) -> None:
    """TFDS has all of the 3,000, in another size and encoding. Slow, as the one before."""
    post = load_data(shared / "data/cats_and_dogs_filtered.zip", SIZE)
    folder = shared / "data/tensorflow_datasets"
    tfds = load_data("cats_vs_dogs", SIZE, folder, sizes=(17000, 900, 100))
    copies = [
        copy
        for split in (tfds.train, tfds.validation, tfds.test)
        for copy in without_copies(split, [post.train, post.validation, post.test])[1]
    ]
    same = {copy.original for copy in copies if key(copy.original) == key(copy.name)}
    assert len(same) >= 0.99 * 3000
    assert len(copies) - len(same) <= 20  # photos that are in the data set more than once
