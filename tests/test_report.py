import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog_jax.data.splits import Split, Splits
from catdog_jax.reports import plots, sections, tables


def record(epoch: int, val_accuracy: float = 0.6, loss: float = 0.7) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": 0.55,
        "val_loss": loss,
        "val_accuracy": val_accuracy,
        "seconds": 1.5,
    }


def metrics(model: str, seed: int, accuracy: float, *, dead: bool = False) -> dict[str, Any]:
    result = {"accuracy": accuracy - 0.01, "interval": (0.4, 0.9)}
    return {
        "model": model,
        "seed": seed,
        "dead": dead,
        "best": {"epoch": 3, "val_accuracy": accuracy, "interval": (0.5, 0.8)},
        "test": result,
        "test_last": result,
        "seconds": 12.3,
        "images_per_second": 456.7,
    }


def test_the_published_numbers_are_those_of_the_post() -> None:
    best = {
        model: round(100 * max(history["val_accuracy"]), 1)
        for model, history in tables.published()["histories"].items()
    }
    assert best == {"model1": 63.7, "model2": 70.5, "model3": 78.1, "model4": 96.5}
    assert tables.published()["test"]["model4"]["accuracy"] == pytest.approx(187 / 192)


RUNS = [
    metrics("model1", 0, 0.50, dead=True),
    metrics("model1", 1, 0.60),
    metrics("model1", 2, 0.64),
    metrics("model4", 0, 0.95),
]


def test_the_summary_counts_dead_runs_and_leaves_them_out_of_the_means() -> None:
    model1, model4 = tables.summary_table(RUNS, tables.published()).splitlines()[2:]
    assert model1.startswith("| model1 | 3 | 1 | 62.0 ± 2.8 % (60.0 … 64.0) | 61.0 ±")
    assert model1.endswith("| 63.7 % (epoch 7) |")
    assert model4.startswith("| model4 | 1 | 0 | 95.0 % | 94.0 % |")
    assert model4.endswith("| 96.5 % (epoch 17); 97.4 % |")


def test_nothing_published_is_shown_beside_other_data() -> None:
    assert "published" not in tables.summary_table(RUNS)
    assert tables.summary_table(RUNS).splitlines()[-1] == "| model4 | 1 | 0 | 95.0 % | 94.0 % |" + (
        " 94.0 % |"
    )


def test_each_run_has_its_interval_or_is_marked_dead() -> None:
    runs = [metrics("model1", 0, 0.5, dead=True), metrics("net.py:A|B", 1, 0.75)]
    dead, living = tables.runs_table(runs).splitlines()[2:]
    assert dead.startswith("| model1 | 0 | died |")
    assert living.startswith(r"| net.py:A\|B | 1 | 75.0 % [50.0, 80.0] (3) | 74.0 % [40.0, 90.0] |")


def size(path: Path) -> tuple[int, int]:
    """Check that something is drawn; return width and height."""
    with Image.open(path) as image:
        assert np.asarray(image).std() > 10
        return image.size


def test_figures_are_drawn_at_a_usual_size(tmp_path: Path) -> None:
    history = [record(epoch) for epoch in range(1, 6)]
    died = [record(1, 0.5, 16.0), record(2, 0.5, 4.16)]
    images = np.zeros((6, 16, 16, 3), np.uint8)
    plots.plot_history(tmp_path / "history.png", history, "model3")
    plots.plot_label_frequencies(tmp_path / "labels.png", {"cats": 3, "dogs": 4}, "training set")
    plots.plot_grid(tmp_path / "grid.png", images, ["cats"] * 6)
    plots.plot_curves(
        tmp_path / "curves.png",
        {"model1": [history], "model4": [history, history[:3]]},
        dead={"model1": [died], "model2": [died]},
        published={"model1": [0.5, 0.6]},
    )
    for name in ("history", "labels", "grid", "curves"):
        width, height = size(tmp_path / f"{name}.png")
        assert 300 < width < 1500
        assert 200 < height < 1500


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    plots.plot_grid(path, np.zeros((1, 8, 8, 3), np.uint8), [""])
    before = path.read_bytes()
    figure, _ = plots.subplots(1, 1, (2, 2))
    figure.text(0.5, 0.5, "$\\nonsense$")  # found only when the figure is drawn
    with pytest.raises(ValueError, match="nonsense"):
        plots.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_figures_of_the_sections_are_drawn(tmp_path: Path, drawings: Split) -> None:
    names = drawings.class_names
    splits = Splits(drawings, drawings, drawings, class_names=names, source="", fingerprint="")
    sections.draw_data(splits, tmp_path)
    sections.draw_augmentations(splits, tmp_path)
    for name in ("labels", "photos", "flips", "rotations"):
        assert size(tmp_path / f"{name}.png")[0] > 300


def test_figures_need_no_backend(tmp_path: Path) -> None:
    """Though a notebook or a user may have set one, which may be missing."""
    code = (
        "import sys; from pathlib import Path; from catdog_jax.reports import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_label_frequencies(Path(sys.argv[1]), {'cats': 3}, 'training set')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "labels.png")]
    environment = {**os.environ, "MPLBACKEND": "module://no_such_backend"}
    subprocess.run(command, env=environment, check=True)
    assert size(tmp_path / "labels.png")[0] > 300
