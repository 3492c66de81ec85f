"""The cut into splits: by seed and content, by shares or by sizes."""

import hashlib

import numpy as np
import pytest

from catdog_jax.data.splits import SPLIT_NAMES
from catdog_jax.data.splitting import split_indices
from catdog_jax.errors import InputError


def digests(count, start=0):
    return [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(start, count)]


def cut_pool(labels, content=None, sizes=None, seed=0):
    labels = np.asarray(labels, np.int32)
    pools = {"all": np.arange(len(labels))}
    return split_indices(pools, labels, content or digests(len(labels)), sizes, seed, "here")


def by_content(parts, content):
    return {content[index]: name for name in SPLIT_NAMES for index in parts[name].tolist()}


def sizes_of(parts):
    return [len(parts[name]) for name in SPLIT_NAMES]


def test_shares_are_about_70_20_10_percent_and_without_overlap():
    parts = cut_pool(np.arange(1000) % 2)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1000))
    np.testing.assert_allclose(sizes_of(parts), [700, 200, 100], atol=45)


def test_photos_added_later_move_no_other():
    content = digests(100)
    before = by_content(cut_pool(np.repeat([0, 1], 50), content), content)
    more = [*digests(103, 100), *content]  # before the others by name
    after = by_content(cut_pool([0, 0, 1, *np.repeat([0, 1], 50)], more), more)
    assert {photo: after[photo] for photo in content} == before
    fewer = by_content(cut_pool(np.repeat([0, 1], (40, 50)), content[10:]), content[10:])
    assert fewer.items() <= before.items()


def test_identical_photos_land_together():
    content = [digest for digest in digests(60) for _ in range(2)]
    parts = cut_pool(np.zeros(120), content)
    split_of = np.empty(120, int)
    for number, name in enumerate(SPLIT_NAMES):
        split_of[parts[name]] = number
    np.testing.assert_array_equal(split_of[::2], split_of[1::2])


def test_the_cut_is_pinned():
    # Published results depend on which photos are test photos.
    parts = {name: part.tolist() for name, part in cut_pool(np.zeros(60)).items()}
    assert parts["validation"] == [22, 43, 13, 37, 46, 52, 45]
    assert parts["test"] == [15, 27, 5, 47, 25]
    assert parts["train"][:8] == [10, 2, 38, 1, 17, 32, 42, 33]
    assert len(parts["train"]) == 60 - 7 - 5


def test_another_seed_is_another_cut():
    content = digests(100)
    cuts = [by_content(cut_pool(np.zeros(100), content, seed=seed), content) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


@pytest.mark.parametrize("count", range(2, 9))
def test_a_small_class_has_a_photo_to_train_and_one_to_validate_on(count):
    for seed in range(40):
        labels = np.repeat([0, 1], (50, count))
        parts = cut_pool(labels, seed=seed)
        for name in ("train", "validation"):
            assert (labels[parts[name]] == 1).any(), (seed, name)


def test_a_class_of_one_photo_and_its_copies_is_trained_on():
    for seed in range(20):
        labels = np.array([0] * 50 + [1] * 3)
        content = [*digests(50), *["copy"] * 3]
        parts = cut_pool(labels, content, seed=seed)
        assert (labels[parts["train"]] == 1).sum() == 3


def test_too_few_photos_to_cut():
    with pytest.raises(InputError, match=r"here holds 2 photos, too few .* validation split: add"):
        cut_pool([0, 1])
    assert sizes_of(cut_pool([0, 1], sizes=(1, 1, 0))) == [1, 1, 0]


def test_every_beginning_of_a_split_is_balanced():
    labels = np.repeat(np.arange(3), (10, 20, 70))
    order = cut_pool(labels, sizes=(98, 1, 1))["train"]
    for length in range(1, 98):
        counts = np.bincount(labels[order[:length]], minlength=3)
        np.testing.assert_allclose(counts, length * np.array([0.1, 0.2, 0.7]), atol=1.01)


def test_sizes_of_one_pool():
    labels = np.arange(30) % 2
    parts = cut_pool(labels, sizes=(10, 6, 4))
    assert sizes_of(parts) == [10, 6, 4]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 20
    assert [labels[part].sum() for part in parts.values()] == [5, 3, 2]
    with pytest.raises(InputError, match=r"the test split was to hold 4 photos, .* only 1 left"):
        cut_pool(labels, sizes=(19, 10, 4))


@pytest.mark.parametrize(
    ("validation", "sizes"),
    [(1000, (808, 192)), (128, (128, 0)), (129, (97, 32)), (160, (128, 32)), (5, (5, 0))],
)
def test_the_test_set_of_the_post_is_held_back(validation, sizes):
    count = 10 + validation
    pools = {"train": np.arange(10), "validation": np.arange(10, count)}
    parts = split_indices(pools, np.zeros(count, np.int32), digests(count), None, 0, "here")
    assert sizes_of(parts) == [10, *sizes]
    held = np.concatenate([parts["test"], parts["validation"]])
    assert sorted(held) == list(range(10, count))
    assert sorted(parts["train"]) == list(range(10))


def test_given_pools_with_sizes():
    pools = {
        name: np.arange(start, start + 8)
        for start, name in zip((0, 8, 16), SPLIT_NAMES, strict=True)
    }
    labels = np.arange(24, dtype=np.int32) % 2
    for given in (pools, {name: pools[name] for name in ("train", "validation")}):
        parts = split_indices(given, labels, digests(24), (6, 4, 2), 0, "here")
        assert sizes_of(parts) == [6, 4, 2]
        assert set(parts["train"]) <= set(pools["train"])
        assert set(parts["validation"]) <= set(pools["validation"])
    with pytest.raises(InputError, match="the validation split was to hold 5 photos"):
        split_indices(
            {name: pools[name] for name in SPLIT_NAMES[:2]}, labels, digests(24), (6, 5, 4), 0, "x"
        )
