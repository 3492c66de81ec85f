"""What every exported file says about itself, and how it is compared with the run.

Each file is also a zip: `labels.txt` in it has the names of the classes, one a line, in the order
of the probabilities, and `about.json` the rest. (Keras's files are zips; to a TFLite file a zip
can be appended, as TFLite's own metadata does.)
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num

from ..errors import RunError
from ..runs.named import short
from ..runs.predictions import predictions_of
from ..runs.results import Run
from ..training.metrics import wilson_interval

ABOUT, LABELS = "about.json", "labels.txt"
TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest probability."""

Probabilities = Float[np.ndarray, "n classes"]


def about(run: Run, **more: Any) -> dict[str, Any]:
    """The content of `about.json`: what the file takes and gives, and where it is from."""
    test = run.metrics["test"] if run.metrics else None
    return {
        "class_names": list(run.class_names),
        "image_size": run.image_size,
        "output": "probabilities [batch, classes]",
        "model": short(run.experiment.model),
        "checkpoint": run.checkpoint,
        "mirror_test": run.experiment.mirror_test,
        "test_accuracy": test and {name: test[name] for name in ("accuracy", "interval", "count")},
        **more,
    }


def pack(path: Path, content: dict[str, Any]) -> None:
    """Add `labels.txt` and `about.json` to a file: to a zip, or as a zip at its end."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS, "".join(f"{name}\n" for name in content["class_names"]))
        archive.writestr(ABOUT, json.dumps(content, indent=2) + "\n")


def expected(run: Run, images: Num[np.ndarray, "n height width 3"]) -> Probabilities:
    """The run's own probabilities, computed in float32 on any device."""
    in_float32 = replace(run.experiment, dtype="float32")
    with jax.default_matmul_precision("highest"):
        return predictions_of(run.model, images, in_float32, run.class_names).probabilities


def difference(found: Probabilities, wanted: Probabilities) -> float:
    """The largest difference, as a share of the largest probability wanted; NaN if one is."""
    return float(np.abs(found - wanted).max() / wanted.max())


def checked(name: str, found: Probabilities, wanted: Probabilities) -> float:
    """`difference`, if it is small enough.

    Raises:
        RunError: it is not.
    """
    largest = difference(found, wanted)
    if not largest <= TOLERANCE:
        raise RunError(
            f"{name} was not written: its predictions differ from the run's by {largest:.1e}, "
            f"more than {TOLERANCE:g}"
        )
    return largest


def accuracy(found: Probabilities, labels: Num[np.ndarray, " n"]) -> dict[str, Any]:
    """The share of photos whose class is the most probable one, as in `about.json`."""
    correct, count = int((found.argmax(axis=1) == labels).sum()), len(labels)
    interval = wilson_interval(correct, count)
    return {"accuracy": correct / count, "interval": interval, "count": count}
