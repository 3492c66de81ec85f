"""Section 3 of the post: random flips and rotations, and model 2 trained on them.

    python experiments/model2_augmentation.py --data PATH/cats_and_dogs_filtered.zip

Draws nine flips and nine rotations of one photo, and the accuracy history. Published: 70.5 % best
validation accuracy; expect about 66 to 72 %. Results with seeds, spread and hardware are in
`experiments/results/README.md`.
"""

from catdog_jax.cli import TrainOptions, script, train_model
from catdog_jax.reports.sections import draw_augmentations
from catdog_jax.runs.recipes import RECIPES


def main(options: TrainOptions) -> None:
    """Model 2: a CNN on randomly flipped and rotated photos."""
    run, splits = train_model("model2", options)
    rotation = options.adapt(RECIPES["model2"]).rotation
    draw_augmentations(splits, run.folder, rotation=rotation)


if __name__ == "__main__":
    script(main, TrainOptions)
