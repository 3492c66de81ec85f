"""Splits, batches, arrays as data, and where photos are cut."""

import numpy as np
import pytest

from catdog_jax.data.cut import cut
from catdog_jax.data.splits import (
    ImageView,
    Split,
    class_counts,
    majority_baseline,
    splits_from_arrays,
)
from catdog_jax.errors import InputError


def split_of(count):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    labels = (np.arange(count) % 2).astype(np.int32)
    return Split(images, labels, ("cats", "dogs"), tuple(map(str, range(count))))


def images_of(batches):
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches]


# Batches.


def test_batches_are_in_order_filled_up_with_the_first_photos_and_loop_again():
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


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ((np.zeros((3, 4, 4)), [0, 1, 0]), r"train images must be numbers .* float64\[3, 4, 4\]"),
        ((np.zeros((3, 6, 7, 3)), [0, 1]), "train has 3 images, but 2 labels"),
        ((np.zeros((2, 6, 7, 3)), [0, -1]), "train labels must be 0 or more, not -1"),
        ((np.zeros((2, 6, 7, 3)), ["a", "b"]), "train labels must be whole numbers"),
        ((np.zeros((2, 8, 8, 3)), [0, 1]), "images must be of one shape"),
        ((np.zeros((2, 6, 7, 3)), [0, 7]), "class_names has 2 names, but labels go to 7"),
    ],
)
def test_arrays_that_are_no_data(train, said):
    with pytest.raises(InputError, match=said):
        splits_from_arrays(train, split_arrays(2), class_names=("a", "b"))


# The cut.


def cut_of(count, sizes=None, seed=0, pools=None):
    labels = (np.arange(count) % 3 == 0).astype(np.int32)  # a third of class 1
    digests = [f"photo {i}" for i in range(count)]
    return cut(pools or {"all": np.arange(count)}, labels, digests, sizes, seed, "it"), labels


@pytest.mark.parametrize("sizes", [None, (60, 20, 10)])
def test_no_photo_is_in_two_splits_and_the_seed_decides(sizes):
    (parts, _), (again, _), (other, _) = (cut_of(100, sizes, seed) for seed in (0, 0, 1))
    together = np.concatenate(list(parts.values()))
    assert len(set(together.tolist())) == len(together)
    assert all(map(np.array_equal, parts.values(), again.values()))
    assert not np.array_equal(parts["train"], other["train"])
    assert sizes is None or tuple(map(len, parts.values())) == sizes


def test_shares_are_about_70_20_and_10_percent():
    parts, _ = cut_of(10_000)
    np.testing.assert_allclose([len(part) for part in parts.values()], [7000, 2000, 1000], atol=150)


def test_photos_added_later_move_no_other():
    (before, _), (after, _) = cut_of(200), cut_of(203)
    for name, part in before.items():
        assert set(part.tolist()) <= set(after[name].tolist())


def test_copies_of_a_photo_are_in_one_split():
    digests, labels = [f"photo {i % 50}" for i in range(100)], np.zeros(100, np.int32)
    parts = cut({"all": np.arange(100)}, labels, digests, None, 0, "it")
    for part in parts.values():
        assert {(i + 50) % 100 for i in part.tolist()} == set(part.tolist())


def test_every_beginning_is_balanced():
    parts, labels = cut_of(300, (200, 60, 40))
    for part in parts.values():
        shares = np.cumsum(labels[part]) / np.arange(1, len(part) + 1)
        assert (np.abs(shares - 1 / 3) * np.arange(1, len(part) + 1) <= 1).all()


@pytest.mark.parametrize(
    ("validation", "sizes"), [(1000, (808, 192)), (100, (100, 0)), (160, (128, 32))]
)
def test_the_test_set_of_the_post_is_held_back_from_validation(validation, sizes):
    pools = {"train": np.arange(50), "validation": np.arange(50, 50 + validation)}
    parts, _ = cut_of(50 + validation, pools=pools)
    assert len(parts["train"]) == 50
    assert (len(parts["validation"]), len(parts["test"])) == sizes
    assert min(parts["validation"]) >= 50


@pytest.mark.parametrize(
    ("count", "sizes", "said"),
    [
        (9, (5, 3, 2), "the test split was to hold 2 photos, but it has only 1 left for it"),
        (1, None, "it holds 1 photos, too few to leave any for the (train|validation) split: add"),
    ],
)
def test_too_few_photos(count, sizes, said):
    with pytest.raises(InputError, match=said):
        cut_of(count, sizes)
