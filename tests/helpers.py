"""What several tests share: small runs, whose programs are compiled once for all of them."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import networks
from flax import nnx
from PIL import Image

from catdog_jax.data import sketches
from catdog_jax.runs.build import build_model
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES

SETTINGS: dict[str, Any] = {
    "data": "sketches",
    "image_size": 32,
    "sizes": (48, 20, 12),
    "epochs": 3,
    "batch_size": 16,
}
SMALL = replace(RECIPES["model3"], **SETTINGS)
LINEAR = Experiment(f"{networks.__file__}:Linear", **SETTINGS)
"""For tests that need a run, but not a convolution: trained in a second."""

DRAWINGS = ("--image-size", "32", "--sizes", "48", "20", "12")
TRAIN = ("--data", "sketches", *DRAWINGS, "--batch-size", "16")


def command(*arguments: str) -> list[str]:
    """The command line, in a process of its own."""
    return [sys.executable, "-m", "catdog_jax", *arguments]


def silent(line: str) -> None:
    """Log nothing."""
    del line


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without its times, to compare with another."""
    return [{**row, "seconds": 0} for row in history]


def stillborn(experiment: Experiment, *sizes: int) -> nnx.Module:
    """A model 3 whose outputs are all zero, in place of `build_model`."""
    model: Any = build_model(experiment, *sizes)
    model.dense2.bias[...] = jnp.full(64, -1e9)
    return model


def write_drawings(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write drawings: a folder for each class, cats in the first, dogs in the second."""
    images, labels = sketches.draw(2 * max(counts.values()), 32, seed=seed)
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index, image in enumerate(images[labels == label % 2][:count]):
            Image.fromarray(image).save(folder / name / f"{index}.png")
    return folder


class Terminal(io.StringIO):
    """Stands for a stderr that is a terminal."""

    def isatty(self) -> bool:
        """As of a terminal."""
        return True
