import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog_jax.reports import report

LN64 = math.log(64)


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


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    history = [record(1, 1 / 3), record(2, 0.123456789012345)]
    report.write_history(tmp_path / "history.csv", history)
    assert report.read_history(tmp_path / "history.csv") == history
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy,seconds"


@pytest.mark.parametrize(
    ("loss", "val_loss", "dead"),
    [(LN64, LN64, True), (4.158882, 4.1588835, True), (16.4, LN64, False), (LN64, 4.0, False)],
)
def test_a_dead_epoch_is_one_at_ln_64_throughout(loss: float, val_loss: float, dead: bool) -> None:
    assert report.is_dead({"loss": loss, "val_loss": val_loss}) is dead


def test_the_published_numbers_are_the_posts() -> None:
    best = {
        model: round(100 * max(history["val_accuracy"]), 1)
        for model, history in report.published()["histories"].items()
    }
    assert best == {"model1": 63.7, "model2": 70.5, "model3": 78.1, "model4": 96.5}
    assert report.published()["test"]["model4"]["accuracy"] == pytest.approx(187 / 192)


def test_the_summary_leaves_the_dead_out_of_the_means_and_counts_them() -> None:
    runs = [
        metrics("model1", 0, 0.50, dead=True),
        metrics("model1", 1, 0.60),
        metrics("model1", 2, 0.64),
        metrics("model4", 0, 0.95),
    ]
    model1, model4 = report.summary_table(runs).splitlines()[2:]
    assert model1.startswith("| model1 | 3 | 1 | 62.0 ± 2.8 % (60.0 … 64.0) | 61.0 ±")
    assert model1.endswith("| 63.7 % (epoch 7) |")
    assert model4.startswith("| model4 | 1 | 0 | 95.0 % | 94.0 % |")
    assert model4.endswith("| 96.5 % (epoch 17); 97.4 % |")


def test_each_run_has_its_interval_or_its_cause_of_death() -> None:
    runs = [metrics("model1", 0, 0.5, dead=True), metrics("model3", 1, 0.75)]
    dead, living = report.runs_table(runs).splitlines()[2:]
    assert dead.startswith("| model1 | 0 | died at ln 64 |")
    assert living.startswith("| model3 | 1 | 75.0 % [50.0, 80.0] (3) | 74.0 % [40.0, 90.0] |")


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_figures_are_pictures_of_some_size(tmp_path: Path) -> None:
    history = [record(epoch) for epoch in range(1, 6)]
    died = [record(1, 0.5, 16.0), record(2, 0.5, LN64)]
    images = np.zeros((6, 16, 16, 3), np.uint8)
    report.plot_history(tmp_path / "history.png", history, "model3")
    report.plot_label_frequencies(tmp_path / "labels.png", {"cats": 3, "dogs": 4}, "training set")
    report.plot_grid(tmp_path / "grid.png", images, ["cats"] * 6)
    report.plot_over_published(
        tmp_path / "curves.png", {"model1": [history, died], "model4": [history]}
    )
    for name in ("history", "labels", "grid", "curves"):
        width, height = size(tmp_path / f"{name}.png")
        assert 300 < width < 1500
        assert 200 < height < 1500
