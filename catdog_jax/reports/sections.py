"""The post's sections that train nothing: what the data are, and what augmentation does to them."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from ..data.load import Split, Splits, class_counts
from ..training.augment import Augmentation, random_flip, random_rotation
from . import report


def draw_data(splits: Splits, out: Path) -> None:
    """Section 1: `labels.png`, the training set's classes, and `photos.png`, three of each."""
    report.plot_label_frequencies(out / "labels.png", class_counts(splits.train), "training set")
    chosen, titles = [], []
    for label, name in enumerate(splits.class_names):
        for index in np.flatnonzero(splits.train.labels == label)[:3]:
            chosen.append(splits.train.images[index])
            titles.append(name)
    report.plot_grid(out / "photos.png", np.stack(chosen), titles)


def draw_augmentations(splits: Splits, out: Path, *, seed: int = 0, rotation: float = 0.2) -> None:
    """Section 3: `flips.png` and `rotations.png`, nine draws of one photo each."""
    draws: dict[str, Augmentation] = {
        "flips": random_flip,
        "rotations": partial(random_rotation, factor=rotation),
    }
    for name, augmentation in draws.items():
        images = _nine_draws(splits.train, augmentation, seed)
        report.plot_grid(out / f"{name}.png", images, [""] * len(images))


def _nine_draws(split: Split, augmentation: Augmentation, seed: int) -> np.ndarray:
    photo = np.broadcast_to(split.images[0].astype(np.float32), (9, *split.images.shape[1:]))
    keys = jax.random.split(jax.random.key(seed), 9)
    return np.asarray(jax.jit(augmentation)(keys, photo)).round().astype(np.uint8)
