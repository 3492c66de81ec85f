"""Section 4 of the post: model 3, whose pixels are rescaled from 0…255 to [-1, 1].

    python experiments/model3_preprocessing.py --data PATH/cats_and_dogs_filtered.zip

Draws the accuracy history. Published: 78.1 % best validation accuracy; expect about 72 to 78 %.
Results with seeds, spread and hardware are in `experiments/results/README.md`.
"""

from catdog_jax.arguments import Train
from catdog_jax.cli import script, train

if __name__ == "__main__":
    script(Train, train, "model3")
