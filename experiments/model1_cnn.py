"""Sections 1 and 2 of the post: the data, and model 1, a plain CNN on raw pixels.

    python experiments/model1_cnn.py --data PATH/cats_and_dogs_filtered.zip

Draws the label frequencies, three cats above three dogs, and the accuracy history. Published:
63.7 % best validation accuracy. Expect about 60 to 64 % when the network lives; most seeds die
within an epoch or two (all outputs zero, loss ln 64 = 4.1589), a fact about this model that
is reported as such: then try another `--seed`. Results with seeds, spread and hardware are in
`experiments/results/README.md`.
"""

from catdog_jax.arguments import Train
from catdog_jax.cli import script, train
from catdog_jax.reports.sections import draw_data
from catdog_jax.runs.build import load_splits


def main(options: Train) -> None:
    """The data, and model 1: a plain CNN on raw pixels."""
    run = train(options)
    draw_data(load_splits(run.experiment), run.folder)


if __name__ == "__main__":
    script(Train, main, "model1")
