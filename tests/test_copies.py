"""Photos that look alike."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog_jax.data import sketches
from catdog_jax.data.copies import groups_alike, thumbnails, without_copies
from catdog_jax.data.load import load_data
from catdog_jax.data.splits import Split
from catdog_jax.errors import InputError
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.runner import run

LINEAR = f"{Path(__file__).with_name('networks.py')}:Linear"


def pictures(count: int, size: int = 64) -> np.ndarray:
    return sketches.draw(count, size, seed=5)[0]


def again(image: np.ndarray, size: int, quality: int) -> np.ndarray:
    """The same picture by way of a JPEG of another size."""
    encoded = io.BytesIO()
    Image.fromarray(image).resize((size, size)).save(encoded, "jpeg", quality=quality)
    return np.asarray(Image.open(encoded).resize(image.shape[:2]))


def test_a_thumbnail_is_the_grey_means_of_a_grid_scaled_to_length_one() -> None:
    images = np.zeros((1, 32, 48, 3), np.uint8)
    images[0, 2:4, 3:6] = [30, 60, 90]  # one of 16×16 cells
    (found,) = thumbnails(images)
    expected = np.full(256, -60 / 256)
    expected[16 + 1] += 60
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("size", [33, 50, 200])
def test_sizes_that_the_grid_does_not_divide(size: int) -> None:
    (image,) = pictures(1, 200)
    resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
    (one,), (other,) = thumbnails(image[None]), thumbnails(resized[None])
    assert one @ other > 0.97


def test_copies_are_found_in_another_size_and_encoding_and_nothing_else() -> None:
    images = pictures(40)
    others = np.stack([images[39], again(images[3], 90, 30), again(images[8], 40, 80)])

    def split(images: np.ndarray) -> Split:
        names = tuple(map(str, range(len(images))))
        return Split(images, np.zeros(len(images), np.int32), sketches.CLASS_NAMES, names)

    kept, copies = without_copies(split(others), [split(images[:20]), split(images[20:39])])
    assert kept.names == ("0",)
    assert [copy[:2] for copy in copies] == [("1", "3"), ("2", "8")]
    assert all(0.97 < copy.correlation <= 1.0001 for copy in copies)


def test_groups_hold_all_copies_of_a_photo() -> None:
    images = pictures(300)
    images[280], images[290] = again(images[3], 90, 30), again(images[3], 40, 80)
    images[299] = images[7]
    assert groups_alike(thumbnails(images)) == [[3, 280, 290], [7, 299]]
    assert groups_alike(thumbnails(images[:0])) == []


def test_even_pictures_are_no_copies() -> None:
    assert not groups_alike(thumbnails(np.full((3, 32, 32, 3), 7, np.uint8)))


def test_copies_in_two_splits_are_listed(tmp_path: Path) -> None:
    for index, image in enumerate(pictures(24)):
        folder = tmp_path / ("train" if index < 12 else "validation") / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
        if index == 4:
            copy = tmp_path / "validation/a/copy.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(again(image, 90, 30)).save(copy)
    splits = load_data(tmp_path, 32, sizes=(12, 13, 0))
    (shared,) = splits.shared
    assert (shared.name, shared.other_name) == ("validation/a/copy.jpg", "train/a/4.png")


def save(folder: Path, images: np.ndarray) -> None:
    for index, image in enumerate(images):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_photos_that_a_run_has_seen_are_left_out(tmp_path: Path) -> None:
    images = pictures(40)
    save(tmp_path / "old", images[:24])
    save(tmp_path / "new", np.stack([*images[24:], *(again(x, 90, 30) for x in images[:24])]))
    experiment = Experiment(
        LINEAR, data=str(tmp_path / "old"), image_size=32, sizes=(12, 6, 6), epochs=1
    )
    trained = run(experiment, tmp_path / "run", log=lambda _: None)
    lines: list[str] = []
    everything = trained.predict(tmp_path / "new", split="all")
    unseen = trained.predict(
        tmp_path / "new", split="all", unseen=True, seen_to=tmp_path / "seen.csv", log=lines.append
    )
    assert lines == ["left out 18 of 40 photos: they look like photos this run has seen"]
    # Those of its test split count as unseen.
    split = load_data(tmp_path / "old", 32, sizes=(12, 6, 6))
    numbers = [int(Path(name).stem) for name in split.test.names]
    expected = {f"{'ab'[n % 2]}/{n}.png" for n in [*range(16), *(16 + n for n in numbers)]}
    assert set(unseen.names) == expected
    first, *seen = csv.reader((tmp_path / "seen.csv").read_text("utf-8").splitlines())
    assert first == ["photo", "looks like", "correlation"]
    assert {photo for photo, _, _ in seen} == {*everything.names} - expected
    assert all(int(Path(photo).stem) == int(Path(old).stem) + 16 for photo, old, _ in seen)
    assert all(0.97 < float(correlation) < 1.001 for _, _, correlation in seen)
    kept = [everything.names.index(name) for name in unseen.names]
    np.testing.assert_allclose(unseen.logits, everything.logits[kept], rtol=1e-5)
    with pytest.raises(InputError, match="give both"):
        trained.predict(tmp_path / "new", seen_to=tmp_path / "seen.csv")
    with pytest.raises(InputError, match="no photos are left"):
        trained.predict(split="train", unseen=True)
    save(tmp_path / "old", pictures(26)[::-1])
    with pytest.raises(InputError, match="has changed since this run was trained"):
        trained.predict(tmp_path / "new", unseen=True)
