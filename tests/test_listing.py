"""What is taken for a photo, in folders, zips and by predict; how folders are called."""

import shutil

import pytest
from photo_files import write_classes, write_photo, zip_of

from catdog_jax.data.listing import list_photos, picture_kinds
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError

SIZE = 32


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    return write_classes(tmp_path / "photos", cat=12, dog=12)


def counts(loaded):
    return sum(map(len, (loaded.train, loaded.validation, loaded.test)))


def error_of(source):
    with pytest.raises(InputError) as caught:
        load_data(source, SIZE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("as_zip", [False, True])
def test_what_is_passed_over_is_counted_by_kind(photos, as_zip):
    for name in ("cats/a.HEIC", "cats/b.heic", "dogs/notes.txt", "dogs/Thumbs.db", "dogs/README"):
        (photos / name).touch()
    for folder in ("cats/.ipynb_checkpoints", "dogs/@eaDir", "__MACOSX", ".Trash-1000", ".git"):
        (photos / folder).mkdir()
        shutil.copy(photos / "cats/cat.1.png", photos / folder / "cat.1.png")
    (photos / "cats/._cat.1.png").touch()
    loaded = load_data(zip_of(photos) if as_zip else photos, SIZE)
    assert counts(loaded) == 24
    assert loaded.passed_over == {
        ".heic files": 2,
        ".txt files": 1,
        ".db files": 1,
        "nameless files": 1,
        "folders of other programs": 4,
        "hidden files": 2,
    }
    assert picture_kinds(loaded.passed_over) == {".heic files": 2}


def test_linked_folders_are_followed_once(photos, tmp_path):
    batch = tmp_path / "batch"
    for number in range(20, 25):
        write_photo(batch / f"cat.{number}.png")
    (photos / "cats/batch2").symlink_to(batch)
    (photos / "cats/again").symlink_to(batch)
    (photos / "dogs/back").symlink_to(photos)
    (photos / "dogs/nowhere").symlink_to("nothing")
    loaded = load_data(photos, SIZE)
    assert counts(loaded) == 29
    assert loaded.passed_over == {"links that lead nowhere or back": 3}
    assert len(list_photos(photos / "cats")) == 17


def test_our_own_output_is_no_data(photos):
    for name in ("runs/model3-seed0", "dogs/run"):
        run = photos / name
        run.mkdir(parents=True)
        (run / "config.json").touch()
        (run / "history.csv").touch()
        shutil.copy(photos / "cats/cat.1.png", run / "history.png")
    loaded = load_data(photos, SIZE)
    assert loaded.class_names == ("cats", "dogs")
    assert loaded.passed_over == {"folders of our own runs": 2}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", None),
        ("Training", "VALID", "Test"),
        ("training_set", "validation_set", "test_set"),
        ("train_set", "Validation", "testing"),
    ],
)
@pytest.mark.parametrize("doubled", [False, True])
def test_what_people_call_splits(tmp_path, train, validation, test, doubled):
    root = tmp_path / "archive"
    for number, name in enumerate(filter(None, (train, validation, test))):
        inner = root / name / name if doubled else root / name
        for kind in ("cat", "dog"):
            write_photo(inner / f"{kind}s/{kind}.{number}.png")
    loaded = load_data(root, SIZE)
    assert loaded.class_names == ("cats", "dogs")
    assert (len(loaded.train), len(loaded.validation)) == (2, 2)
    assert len(loaded.test) == (2 if test else 0)
    assert loaded.train.names[0].startswith(f"{train}/")


def test_a_test_folder_alone_is_for_validation(tmp_path):
    write_classes(tmp_path / "photos/training_set/training_set", cat=3, dog=3)
    write_classes(tmp_path / "photos/test_set/test_set", cat=2, dog=2)
    loaded = load_data(tmp_path / "photos", SIZE)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (6, 4, 0)


def test_two_names_for_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        write_classes(tmp_path / "photos" / name, cat=2, dog=2)
    assert "validation/ and val/ are both the validation split" in error_of(tmp_path / "photos")


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path):
    for name in ("first", "second"):
        write_classes(tmp_path / "photos" / name, cat=2, dog=2)
    assert "first/, second/ all hold the folders cats, dogs" in error_of(tmp_path / "photos")


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], "must hold a sub-folder for each of two or more classes"),
        (["cats"], "but holds only one, 'cats'"),
        (["train/cats", "train/dogs"], "holds train/ but no validation/"),
        (["val/cats", "val/dogs"], "holds val/ but no train/"),
        (["train/cats", "train/dogs", "val/cats", "val/fox"], "must hold the same classes"),
        (["cats", "dogs", "fox!"], "class folder 'fox!' in"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise(tmp_path, folders, said):
    root = tmp_path / "photos"
    root.mkdir()
    for folder in folders:
        (root / folder).mkdir(parents=True)
        if "!" not in folder:
            write_photo(root / folder / "cat.1.png")
    assert said in error_of(root)


def test_predict_lists_as_training_does(photos):
    (photos / "cats/.ipynb_checkpoints").mkdir()
    write_photo(photos / "cats/.ipynb_checkpoints/cat.1.png")
    (photos / "cats/odd.WebP").touch()
    assert len(list_photos(photos)) == 25
    assert list_photos(photos / "cats/cat.1.png") == [photos / "cats/cat.1.png"]
    (photos / "empty").mkdir()
    (photos / "empty/a.heic").touch()
    with pytest.raises(InputError, match=r"holds no pictures .*, but 1 .heic files"):
        list_photos(photos / "empty")
