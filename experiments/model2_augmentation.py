"""Section 3 of the post: random flips and rotations, and model 2 trained on them.

    python experiments/model2_augmentation.py --data PATH/cats_and_dogs_filtered.zip

Draws nine flips and nine rotations of one photo, and the accuracy history. Published: 70.5 % best
validation accuracy; expect about 66 to 72 %. Results with seeds, spread and hardware are in
`experiments/results/README.md`.
"""

from catdog_jax.arguments import Train
from catdog_jax.cli import script, train
from catdog_jax.reports.sections import draw_augmentations
from catdog_jax.runs.build import load_splits


def main(options: Train) -> None:
    """Model 2: a CNN on randomly flipped and rotated photos."""
    run = train(options)
    draw_augmentations(load_splits(run.experiment), run.folder)


if __name__ == "__main__":
    script(Train, main, "model2")
