"""What each of several processes runs in `test_several_processes.py`: models on drawings."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from helpers import SETTINGS

from catdog_jax.data.load import load_data
from catdog_jax.runs import build, phases
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES

MODELS = ("model3", "model4", "model5", "model6")

_SIZE = SETTINGS | {"sizes": (40, 20, 12), "epochs": 2, "weights": "none"}
_SMALLER: dict[str, dict[str, Any]] = {
    "model4": {"model_options": ("alpha=0.35",), "learning_rate": 0.01},
    "model5": {
        "model_options": ("alpha=0.35",),
        "head_epochs": 1,
        "head_learning_rate": 0.01,
        "trainable": "last=2",  # all of them take half a minute to compile
    },
    # Adam divides by the size of small gradients: their rounding becomes 5e-4 in two epochs.
    "model6": {"warmup": 0.0, "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0},
}


def history(experiment: Experiment) -> list[list[float]]:
    """Losses and accuracies of each epoch, of all phases."""
    splits = load_data("sketches", experiment.image_size, sizes=experiment.sizes)
    model = build.build_model(experiment, 2)
    epochs = phases.train(experiment, model, splits, [], None, lambda *_: None, None)
    return [[one.loss, one.accuracy, one.val_loss, one.val_accuracy] for one in epochs]


def main(out: str, process: int = 0, count: int = 1, coordinator: str = "") -> None:
    """Train the models; the first process writes their histories to `out`."""
    if count > 1:
        jax.distributed.initialize(coordinator, count, process)
    found = {
        model: history(replace(RECIPES[model], **_SIZE, **_SMALLER.get(model, {})))
        for model in MODELS
    }
    if process == 0:
        Path(out).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    out, *where = sys.argv[1:]
    main(out, int(where[0]), int(where[1]), where[2]) if where else main(out)
