"""The notebook: stored without outputs, short, and it runs."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from flax import nnx

from catdog_jax.models.resnet import Model6
from catdog_jax.runs import build, recipes

NOTEBOOK = Path(__file__).parent.parent / "experiments/ladder.ipynb"
CELLS = [
    {"tags": [], **cell["metadata"], **cell, "source": "".join(cell["source"])}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
]


def test_the_notebook_is_short_and_stored_without_outputs() -> None:
    assert len(CELLS) <= 20
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def tiny(*, num_classes: int, rngs: nnx.Rngs) -> Model6:
    """A network with a feature map and a head, soon compiled."""
    return Model6(widths=(8,), blocks=(1,), image_size=32, num_classes=num_classes, rngs=rngs)


@pytest.mark.slow
def test_the_notebook_runs_on_drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells but that of the installation. Slow: many runs.

    Networks and recipes are small, since other tests train the real ones.
    """
    few = {"image_size": 32, "weights": "none", "model_options": (), "head_epochs": 0}
    small = {name: replace(recipe, **few) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", small)
    monkeypatch.setattr(build, "MODELS", dict.fromkeys(small, tiny))
    changes = {"sizes": (16, 8, 8), "epochs": 2, "batch_size": 8}
    parameters = {
        "DATA": "sketches",
        "WEIGHTS": "none",
        "CHANGES": changes,
        "OUT": str(tmp_path / "runs"),
    }
    shown: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf().number))
    script = "\n".join(
        "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        if "parameters" in cell["tags"]
        else cell["source"]
        for cell in CELLS
        if cell["cell_type"] == "code" and "install" not in cell["tags"]
    )
    (tmp_path / "ladder.py").write_text(script)
    names = runpy.run_path(str(tmp_path / "ladder.py"))
    plt.close("all")
    models = ["model1", "model2", "model3", "model4", "model5", "model6"]
    assert [run.experiment.model for run in names["runs"]] == models
    assert len(shown) >= len(models) + 2
