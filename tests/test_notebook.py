"""The notebook: stored without outputs, short, and it runs."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from flax import nnx

from catdog_jax.models.keras_weights import save_keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.runs import recipes

NOTEBOOK = Path(__file__).parent.parent / "experiments/ladder.ipynb"
CELLS = [
    {"tags": [], **cell["metadata"], **cell, "source": "".join(cell["source"])}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
]


def test_the_notebook_is_short_and_stored_without_outputs() -> None:
    assert len(CELLS) <= 20
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_on_drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells but that of the installation. Slow: six models are compiled.

    Model 5 trains its last stages only: the gradient of all takes minutes to compile.
    """
    last = replace(recipes.RECIPES["model5"], trainable="last=3")
    monkeypatch.setattr(recipes, "RECIPES", {**recipes.RECIPES, "model5": last})
    save_keras_weights(MobileNetV2(rngs=nnx.Rngs(0)), tmp_path / "mobilenet.weights.h5")
    changes = {"sizes": (16, 8, 8), "image_size": 64, "epochs": 12, "batch_size": 8}
    parameters = {
        "DATA": "sketches",
        "WEIGHTS": str(tmp_path / "mobilenet.weights.h5"),
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
