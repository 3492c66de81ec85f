"""The whole post: four models, their figures, and the summary beside the published numbers.

    python experiments/reproduce.py --data PATH/cats_and_dogs_filtered.zip --seeds 3

Writes a folder a run, `summary.md`, and `curves.png`, our validation accuracies over the published
ones. Published: 63.7, 70.5, 78.1 and 96.5 % best validation accuracy, 97.4 % test accuracy. What
came out, with seeds, spread and hardware, is in `experiments/results/accuracy.md`.
"""

from catdog_jax.cli import command_script
from catdog_jax.commands.settings import Reproduce
from catdog_jax.commands.training import reproduce

if __name__ == "__main__":
    command_script(Reproduce, reproduce)
