"""Splits, their batches, and arrays as data."""

from inspect import unwrap

import numpy as np
import pytest

from catdog_jax.data.arrays import splits_from_arrays
from catdog_jax.data.splits import (
    ImageView,
    Split,
    Splits,
    checked_sizes,
    class_counts,
    majority_baseline,
)
from catdog_jax.errors import InputError


def split_of(count):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    labels = (np.arange(count) % 2).astype(np.int32)
    return Split(images, labels, ("cats", "dogs"), tuple(map(str, range(count))))


def images_of(batches):
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches]


# Batches.


def test_batches_are_in_order_padded_with_the_first_photos_and_can_be_repeated():
    batches = split_of(7).batches(3)
    assert len(batches) == 3
    for _ in range(2):
        assert images_of(batches) == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    *_, last = batches
    assert last["mask"].tolist() == [True, False, False]
    assert last["label"].tolist() == [0, 0, 1]
    assert images_of(split_of(2).batches(5)) == [[0, 1, 0, 1, 0]]
    assert list(split_of(0).batches(5)) == []


def test_shuffled_batches_are_in_another_order_in_each_epoch_and_seed():
    shuffled = split_of(20).shuffled(8, seed=0)
    orders = [np.concatenate(images_of(shuffled(epoch)))[:20].tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(20))
    assert orders[0] == np.random.default_rng((0, 0)).permutation(20).tolist()
    other = split_of(20).shuffled(8, seed=1)(0)
    assert np.concatenate(images_of(other))[:20].tolist() != orders[0]


def test_batch_size_must_be_positive():
    with pytest.raises(InputError, match="batch_size must be 1 or more, not 0"):
        split_of(3).batches(0)


def test_class_counts_and_majority_baseline():
    assert class_counts(split_of(5)) == {"cats": 3, "dogs": 2}
    assert majority_baseline(split_of(5)) == 0.6
    with pytest.raises(InputError, match="no majority class"):
        majority_baseline(split_of(0))


def test_a_view_reads_the_rows_that_are_asked_for():
    array = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    index = np.array([7, 0, 3])
    view = ImageView(array, index)
    assert (len(view), view.shape, view.dtype, view.ndim) == (3, (3, 4, 5, 3), np.uint8, 4)
    for rows in (1, slice(1, None), np.array([2, 0, 0]), ...):
        np.testing.assert_array_equal(view[rows], array[index][rows])
    np.testing.assert_array_equal(np.asarray(view), array[index])
    np.testing.assert_array_equal(np.stack(list(view)), array[index])
    view[0][:] = 0  # a copy
    assert array[7].any()


def test_a_data_set_prints_in_two_lines():
    splits = splits_from_arrays(split_arrays(6), split_arrays(4))
    assert str(splits) == "Splits of arrays: 6 train, 4 validation, 0 test\n    classes: 0, 1"
    assert str(split_of(3)) == "Split of 3 images, 1×1×3 uint8:\n    2 cats, 1 dogs"


def test_many_classes_are_shortened():
    names = tuple(f"class {number}" for number in range(1000))
    split = Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32), names, ("a",))
    splits = Splits(split, split, split, names, "somewhere", "abc")
    for shown in (repr(split), repr(splits)):
        assert [len(line) <= 120 for line in shown.splitlines()] == [True, True]


# Arrays as data.


def split_arrays(count, classes=2):
    return np.zeros((count, 6, 7, 3), np.uint8), np.arange(count) % classes


def test_arrays_of_any_size_and_number_of_classes_are_data():
    splits = splits_from_arrays(
        split_arrays(9, 5), split_arrays(5, 5), split_arrays(5), class_names="abcde"
    )
    assert splits.train.images.shape == (9, 6, 7, 3)
    assert splits.class_names == splits.test.class_names == tuple("abcde")
    assert class_counts(splits.validation) == dict.fromkeys("abcde", 1)
    soft = splits_from_arrays((split_arrays(2)[0], np.eye(2)), split_arrays(2))
    assert soft.train.labels.dtype == np.float32
    assert class_counts(soft.train) == {"0": 1, "1": 1}


def test_the_fingerprint_of_arrays_is_of_their_content():
    (images, labels), other = split_arrays(4), split_arrays(4)
    first = splits_from_arrays((images, labels), other).fingerprint
    assert splits_from_arrays((images.copy(), labels), other).fingerprint == first
    images[0, 0, 0, 0] = 1
    assert splits_from_arrays((images, labels), other).fingerprint != first


IMAGES, LABELS = split_arrays(4, 3)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (IMAGES, "train must be two arrays"),
        ((IMAGES[0], LABELS), r"train images must be numbers \[n, height, width, channels\], not"),
        ((IMAGES.astype(str), LABELS), "train images must be numbers"),
        ((IMAGES.astype(object), LABELS), "train images must be numbers"),
        ((IMAGES, LABELS[:3]), "train has 4 images, but 3 labels"),
        ((IMAGES, LABELS.astype(float)), "train labels must be whole numbers"),
        ((IMAGES, LABELS - 1), "train labels must be 0 or more"),
        ((IMAGES, np.array(["cat"] * 4)), "train labels must be whole numbers"),
        ((IMAGES, LABELS + 2), "train labels go to 4, with 3 class_names"),
        ((IMAGES, np.full((4, 3), np.nan)), "train labels must be 0 or more"),
        ((IMAGES, np.eye(4)), "train labels have 4 columns for 3 classes"),
        ((np.full(IMAGES.shape, np.inf), LABELS), "train images must be finite"),
        ((IMAGES[:, 1:], LABELS), "images must be of one shape"),
        ((IMAGES[:0], LABELS[:0]), "train holds no images"),
    ],
)
def test_invalid_arrays_are_refused(train, said):
    with pytest.raises(InputError, match=said):
        unwrap(splits_from_arrays)(train, (IMAGES, LABELS), class_names=["a", "b", "c"])


def test_images_from_0_to_1_are_remarked_on(caplog):
    white = np.full(IMAGES.shape, 255, np.float32)
    splits_from_arrays((white, LABELS), (IMAGES, LABELS))
    assert not caplog.messages
    splits_from_arrays((white / 255, LABELS), (IMAGES, LABELS))
    assert caplog.messages == ["train images are at most 1; models expect pixels 0…255"]


def test_numpy_sizes_become_python_integers():
    assert checked_sizes(np.array([4, 2, 0])) == (4, 2, 0)
    assert all(type(size) is int for size in checked_sizes(np.array([4, 2, 0])))


@pytest.mark.parametrize(
    "sizes", [(4,), (4, 4, 4, 4), (2**62, 1, 1), (0, 4, 4), (4, 0, 4), (4, 4, -1), (4.5, 2, 1), 7]
)
def test_sizes_out_of_range(sizes):
    with pytest.raises(InputError, match="sizes must be three whole numbers, of at least 1"):
        checked_sizes(sizes)
