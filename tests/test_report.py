import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog_jax.data.splits import Split, Splits
from catdog_jax.reports import plots, sections, tables
from catdog_jax.reports.drawings import comparison_figures
from catdog_jax.reports.tables import Entry


def record(epoch: int, val_accuracy: float = 0.6, loss: float = 0.7) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": 0.55,
        "val_loss": loss,
        "val_accuracy": val_accuracy,
        "seconds": 1.5,
    }


def entry(
    label: dict[str, str],
    seed: int,
    accuracy: float,
    *,
    dead: bool = False,
    finished: bool = True,
) -> Entry:
    result = {"accuracy": accuracy - 0.01, "count": 100, "interval": (0.4, 0.9)}
    metrics = {
        "dead": dead,
        "best": {"epoch": 2, "val_accuracy": accuracy, "interval": (0.5, 0.8)},
        "test": result,
        "test_last": result,
        "seconds": 3.0,
        "images_per_second": 456.7,
    }
    history = [record(1, 0.4), record(2, accuracy)]
    return Entry(label, seed, 20, history, metrics if finished else None, dead)


def test_the_published_numbers_are_those_of_the_post() -> None:
    best = {
        model: round(100 * max(history["val_accuracy"]), 1)
        for model, history in tables.published()["histories"].items()
    }
    assert best == {"model1": 63.7, "model2": 70.5, "model3": 78.1, "model4": 96.5}
    assert tables.published()["test"]["model4"]["accuracy"] == pytest.approx(187 / 192)


RUNS = [
    entry({"model": "model1"}, 0, 0.50, dead=True),
    entry({"model": "model1"}, 1, 0.60),
    entry({"model": "model1"}, 2, 0.64),
    entry({"model": "model4"}, 0, 0.95),
]


def test_the_summary_names_dead_runs_and_leaves_them_out_of_the_means() -> None:
    model1, model4 = tables.series_table(RUNS, tables.published()).splitlines()[2:]
    # The interval is Wilson's for the mean, 61 of 100 photos; two seeds do not make it narrower.
    assert model1 == (
        "| model1 | 3 | 62.0 ± 2.8 % (60.0 … 64.0) | 61.0 % [51.2, 70.0] | 2 | 3 | seed 0 died "
        "| 63.7 % (epoch 7) |"
    )
    assert model4.startswith("| model4 | 1 | 95.0 % | 94.0 % [87.5, 97.2] | 2 | 3 |  | ")
    assert model4.endswith("| 96.5 % (epoch 17); 97.4 % |")


def test_nothing_published_is_shown_beside_other_data() -> None:
    assert "published" not in tables.series_table(RUNS)
    assert tables.series_table(RUNS).endswith(" | 2 | 3 |  |")


def test_unfinished_runs_and_groups_in_which_all_died_are_in_the_table() -> None:
    rates = {"model": "model1", "learning rate": "0.1"}
    unfinished = entry(rates, 0, 0.7, finished=False)
    begun = replace(unfinished, seed=1, history=[])
    dead = entry({**rates, "learning rate": "1"}, 5, 0.5, dead=True)
    header, _, living, died = tables.series_table([unfinished, begun, dead]).splitlines()
    assert header.startswith("| model | learning rate | runs | best validation accuracy |")
    assert living == (
        "| model1 | 0.1 | 2 | 70.0 % | – | 2 | 3 | seed 0 unfinished (2 of 20 epochs), "
        "seed 1 unfinished (0 of 20 epochs) |"
    )
    assert died == "| model1 | 1 | 1 | – | – | 2 | 3 | seed 5 died |"
    assert len(tables.runs_table([unfinished, begun, dead]).splitlines()) == 2 + 1


def test_each_run_has_its_interval_or_is_marked_dead() -> None:
    runs = [entry({"model": "model1"}, 0, 0.5, dead=True), entry({"model": "net.py:A|B"}, 1, 0.75)]
    dead, living = tables.runs_table(runs).splitlines()[2:]
    assert dead.startswith("| model1 | 0 | died |")
    assert living.startswith(r"| net.py:A\|B | 1 | 75.0 % [50.0, 80.0] (2) | 74.0 % [40.0, 90.0] |")


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
    entries = [
        Entry({"model": "model1"}, 0, 5, history, None),
        Entry({"model": "model1"}, 1, 5, died, None, dead=True),
        Entry({"model": "model2"}, 0, 5, died, None, dead=True),
        Entry({"model": "model4"}, 0, 5, history, None),
        Entry({"model": "model4"}, 1, 5, history[:3], None),
        Entry({"model": "model4"}, 2, 5, [], None),
    ]
    plots.plot_curves(tmp_path / "curves.png", entries, {"model1": [0.5, 0.6]})
    plots.plot_comparison(tmp_path / "comparison.png", entries)
    losses, rates = np.array([3.0, 2.0, 1000.0]), np.array([1e-3, 1e-2, 1e-1])
    plots.plot_rates(tmp_path / "rates.png", rates, losses, losses, 1e-2, "model3")
    for name in ("history", "labels", "grid", "curves", "comparison", "rates"):
        width, height = size(tmp_path / f"{name}.png")
        assert 300 < width < 1500
        assert 200 < height < 1500


def test_the_text_beside_a_comparison_says_what_is_drawn() -> None:
    """The best of the mean curve, not the mean of the best epochs; the dead apart."""

    def entry(seed: int, *accuracies: float, dead: bool = False) -> Entry:
        rows = [
            {"epoch": n, "seconds": 2.0, "val_accuracy": a} for n, a in enumerate(accuracies, 1)
        ]
        return Entry({"model": "a long name " * 6}, seed, 3, rows, None if dead else {}, dead)

    over_epochs, over_seconds = comparison_figures(
        [entry(0, 0.9, 0.5, 0.6), entry(1, 0.5, 0.8, 0.7), entry(2, 0.5, dead=True)]
    )
    assert over_epochs.text.endswith(
        ": at best 70.0 %, in epoch 1; seed 2 died. Thick lines are means over seeds. Dotted: runs "
        "that died."
    )
    assert "at best 70.0 %, after 2 s; seed 2 died" in over_seconds.text
    # The legend is broken into lines that fit.
    words = re.findall(r"<text[^>]*>([^<]*)</text>", over_epochs.svg)
    assert 0 < max(map(len, words)) <= 44


def test_a_comparison_of_many_runs_with_long_names_is_drawn(tmp_path: Path) -> None:
    labels = [{"model": f"net.py:{'x' * 200}", "ema": f"0.{n}"} for n in range(12)]
    entries = [Entry(label, 0, 5, [record(1), record(2)], None) for label in labels]
    plots.plot_comparison(tmp_path / "comparison.png", entries)
    width, height = size(tmp_path / "comparison.png")
    assert 800 < width < 1000
    assert height > 500


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
