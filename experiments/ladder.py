"""The whole ladder in one figure: validation accuracy over epochs, and over seconds on two cores.

    python experiments/ladder.py          # draws experiments/results/ladder.png

From experiments/results: the mean over the histories of the seeds that lived, from the 20th epoch
on also over as many epochs as a twentieth of those before and after. The histories were recorded
on busy machines or a GPU, so seconds are those of ladder_seconds.json, measured once on two cores
of an EPYC (Zen 5), at real-time priority over other work: catdog-jax train MODEL for three epochs,
model 5 for two of each phase. The first epoch of a program includes compiling it. The deep model 6
would take hours there.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from catdog_jax.cli import script
from catdog_jax.runs.history import is_dead, read_history
from catdog_jax.runs.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "model1": "1: plain CNN",
    "model2": "2: augmented",
    "model3": "3: rescaled",
    "model4": "4: transfer",
    "model5": "5: fine-tuned from ●",
    "model6": "6: residual",
    "model6_deep": "6, deep",
}


def main(data: Path = RESULTS, out: Path = RESULTS / "ladder.png") -> None:
    """Draw the ladder from the results in the folder `data`."""
    measured = json.loads((data / "ladder_seconds.json").read_text("utf-8"))
    figure, (over_epochs, over_seconds) = plt.subplots(
        1, 2, figsize=(11, 5), sharey=True, layout="constrained"
    )
    for model, name in NAMES.items():
        histories = map(read_history, sorted(data.glob(f"histories/{model}-seed*.csv")))
        lived = [[row["val_accuracy"] for row in one] for one in histories if not is_dead(one[-1])]
        if not lived:
            continue
        accuracy = _smoothed(np.mean(lived, axis=0))
        # A dot where all layers begin to be trained.
        head = RECIPES[model].head_epochs
        dot: dict[str, Any] = {"marker": "o", "markevery": [head - 1]} if head else {}
        (line,) = over_epochs.plot(range(1, len(accuracy) + 1), accuracy, label=name, **dot)
        if model in measured:
            seconds = [each for epochs, each in measured[model] for _ in range(epochs)]
            over_seconds.plot(np.cumsum(seconds), accuracy, color=line.get_color(), **dot)
    for axes, label, ticks in (
        (over_epochs, "epochs", [1, 3, 10, 30, 100, 300]),
        (over_seconds, "seconds on two CPU cores", [10, 20, 50, 100, 200, 400, 800, 1600]),
    ):
        axes.set(xscale="log", xlabel=label)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axhline(0.5, color="grey", linestyle=":")
        axes.grid(alpha=0.3)
    over_epochs.set_ylabel("validation accuracy")
    figure.legend(loc="outside lower center", ncols=len(NAMES))
    figure.savefig(out, dpi=120)


def _smoothed(accuracy: np.ndarray) -> np.ndarray:
    near = [slice(max(0, i - i // 20), i + i // 20 + 1) for i in range(len(accuracy))]
    return np.array([accuracy[part].mean() for part in near])


if __name__ == "__main__":
    script(main)
