"""Which files are photos, in folders, in zips and for predict; how folders may be named."""

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
        "files without an ending": 1,
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


def test_links_within_the_data_are_passed_over(photos):
    """In any order of names: a folder counts where it is, with its own label."""
    (photos / "cats/all").symlink_to(photos / "dogs")
    (photos / "birds").symlink_to(photos / "dogs")
    (photos / "cats/cats").symlink_to(photos / "cats")
    loaded = load_data(photos, SIZE)
    assert loaded.class_names == ("cats", "dogs")
    assert counts(loaded) == 24
    assert loaded.passed_over == {"links that lead nowhere or back": 3}
    assert picture_kinds(loaded.passed_over) == loaded.passed_over


def test_two_links_to_each_other_are_followed_once(photos, tmp_path):
    write_photo(tmp_path / "there/cat.20.png")
    (tmp_path / "there/back").symlink_to(photos / "cats")
    (photos / "cats/there").symlink_to(tmp_path / "there")
    assert counts(load_data(photos, SIZE)) == 25
    assert len(list_photos(photos)) == 25


@pytest.mark.parametrize("as_zip", [False, True])
def test_our_own_output_is_not_data(photos, as_zip):
    outputs = {
        "runs/model3-seed0": ("config.json", "history.csv", "history.png"),
        "runs/interrupted": ("config.json", "checkpoint/weights"),
        "runs/begun": (".lock",),
        "reproduced": ("summary.json", "summary.md", "curves.png"),
        "figures": ("labels.png", "photos.png"),
        "cache": ("meta.json", "images.npy"),
        "dogs/run": ("config.json", "history.csv", "history.png"),
    }
    for folder, names in outputs.items():
        for name in names:
            (photos / folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / "cats/cat.1.png", photos / folder / name)
    loaded = load_data(zip_of(photos) if as_zip else photos, SIZE)
    assert loaded.class_names == ("cats", "dogs")
    assert counts(loaded) == 24
    assert loaded.passed_over == {"folders of our own runs": 7}


def test_pictures_outside_the_classes_are_counted(photos, tmp_path):
    write_photo(photos / "cat.30.png")
    (photos / "notes.txt").touch()
    kinds = {".txt files": 1, "pictures outside the class folders": 1}
    loaded = load_data(photos, SIZE)
    assert (counts(loaded), loaded.passed_over) == (24, kinds)
    with pytest.raises(InputError, match="1 pictures outside the class folders in"):
        load_data(photos, SIZE, strict=True)
    for name in ("train", "val", "unlabelled"):
        write_classes(tmp_path / "split" / name, cat=2, dog=2)
    loaded = load_data(tmp_path / "split", SIZE)
    assert loaded.passed_over == {"pictures outside the class folders": 4}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", None),
        ("Training", "VALID", "Test"),
        ("training_set", "validation_set", "test_set"),
        ("train_set", "Validation", "testing"),
        ("Training Set", "valid-set", "TEST"),
    ],
)
@pytest.mark.parametrize("doubled", [False, True])
def test_usual_names_of_splits_are_known(tmp_path, train, validation, test, doubled):
    root = tmp_path / "archive"
    for number, name in enumerate(filter(None, (train, validation, test))):
        inner = root / name / name if doubled else root / name
        for kind in ("cat", "dog"):
            write_photo(inner / f"{kind}s/{kind}.{number}.png")
    loaded = load_data(root, SIZE)
    assert loaded.class_names == ("cats", "dogs")
    assert (len(loaded.train), len(loaded.validation)) == (2, 2)
    assert len(loaded.test) == (2 if test else 0)
    doubling = f"{train}/{train}/" if doubled else f"{train}/"
    assert sorted(loaded.train.names)[0] == f"{doubling}cats/cat.0.png"  # as it is on disk


def test_without_a_validation_folder_a_part_of_train_is_held_back(tmp_path):
    write_classes(tmp_path / "photos/training_set/training_set", cat=20, dog=20)
    write_classes(tmp_path / "photos/test_set/test_set", cat=2, dog=2)
    loaded = load_data(tmp_path / "photos", SIZE)
    assert len(loaded.train) + len(loaded.validation) == 40
    assert 2 <= len(loaded.validation) <= 16
    assert all(name.startswith("test_set/") for name in loaded.test.names)
    assert len(loaded.test) == 4
    loaded = load_data(tmp_path / "photos", SIZE, sizes=(10, 6, 2))
    assert [len(split.labels) for split in (loaded.train, loaded.validation, loaded.test)] == [
        10,
        6,
        2,
    ]
    assert not {*loaded.train.names} & {*loaded.validation.names}


def test_two_names_of_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        write_classes(tmp_path / "photos" / name, cat=2, dog=2)
    assert "val/ and validation/, both the validation split: merge" in error_of(tmp_path / "photos")


def test_splits_with_other_names_are_not_taken_for_classes(tmp_path):
    for name in ("first", "second"):
        write_classes(tmp_path / "photos" / name, cat=2, dog=2)
    assert "first/, second/ which all hold the folders cats, dogs" in error_of(tmp_path / "photos")


def test_equal_folders_in_all_classes_are_not_taken_for_splits(photos):
    """Classes with pictures of their own may hold folders of the same names."""
    for kind in ("cat", "dog"):
        for batch in ("batch2", "batch3"):
            write_photo(photos / f"{kind}s/{batch}/{kind}.50.png")
    loaded = load_data(photos, SIZE)
    assert (loaded.class_names, counts(loaded)) == (("cats", "dogs"), 28)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], "must hold a sub-folder for each of two or more classes"),
        (["cats"], "but holds only one, 'cats'"),
        (["train/cats", "train/dogs"], "holds train/ but no validation/"),
        (["val/cats", "val/dogs"], "holds val/ but no train/"),
        (["train/cats", "train/dogs", "val/cats", "val/fox"], "must hold the same classes"),
        (["cats", "dogs", "fox!"], "in the class folder 'fox!': add some"),
    ],
)
def test_unsupported_layouts_are_refused(tmp_path, folders, said):
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
    with pytest.raises(InputError, match=r"holds no pictures .*; passed over: 1 .heic files"):
        list_photos(photos / "empty")
