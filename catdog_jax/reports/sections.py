"""The figures of the post's sections on data and on augmentation."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from ..data.splits import Split, Splits, class_counts
from . import plots

if TYPE_CHECKING:
    from jax import Array


def draw_data(splits: Splits, out: Path) -> None:
    """Section 1: `labels.png`, the training set's classes, and `photos.png`, three of each."""
    plots.plot_label_frequencies(out / "labels.png", class_counts(splits.train), "training set")
    chosen, titles = [], []
    for label, name in enumerate(splits.class_names):
        for index in np.flatnonzero(splits.train.labels == label)[:3]:
            chosen.append(splits.train.images[int(index)])
            titles.append(name)
    plots.plot_grid(out / "photos.png", np.stack(chosen), titles)


def draw_augmentations(splits: Splits, out: Path, *, seed: int = 0, rotation: float = 0.2) -> None:
    """Section 3: `flips.png` and `rotations.png`, a photo and eight random variants of it each."""
    from ..training.augment import random_flip, random_rotation  # JAX, which not every figure needs

    for name, change in (("flips", random_flip), ("rotations", random_rotation(rotation))):
        images = _variants(splits.train, change, seed)
        plots.plot_grid(out / f"{name}.png", images, ["the photo", *["a random variant"] * 8])


def _variants(
    split: Split, change: "Callable[[Array, Array], Array]", seed: int
) -> UInt8[np.ndarray, "9 height width 3"]:
    import jax

    keys = jax.random.split(jax.random.key(seed), 8)
    photo = np.asarray(split.images[0], np.float32)
    drawn = jax.jit(jax.vmap(change, in_axes=(0, None)))(keys, photo)
    return np.stack([photo, *drawn]).round().clip(0, 255).astype(np.uint8)
