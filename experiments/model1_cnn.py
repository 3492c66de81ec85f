"""Sections 1 and 2 of the post: look at the photos, then train model 1, a plain CNN on raw pixels.

    python experiments/model1_cnn.py      # downloads the photos (68 MB)
    python experiments/model1_cnn.py --data sketches --image-size 64 --epochs 3  # offline

Best validation accuracy: 63.7 % published, 66 % here (seed 1); 10 minutes on two CPU cores. About
half of all seeds die within three epochs, here and in Keras: all outputs 0, loss ln 64 = 4.1589.
More in `experiments/results/`.
"""

from pathlib import Path

import numpy as np
from flax import nnx

import catdog_jax as cd
from catdog_jax.cli import script
from catdog_jax.reports import plots
from catdog_jax.training.optimizers import keras_adam


def main(
    data: str = "cats_and_dogs_filtered", image_size: int = 160, epochs: int = 20, seed: int = 1
) -> None:  # seed 0 dies
    """Model 1: a plain CNN on raw pixels."""
    cd.use_cpu_cores()
    out = Path("runs/model1")
    splits = cd.load_data(data, image_size)
    train, names = splits.train, splits.class_names

    # As many cats as dogs, so whoever always says "cat" is right half of the time.
    counts = dict(zip(names, np.bincount(train.labels).tolist(), strict=True))
    plots.plot_label_frequencies(out / "labels.png", counts, "training set")
    shown = np.concatenate([np.flatnonzero(train.labels == label)[:3] for label in (0, 1)])
    plots.plot_grid(
        out / "photos.png", train.images[shown], [names[i] for i in train.labels[shown]]
    )

    # `blog_logits` is the post's quirk. It has no last layer with one output for each class: its
    # loss takes the 64 outputs of a hidden layer for classes, of which only 0 and 1 ever occur.
    model = cd.create_model("model1", image_size=image_size, blog_logits=True, rngs=nnx.Rngs(seed))
    options = {"epochs": epochs, "optimizer": keras_adam(), "seed": seed}
    history = []
    for record in cd.fit(model, train, splits.validation, **options):
        print(record)
        history.append(vars(record))
    plots.plot_history(out / "history.png", history, "model 1")


if __name__ == "__main__":
    script(main)
