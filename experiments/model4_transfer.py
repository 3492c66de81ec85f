"""Section 5 of the post: model 4, transfer learning from MobileNetV2.

    python experiments/model4_transfer.py --data PATH/cats_and_dogs_filtered.zip

Downloads the official ImageNet weights once, or takes `--weights FILE`. Draws the history, accuracy
above and loss below, and prints the test accuracy. Published: 96.5 % best validation accuracy and
97.4 % on the test set; expect about 93 to 96 %. Results with seeds, spread, weights and hardware
are in `experiments/results/README.md`.
"""

from catdog_jax.arguments import Train
from catdog_jax.cli import script, train

if __name__ == "__main__":
    script(Train, train, "model4")
