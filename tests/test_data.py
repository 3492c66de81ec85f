"""Sources, splits, decoding, cache and batches; real photos are used where CATDOG_SHARED has them.

Most tests use flat PNG files whose colour tells class and number, so that a picture which lands
beside another one's label or name is caught by its pixels.
"""

import builtins
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.error
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras_reference
import numpy as np
import pytest
import requests
from photo_files import color, write_classes, write_jpeg, write_photo, zip_of
from PIL import Image

from catdog_jax.data import cut, decode, sketches, sources, tfds
from catdog_jax.data import load as data
from catdog_jax.data.load import InputError, load_data

SIZE = 32
SHARED = Path(os.environ.get("CATDOG_SHARED", Path(__file__).parents[2] / "shared")) / "data"
PARTS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CATDOG_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(tfds.urllib.request, "urlopen", refuse)


@pytest.fixture
def no_tensorflow(monkeypatch):
    def refuse():
        pytest.fail("TensorFlow was asked for")

    monkeypatch.setattr(decode, "tensorflow", refuse)


def load(source, **arguments):
    return load_data(source, **{"image_size": SIZE, **arguments})


def splits_of(loaded):
    return [getattr(loaded, part) for part in PARTS]


def sizes_of(loaded):
    return tuple(len(split) for split in splits_of(loaded))


def names_of(loaded):
    return [name for split in splits_of(loaded) for name in split.names]


def counts_of(loaded):
    return [tuple(data.class_counts(split).values()) for split in splits_of(loaded)]


def check_whole(loaded, folders=None):
    """Check types, the pixels beside each label and name, and that no photo is used twice."""
    for split in splits_of(loaded):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), SIZE, SIZE, 3)
        assert isinstance(split.images, np.memmap)
        assert split.labels.dtype == np.int32
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            assert (image == color(name)).all()
            assert Path(name).parent.name == (folders or split.class_names)[label]
    names = names_of(loaded)
    assert len(set(names)) == len(names)


def prepared_in(cache):
    """What the cache holds, finished or not, but for the locks."""
    return [path for path in (cache / "data").iterdir() if path.suffix != ".lock"]


def error_of(source, **arguments):
    with pytest.raises(InputError) as caught:
        load(source, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Folders and zips.


def test_import_is_light():
    code = "import sys, catdog_jax.data.load; print({'tensorflow', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_class_folders(tmp_path):
    loaded = load(write_classes(tmp_path / "photos", dog=20, cat=20))
    assert loaded.class_names == ("cats", "dogs")
    assert sizes_of(loaded) == (28, 8, 4)
    assert counts_of(loaded) == [(14, 14), (4, 4), (2, 2)]
    assert loaded.skipped == ()
    check_whole(loaded)


def test_three_classes_and_odd_counts(tmp_path):
    loaded = load(write_classes(tmp_path / "photos", fox=4, dog=5, cat=10))
    assert loaded.class_names == ("cats", "dogs", "foxs")
    assert sizes_of(loaded) == (15, 3, 1)
    check_whole(loaded)


def test_zip_equals_folder(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=6, dog=9)
    from_folder, from_zip = load(folder), load(zip_of(folder))
    assert from_zip.fingerprint != from_folder.fingerprint
    for one, other in zip(splits_of(from_folder), splits_of(from_zip), strict=True):
        assert one.names == other.names
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("as_zip", [False, True])
def test_given_parts(tmp_path, as_zip):
    folder = tmp_path / "photos"
    write_classes(folder / "train", cat=8, dog=12)
    write_classes(folder / "validation", cat=85, dog=85)
    loaded = load(zip_of(folder) if as_zip else folder)
    # 170 photos are 6 batches of 32, and 6 // 5 = 1 of them is the test set.
    assert sizes_of(loaded) == (20, 138, 32)
    assert counts_of(loaded) == [(8, 12), (69, 69), (16, 16)]
    assert all(name.startswith("train/") for name in loaded.train.names)
    assert all(name.startswith("validation/") for name in names_of(loaded)[20:])
    check_whole(loaded)


def test_small_validation_folder_leaves_no_test_photos(tmp_path):
    write_classes(tmp_path / "photos/train", cat=2, dog=2)
    write_classes(tmp_path / "photos/validation", cat=2, dog=2)
    loaded = load(tmp_path / "photos")
    assert sizes_of(loaded) == (4, 4, 0)
    assert list(loaded.test.batches()) == []
    check_whole(loaded)


def test_given_test_folder(tmp_path):
    for part, count in (("train", 4), ("validation", 3), ("test", 2)):
        write_classes(tmp_path / "photos" / part, cat=count, dog=count)
    loaded = load(tmp_path / "photos")
    assert sizes_of(loaded) == (8, 6, 4)
    assert all(name.startswith("test/") for name in loaded.test.names)
    assert sizes_of(load(tmp_path / "photos", sizes=(6, 2, 2))) == (6, 2, 2)


def test_wrapping_folder_and_strays_are_ignored(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    (folder / "cats/cat.0.png").rename(folder / "cats/cat.0.PNG")
    (folder / "cats/.hidden.png").write_bytes(b"x")
    (folder / "cats/Thumbs.db").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / "readme.txt").write_text("x")
    path = zip_of(folder, "wrapped/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/wrapped/cats/._cat.0.png", b"x")
    loaded = load(path)
    assert len(names_of(loaded)) == 10
    assert "cats/cat.0.PNG" in names_of(loaded)
    assert loaded.skipped == ()
    check_whole(loaded)
    assert sizes_of(load(folder)) == sizes_of(loaded)


def test_a_path_named_like_a_source_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "sketches", cat=5, dog=5)
    assert len(names_of(load(Path("sketches")))) == 10


# Named sources.


def test_sketches_need_no_tensorflow(no_tensorflow):
    loaded = load("sketches", sizes=(12, 6, 2), seed=3)
    assert loaded.class_names == sketches.CLASS_NAMES
    assert counts_of(loaded) == [(6, 6), (3, 3), (1, 1)]
    drawn, labels = sketches.draw(20, SIZE, 3)
    for split in splits_of(loaded):
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            index = int(name.removeprefix("sketch."))
            assert label == labels[index]
            np.testing.assert_array_equal(image, drawn[index])
    assert len(set(names_of(loaded))) == 20


def test_sketches_default_sizes():
    loaded = load("sketches")
    assert counts_of(loaded) == [(300, 300), (84, 84), (16, 16)]


def test_filtered_zip_is_downloaded(tmp_path, monkeypatch, cache):
    path = zip_of(write_classes(tmp_path / "photos", cat=5, dog=5))
    asked = []

    def fetch(url, wanted, check):
        check(path)
        asked.append((url, wanted))
        return path

    monkeypatch.setattr(sources, "fetch", fetch)
    assert len(names_of(load("cats_and_dogs_filtered"))) == 10
    load("cats_and_dogs_filtered", data_dir=tmp_path / "zips")
    name = "cats_and_dogs_filtered.zip"
    folders = [cache / "downloads", tmp_path / "zips"]
    assert asked == [(sources._FILTERED_URL, folder / name) for folder in folders]


def test_filtered_zip_without_network():
    message = error_of("cats_and_dogs_filtered")
    assert "no network in tests" in message
    assert "give its path" in message


def store_tfds(tmp_path, write):
    """Store cats_vs_dogs as TFDS would, but with 12 photos that `write` makes; give its folder."""
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


def test_tfds(tfds_folder):
    loaded = load("cats_vs_dogs", data_dir=tfds_folder, sizes=(6, 4, 2))
    assert loaded.class_names == ("cats", "dogs")
    assert sum(sizes_of(loaded)) == 11
    assert [skipped.name for skipped in loaded.skipped] == ["dog/dog.5.png"]
    assert loaded.skipped[0].reason.startswith("Invalid PNG")
    check_whole(loaded, folders=("cat", "dog"))  # TFDS names its files so, not its classes


def test_tfds_reads_no_more_than_it_needs(tfds_folder, monkeypatch):
    read = []
    original = tfds._read

    def spy(builder, wanted, failed):
        for index, photo in original(builder, wanted, failed):
            read.append(index)
            yield index, photo

    monkeypatch.setattr(tfds, "_read", spy)
    loaded = load("cats_vs_dogs", data_dir=tfds_folder, sizes=(2, 2, 0))
    assert len(set(read)) == 4
    assert sum(sizes_of(loaded)) + len(loaded.skipped) == 4


def test_tfds_damaged(tfds_folder, monkeypatch):
    (record,) = tfds_folder.rglob("*.tfrecord*")
    os.truncate(record, record.stat().st_size - 5)
    assert "is damaged" in error_of("cats_vs_dogs", data_dir=tfds_folder, sizes=(2, 2, 0))

    def stumble(*arguments):
        raise TypeError("what TFDS stumbled over")

    monkeypatch.setattr(tfds, "_records", stumble)
    message = error_of("cats_vs_dogs", data_dir=tfds_folder, sizes=(2, 2, 0))
    assert "is damaged (what TFDS stumbled over)" in message


def test_two_stores_of_tfds_are_two(tfds_folder):
    asked = {"data_dir": tfds_folder, "sizes": (4, 2, 2)}
    one = load("cats_vs_dogs", **asked)
    (tfds_folder / "cats_vs_dogs/.lock").touch()  # as downloading leaves it
    assert load("cats_vs_dogs", **asked).fingerprint == one.fingerprint
    (record,) = tfds_folder.rglob("*.tfrecord*")
    os.utime(record, (1, 1))
    assert load("cats_vs_dogs", **asked).fingerprint != one.fingerprint


class FakeBuilder:
    """Stands for a data set of TFDS that takes a while to download, in two steps."""

    def __init__(self, name, data_dir):
        self.data_dir = str(data_dir / name / "4.0.1")
        self.info = SimpleNamespace(splits={})
        self.steps = Path(self.data_dir).parent / "steps"

    def is_prepared(self):
        return self.steps.exists() and self.steps.read_text() == "beginning, end"

    def download_and_prepare(self):
        self.steps.write_text("beginning")
        time.sleep(0.5)
        with self.steps.open("a") as steps:
            steps.write(", end")


@pytest.fixture
def _fake_tfds(monkeypatch):
    library = SimpleNamespace(builder=FakeBuilder)
    monkeypatch.setattr(tfds, "tensorflow_datasets", lambda: library)
    monkeypatch.setattr(tfds, "_check_host", lambda: None)


@pytest.mark.usefixtures("_fake_tfds")
def test_tfds_is_downloaded_by_one_at_a_time(tmp_path):
    found = []

    def ask():
        found.append(tfds._builder(tmp_path).is_prepared())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert found == [True] * 3


@pytest.mark.usefixtures("_fake_tfds")
def test_tfds_without_training_photos(tmp_path):
    message = error_of("cats_vs_dogs", data_dir=tmp_path)
    assert f"could be neither opened in {tmp_path} nor downloaded to it ('train')" in message


def test_tfds_with_too_few_photos(tfds_folder):
    message = error_of("cats_vs_dogs", data_dir=tfds_folder)
    assert "train split was to hold 2000 photos, but cats_vs_dogs has only 12" in message


def test_tfds_without_network(tmp_path):
    message = error_of("cats_vs_dogs", data_dir=tmp_path / "nothing")
    assert "no network in tests" in message
    assert str(tmp_path / "nothing") in message
    assert not (tmp_path / "nothing").exists()


def test_tfds_takes_any_answer_for_a_network(monkeypatch):
    def answer(*args, **kwargs):
        raise urllib.error.HTTPError("url", 403, "no", {}, None)  # pyright: ignore

    monkeypatch.setattr(tfds.urllib.request, "urlopen", answer)
    tfds._check_host()


# What users get wrong.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_size": 31}, "image_size must be from 32 to 4096, not 31"),
        ({"image_size": 2**32}, "image_size must be from 32 to 4096, not 4294967296"),
        ({"image_size": 32.5}, "image_size must be given in whole numbers, not 32.5"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"seed": "1"}, "seed must be given in whole numbers, not '1'"),
        ({"sizes": (4,)}, "sizes must be at least"),
        ({"sizes": (4, 4, 4, 4)}, "sizes must be at least"),
        ({"sizes": (2**62, 1, 1)}, "and at most 1000000 of each, not (4611686018427387904, 1, 1)"),
        ({"sizes": (4, 0, 4)}, "sizes must be at least"),
        ({"sizes": (4, 4, -1)}, "sizes must be at least"),
    ],
)
def test_bad_arguments(arguments, said):
    assert said in error_of("sketches", **arguments)


def test_numpys_numbers_are_numbers():
    sizes = np.array([4, 2, 2])
    one = load_data("sketches", np.int64(SIZE), seed=np.int64(1), sizes=sizes)  # pyright: ignore
    assert one.fingerprint == load("sketches", seed=1, sizes=(4, 2, 2)).fingerprint


@pytest.mark.parametrize("source", ["cats_vs_dog", "no/such/folder", "x" * 5000])
def test_unknown_source(source):
    message = error_of(source)
    assert source in message
    assert "cats_vs_dogs, cats_and_dogs_filtered, sketches" in message


def test_broken_zip(tmp_path):
    path = zip_of(write_classes(tmp_path / "photos", cat=5, dog=5))
    os.truncate(path, path.stat().st_size // 2)
    assert "neither a folder nor a zip" in error_of(path)


def test_no_class_folders(tmp_path):
    write_photo(tmp_path / "photos/cat.0.png")
    assert "but holds none" in error_of(tmp_path / "photos")


def test_a_single_class(tmp_path):
    assert "only one, 'cats'" in error_of(write_classes(tmp_path / "photos", cat=9))


def test_empty_class_folder(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=9)
    (folder / "dogs").mkdir()
    (folder / "dogs/notes.txt").write_text("x")
    assert "class folder 'dogs'" in error_of(folder)


def test_different_classes(tmp_path):
    write_classes(tmp_path / "photos/train", cat=4, dog=4)
    write_classes(tmp_path / "photos/validation", cat=4, fox=4)
    message = error_of(tmp_path / "photos")
    assert "cats, dogs and cats, foxs" in message


@pytest.mark.parametrize(("there", "missing"), [("train", "validation"), ("test", "train")])
def test_missing_part(tmp_path, there, missing):
    write_classes(tmp_path / "photos" / there, cat=4, dog=4)
    assert f"holds {there}/ but no {missing}/" in error_of(tmp_path / "photos")


def test_sizes_beyond_what_is_there(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    message = error_of(folder, sizes=(6, 4, 1))
    assert "test split was to hold 1 photos" in message
    assert "only 0 left" in message


def test_too_few_photos_to_split(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=2, dog=2)
    assert "too few to leave any for the validation split" in error_of(folder)
    assert sizes_of(load(folder, sizes=(3, 1, 0))) == (3, 1, 0)


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources, "_folders", refuse)
    assert "cannot be listed" in error_of(folder)


def test_photos_beside_a_meta_json_are_photos(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    (folder / "meta.json").write_text("{}")
    assert len(names_of(load(folder))) == 10


def test_a_sub_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=2, dog=2)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    cats = [folder / f"cats/cat.{number}.png" for number in range(2)]
    assert data.list_photos(folder) == [*cats, folder / "dogs"]
    assert data.list_photos(folder / "dogs") == [folder / "dogs"]
    with pytest.raises(InputError, match="dogs cannot be read: Permission denied"):
        decode.decode_file(folder / "dogs", SIZE)


# Photos that cannot be read.


def spoil(folder):
    """Make five photos of a folder of classes unreadable, each in another way."""
    write_jpeg(folder / "cats/cat.90.jpg")
    os.truncate(folder / "cats/cat.90.jpg", 400)
    (folder / "cats/cat.91.jpg").write_text("not a photo")
    (folder / "dogs/dog.92.png").write_bytes(b"")
    (folder / "dogs/dog.93.gif").write_bytes(b"GIF89a")
    (folder / "dogs/dog.94.jpg").symlink_to(folder / "nowhere")


def test_unreadable_photos_are_skipped_and_named(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=20, dog=20)
    spoil(folder)
    loaded = load(folder)
    reasons = {skipped.name: skipped.reason for skipped in loaded.skipped}
    assert len(loaded.skipped) == 5
    assert "JPEG" in reasons["cats/cat.90.jpg"]
    assert reasons["cats/cat.91.jpg"].startswith("Unknown image file format")
    assert reasons["dogs/dog.92.png"] == "Input is empty."
    assert "GIF" in reasons["dogs/dog.93.gif"]
    assert reasons["dogs/dog.94.jpg"] == "cannot be read: No such file or directory"
    assert not any(mark in reason for reason in reasons.values() for mark in ("{{", "[Op", "\n"))
    assert len(names_of(loaded)) == 40
    check_whole(loaded)
    assert load(folder).skipped == loaded.skipped


def test_damaged_entry_of_a_zip(tmp_path):
    path = zip_of(write_classes(tmp_path / "photos", cat=10, dog=10))
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("cats/cat.3.png")
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 30 + len(entry.filename) + 20] ^= 255
    path.write_bytes(content)
    loaded = load(path)
    (skipped,) = loaded.skipped
    assert skipped.name == "cats/cat.3.png"
    assert "Bad CRC-32" in skipped.reason
    check_whole(loaded)


def test_a_photo_that_can_be_read_again_is_no_longer_skipped(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "dogs/dog.3.png").write_text("no photo")
    read, closed = decode._read, {"cat.3.png", "cat.4.png"}

    def refuse(file):  # tests may run as root, for whom no file is closed
        if file.name in closed:
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(decode, "_read", refuse)
    first = load(folder)
    assert {Path(photo.name).name for photo in first.skipped} == {*closed, "dog.3.png"}
    assert load(folder).fingerprint == first.fingerprint
    fingerprints = {first.fingerprint}
    for name in ("cat.3.png", "cat.4.png"):
        closed.remove(name)
        mended = load(folder)
        assert {Path(photo.name).name for photo in mended.skipped} == {*closed, "dog.3.png"}
        check_whole(mended)
        fingerprints.add(mended.fingerprint)
        assert load(folder).fingerprint == mended.fingerprint
    assert len(fingerprints) == 3
    assert first.folder.is_dir()  # for who still reads from it


def test_an_entry_of_a_zip_that_was_mended_is_no_longer_skipped(tmp_path):
    path = zip_of(write_classes(tmp_path / "photos", cat=10, dog=10))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("cats/cat.3.png")
    content = bytearray(whole)
    content[entry.header_offset + 30 + len(entry.filename) + 20] ^= 255
    path.write_bytes(content)
    broken = load(path)
    path.write_bytes(whole)  # the sizes and checksums in its directory are the same
    mended = load(path)
    assert [photo.name for photo in broken.skipped] == ["cats/cat.3.png"]
    assert mended.skipped == ()
    assert mended.fingerprint != broken.fingerprint


def test_a_class_without_one_readable_photo(tmp_path, cache):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    for path in (folder / "dogs").iterdir():
        path.write_text("not a photo")
    message = error_of(folder)
    assert "none of the 7 photos of class 'dogs' for the train split could be read" in message
    assert "Unknown image file format" in message
    assert prepared_in(cache) == []


def test_photos_dropped_without_reason_are_decoded_again(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    original, calls = decode.read_files, []

    def dies_the_first_time(files, wanted, failed):
        calls.append(len(wanted))
        for index, photo in original(files, wanted, failed):
            if len(calls) == 1 and index == 7:
                raise RuntimeError("a passing trouble")
            yield index, photo

    monkeypatch.setattr(decode, "read_files", dies_the_first_time)
    loaded = load(folder)
    assert calls == [20, 13]
    assert loaded.skipped == ()
    check_whole(loaded)


# Pixels.


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.bmp", "photo.gif"])
def test_pixels_are_those_of_tensorflow(tmp_path, name):
    tf = decode.tensorflow()
    path = write_jpeg(tmp_path / name)
    image = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
    expected = tf.image.resize(image, (48, 48)).numpy()
    pixels = decode.decode_file(path, 48)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (48, 48, 3)
    assert np.abs(pixels.astype(np.float32) - expected).max() <= 0.5


def by_name(splits):
    """The image and label of each photo."""
    return {
        name: (split.images[row], split.labels[row])
        for split in splits
        for row, name in enumerate(split.names)
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
    check_against_keras(folder, load(folder), SIZE)


def test_tfds_photos_equal_tfdss_own(tmp_path):
    def write(path):
        write_jpeg(path.with_suffix(".jpg"), int(path.stem.split(".")[1])).rename(path)

    folder = store_tfds(tmp_path, write)
    check_against_tfds(folder, load("cats_vs_dogs", data_dir=folder, sizes=(6, 4, 2)), 12)


def check_against_tfds(folder, loaded, at_least):
    """Compare those of our photos that TFDS itself yields among its first thousand."""
    tf, library = decode.tensorflow(), tfds.tensorflow_datasets()
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


def test_load_data_and_decode_file_give_the_same_pixels(tmp_path):
    folder = tmp_path / "photos"
    for number in range(12):
        write_jpeg(folder / ("cats", "dogs")[number % 2] / f"{number}.jpg", number, (60, 45))
    loaded = load(folder)
    for split in splits_of(loaded):
        for image, name in zip(split.images, split.names, strict=True):
            np.testing.assert_array_equal(image, decode.decode_file(folder / name, SIZE))


def test_grey_and_transparent_photos_become_rgb(tmp_path):
    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert (decode.decode_file(tmp_path / "grey.png", SIZE) == 77).all()
    assert (decode.decode_file(str(tmp_path / "clear.png"), SIZE) == (1, 2, 3)).all()


def test_decode_file_errors(tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(InputError, match=r"text\.jpg cannot be decoded as a photo: Unknown image"):
        decode.decode_file(tmp_path / "text.jpg", SIZE)
    with pytest.raises(InputError, match=r"none\.jpg cannot be read: No such file"):
        decode.decode_file(tmp_path / "none.jpg", SIZE)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        decode.decode_file(tmp_path, SIZE)


def test_tensorflow_sees_no_gpu(monkeypatch):
    # Most machines that run tests have none to hide, so what is asked for is what is checked.
    tf = decode.tensorflow()
    assert tf.config.get_visible_devices("GPU") == []
    asked = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: asked.append(args))
    decode.tensorflow.__wrapped__()
    assert asked == [([], "GPU")]


def test_tensorflow_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match="needs TensorFlow"):
        decode.tensorflow.__wrapped__()


def test_tensorflow_that_does_not_suit_the_machine(monkeypatch):
    original = builtins.__import__

    def stumble(name, *arguments):
        if name == "tensorflow":
            raise AttributeError("_ARRAY_API not found")
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", stumble)
    with pytest.raises(InputError, match=r"cannot be imported \(_ARRAY_API not found\): install"):
        decode.tensorflow.__wrapped__()


@pytest.fixture
def own_process(monkeypatch):
    """As where nobody has imported TensorFlow yet; the other process does not see it."""
    monkeypatch.setattr(decode, "tensorflow_is_imported", lambda: False)


def test_another_process_decodes(tmp_path, own_process, no_tensorflow):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    (folder / "cats/cat.99.jpg").write_text("no photo")
    loaded = load(folder, sizes=(15, 3, 3))
    assert (sizes_of(loaded), len(loaded.skipped)) == ((14, 3, 3), 1)
    assert loaded.source == str(folder)
    check_whole(loaded)


def test_another_process_leaves_this_one_without_tensorflow(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    code = (
        "import sys; from catdog_jax.data.load import load_data\n"
        f"print(len(load_data({str(folder)!r}, 32).train), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7 False"


def test_another_process_reads_tfds(tfds_folder, own_process, no_tensorflow):
    here = [data.load_data("cats_vs_dogs", SIZE, tfds_folder, sizes=(4, 2, 2)) for _ in range(2)]
    assert here[0].fingerprint == here[1].fingerprint
    assert (sizes_of(here[0]), here[0].source) == ((4, 2, 2), "cats_vs_dogs")


def test_another_process_takes_a_path_for_a_path(tmp_path, own_process, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "sketches", cat=5, dog=5)
    assert len(names_of(load(Path("sketches")))) == 10


def test_another_process_says_what_is_wrong(tmp_path, own_process):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    assert error_of(folder, sizes=(90, 1, 1)).endswith("only 10 left for it: give smaller sizes")


def test_another_process_dies(tmp_path, own_process, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    ended = f"the process that was to read {folder} ended with"
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert error_of(folder) == f"{ended} 1: try again, or with fewer photos"
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    assert f"{ended} -9 (killed, perhaps for want of memory): try" in error_of(folder)


# The split.


def test_split_depends_on_the_seed_alone(tmp_path, cache):
    folder = write_classes(tmp_path / "photos", cat=15, dog=15)
    first = load(folder)
    shutil.rmtree(cache)
    again, other = load(folder), load(folder, seed=1)
    assert names_of(again) == names_of(first)
    assert set(other.test.names) != set(first.test.names)
    assert set(names_of(other)) == set(names_of(first))


def test_every_beginning_is_balanced():
    labels = np.repeat(np.arange(3, dtype=np.int32), (10, 20, 70))
    order = cut._balanced_order(labels, 0)
    assert sorted(order) == list(range(100))
    assert order.tolist() != cut._balanced_order(labels, 1).tolist()
    for length in range(1, 101):
        counts = np.bincount(labels[order[:length]], minlength=3)
        np.testing.assert_allclose(counts, length * np.array([0.1, 0.2, 0.7]), atol=1.01)


def test_the_order_is_pinned():
    # Published results depend on which photos are test photos: by hand, from NumPy's generator.
    rng = np.random.default_rng(0)
    zeros, ones = rng.permutation([0, 2, 4]), rng.permutation([1, 3])
    # Ranks 1/6, 3/6, 5/6 and 1/4, 3/4.
    expected = [zeros[0], ones[0], zeros[1], ones[1], zeros[2]]
    labels = np.array([0, 1, 0, 1, 0], np.int32)
    assert cut._balanced_order(labels, 0).tolist() == expected


@pytest.mark.parametrize(
    ("validation", "sizes"),
    [(1000, (808, 192)), (128, (128, 0)), (129, (97, 32)), (160, (128, 32)), (5, (5, 0))],
)
def test_test_set_of_the_blog(validation, sizes):
    pools = {"train": np.arange(10), "validation": np.arange(10, 10 + validation)}
    parts, used = cut._cut_given_pools(pools, None)
    assert used == (10, *sizes)
    joined = np.concatenate([parts["test"], parts["validation"]])
    np.testing.assert_array_equal(joined, pools["validation"])


def test_sizes(tmp_path):
    write_classes(tmp_path / "photos/train", cat=6, dog=6)
    write_classes(tmp_path / "photos/validation", cat=5, dog=5)
    loaded = load(tmp_path / "photos", sizes=(8, 4, 6))
    assert counts_of(loaded) == [(4, 4), (2, 2), (3, 3)]
    check_whole(loaded)
    message = error_of(tmp_path / "photos", sizes=(8, 5, 6))
    assert "validation split was to hold 5 photos" in message


# The cache.


def test_second_call_does_not_decode(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    path = zip_of(folder)
    first = [load(folder), load(path)]
    monkeypatch.setattr(decode, "tensorflow", lambda: pytest.fail("decoded again"))
    second = [load(folder), load(path)]
    for one, other in zip(first, second, strict=True):
        assert one.fingerprint == other.fingerprint
        assert names_of(one) == names_of(other)
        np.testing.assert_array_equal(one.train.images, other.train.images)


def test_key_changes_with_what_matters(tmp_path):
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    keys = [
        load(folder).fingerprint,
        load(folder, seed=1).fingerprint,
        load(folder, image_size=33).fingerprint,
        load(folder, sizes=(4, 4, 4)).fingerprint,
    ]
    os.utime(folder / "cats/cat.1.png", (1, 1))
    keys.append(load(folder).fingerprint)
    write_photo(folder / "cats/cat.77.png")
    keys.append(load(folder).fingerprint)
    assert len(set(keys)) == 6


def test_the_same_photos_under_another_name(tmp_path):
    path = zip_of(write_classes(tmp_path / "photos", cat=5, dog=5))
    copy = shutil.copy(path, tmp_path / "copy.zip")
    one, other = load(path), load(copy)
    assert one.fingerprint == other.fingerprint
    assert (one.source, other.source) == (str(path), str(copy))


def test_cache_dir_argument(tmp_path, cache):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    loaded = load(folder, cache_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere/data" / loaded.fingerprint / "meta.json").is_file()
    assert not cache.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_failure_leaves_nothing_behind(tmp_path, monkeypatch, cache, error):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)

    def fail(*args):
        assert len(list((cache / "data").rglob("*_images.npy"))) == 1
        raise error

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        load(folder)
    if isinstance(error, OSError):
        assert "cannot be written (No space left on device)" in str(caught.value)
    assert prepared_in(cache) == []


def test_full_disk(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert "has 0 MB left" in error_of(folder)


@pytest.mark.parametrize("name", ["file", "x" * 5000])
def test_cache_that_cannot_be_written(tmp_path, name):
    folder = write_classes(tmp_path / "photos", cat=5, dog=5)
    (tmp_path / "file").touch()
    message = error_of(folder, cache_dir=tmp_path / name)
    assert f"the cache folder {tmp_path / name} cannot be written" in message


# A prepared folder as the source.


@pytest.fixture
def prepared(tmp_path, cache):
    """Prepare photos, then carry the arrays elsewhere and forget the rest."""
    folder = write_classes(tmp_path / "photos", cat=10, dog=10)
    spoil(folder)
    loaded = load(folder, seed=5)
    carried = shutil.copytree(cache / "data" / loaded.fingerprint, tmp_path / "carried")
    shutil.rmtree(folder)
    shutil.rmtree(cache)
    return carried


def test_prepared_folder_is_a_source(prepared, no_tensorflow):
    loaded = load(prepared)
    assert loaded.source.endswith("photos")
    assert loaded.class_names == ("cats", "dogs")
    assert len(loaded.skipped) == 5
    assert len(names_of(loaded)) == 20
    check_whole(loaded)


def test_prepared_otherwise_than_asked(prepared):
    assert "prepared with image_size 32, not 64" in error_of(prepared, image_size=64)
    assert "with sizes by default, not [4, 4, 4]" in error_of(prepared, sizes=(4, 4, 4))


def test_prepared_by_another_version(prepared):
    meta = json.loads((prepared / "meta.json").read_text())
    (prepared / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    assert "in format 0" in error_of(prepared)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 3}', "\udcff"])
def test_damaged_meta(prepared, content):
    (prepared / "meta.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "meta.json is missing or damaged" in error_of(prepared)


@pytest.mark.parametrize("name", [f"{p}_{a}.npy" for p in PARTS for a in ("images", "labels")])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "zeros", "another"])
def test_damaged_array(prepared, name, damage):
    path = prepared / name
    array = np.load(path)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "zeros":
        header = path.stat().st_size - array.nbytes
        path.write_bytes(path.read_bytes()[:header] + bytes(array.nbytes))
    else:
        np.save(path, 1 - array)
    message = error_of(prepared)
    assert f"{name} is missing or damaged" in message
    assert "delete the folder" in message


def test_names_that_were_exchanged(prepared):
    path = prepared / "meta.json"
    meta = json.loads(path.read_text())
    meta["names"]["train"].reverse()
    path.write_text(json.dumps(meta))
    assert "meta.json is missing or damaged" in error_of(prepared)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"x", b"a  b  c\n"])
def test_damaged_sums(prepared, content):
    path = prepared / "SHA256SUMS"
    path.unlink() if content is None else path.write_bytes(content)
    assert " is missing or damaged" in error_of(prepared)


def test_the_sums_are_those_of_sha256sum(prepared):
    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum here")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=prepared, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, 7)


def test_checking_the_sums_takes_no_memory(tmp_path):
    loaded = load("sketches", image_size=256, sizes=(40, 2, 0))
    tracemalloc.start()
    load(loaded.folder, image_size=256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < loaded.train.images.nbytes / 4


class Pickled:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_bare", [False, True], ids=["object array", "bare pickle"])
@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
def test_nothing_is_unpickled(prepared, tmp_path, name, is_bare):
    spring = Pickled(tmp_path / "unpickled")
    if is_bare:
        (prepared / name).write_bytes(pickle.dumps(spring))
    else:
        np.save(prepared / name, np.array([spring]), allow_pickle=True)
    assert f"{name} is missing or damaged" in error_of(prepared)
    assert not (tmp_path / "unpickled").exists()


def test_labels_beyond_the_classes(prepared):
    labels = np.load(prepared / "test_labels.npy")
    np.save(prepared / "test_labels.npy", labels + 1)
    assert "test_labels.npy is missing or damaged" in error_of(prepared)


# Batches.


def split_of(count):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.ones((2, 2, 3), np.uint8)
    labels = np.arange(count, dtype=np.int32) % 2 + 1
    names = tuple(map(str, range(count)))
    return data.Split(images, labels, ("ant", "cat", "dog"), names)


def test_batches_are_in_order_padded_and_loop_again():
    split = split_of(7)
    batches = split.batches(3)
    assert len(batches) == 3
    for loop in (list(batches), list(batches)):
        assert [batch["mask"].tolist() for batch in loop] == [
            [True, True, True],
            [True, True, True],
            [True, False, False],
        ]
        images = np.concatenate([batch["image"] for batch in loop])
        labels = np.concatenate([batch["label"] for batch in loop])
        np.testing.assert_array_equal(images[:7], split.images)
        np.testing.assert_array_equal(labels[:7], split.labels)
        assert not images[7:].any()
        assert not labels[7:].any()
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert loop[0]["mask"].dtype == np.bool_


def test_full_batches_are_not_padded():
    (only,) = split_of(4).batches(4)
    assert only["mask"].all()
    assert len(split_of(64).batches()) == 2


def test_shuffled_batches():
    split = split_of(10)
    epochs = split.shuffled(4, seed=3)
    for epoch in (0, 1, 7):
        order = np.random.default_rng((3, epoch)).permutation(10)
        batches = list(epochs(epoch))
        images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
        labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
        np.testing.assert_array_equal(images, split.images[order])
        np.testing.assert_array_equal(labels, split.labels[order])
        assert [int(batch["mask"].sum()) for batch in batches] == [4, 4, 2]
        assert all(batch["image"].shape == (4, 2, 2, 3) for batch in batches)
    first = next(iter(epochs(0)))["image"]
    assert not np.array_equal(first, next(iter(epochs(1)))["image"])
    assert np.array_equal(first, next(iter(split.shuffled(4, seed=3)(0)))["image"])


def test_batch_size_must_be_positive():
    with pytest.raises(InputError, match="batch_size must be 1 or more, not 0"):
        split_of(3).batches(0)


def test_class_counts_and_majority_baseline():
    split = split_of(7)
    assert data.class_counts(split) == {"ant": 0, "cat": 4, "dog": 3}
    assert data.majority_baseline(split) == pytest.approx(4 / 7)
    with pytest.raises(InputError, match="empty split"):
        data.majority_baseline(split_of(0))


# Real photos.


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent: set CATDOG_SHARED to the folder that holds data/{name}")
    return path


def test_the_blogs_zip():
    loaded = load(shared("cats_and_dogs_filtered.zip"))
    assert loaded.class_names == ("cats", "dogs")
    assert counts_of(loaded) == [(1000, 1000), (404, 404), (96, 96)]
    assert loaded.skipped == ()
    names = names_of(loaded)
    assert len(set(names)) == 3000
    assert Counter(Path(name).parent.as_posix() for name in names) == {
        "train/cats": 1000,
        "train/dogs": 1000,
        "validation/cats": 500,
        "validation/dogs": 500,
    }
    # Decoded photos, not zeros: on average they are of middle brightness.
    assert loaded.train.images.mean() == pytest.approx(115, abs=25)


def test_the_blogs_photos_equal_keras(tmp_path):
    archive = shared("cats_and_dogs_filtered.zip")
    with zipfile.ZipFile(archive) as photos:
        photos.extractall(tmp_path)
    check_against_keras(tmp_path / "cats_and_dogs_filtered", load(archive, image_size=160), 160)


def test_the_photos_of_tfds():
    folder = shared("tensorflow_datasets")
    loaded = load("cats_vs_dogs", data_dir=folder)
    assert loaded.class_names == ("cats", "dogs")
    assert counts_of(loaded) == [(1000, 1000), (404, 404), (96, 96)]
    assert len(set(names_of(loaded))) == 3000
    for split in splits_of(loaded):
        for name, label in zip(split.names, split.labels, strict=True):
            assert Path(name).parent.name.lower() + "s" == split.class_names[label]
    check_against_tfds(folder, loaded, 400)
