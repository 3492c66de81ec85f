"""Beyond the post: MobileNetV2, fine-tuned. First the head on frozen features, then all of it.

    python experiments/model5_finetune.py            # downloads the photos and ImageNet weights

RESULT
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import optax
from flax import nnx

import catdog_jax as cd
from catdog_jax.cli import script
from catdog_jax.reports import plots
from catdog_jax.training.augment import random_crop, random_mirror
from catdog_jax.training.losses import cross_entropy, smoothed


def show(records: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Print each epoch as it ends."""
    for record in records:
        print(record)
        yield vars(record)


def main(
    data: str = "cats_and_dogs_filtered",
    weights: str = "imagenet",
    image_size: int = 160,
    head_epochs: int = 10,
    epochs: int = 20,
    seed: int = 0,
) -> None:
    """Model 5: fine-tuned MobileNetV2."""
    cd.use_cpu_cores()
    splits = cd.load_data(data, image_size)
    model = cd.create_model("model5", rngs=nnx.Rngs(seed))
    cd.load_keras_weights(model, weights)
    data_of_both = {"train": splits.train, "validation": splits.validation, "seed": seed}

    # The head alone: nothing changes the photos' features, so they are computed once.
    head = nnx.PathContains("head")
    history = list(show(cd.fit(model, **data_of_both, epochs=head_epochs, trainable=head)))

    # Then all weights, at a rate that falls to zero, on mirrored and cropped photos.
    options = {
        "optimizer": lambda steps: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1e-4, steps // 10, steps)
        ),
        "augment": [random_mirror, random_crop(0.5)],
        "loss": smoothed(cross_entropy, 0.1, len(splits.class_names)),
        "ema": 0.99,
    }
    history += show(cd.fit(model, **data_of_both, start=head_epochs, epochs=epochs, **options))
    plots.plot_history(
        Path("runs/model5/history.png"), history, "model 5", fine_tuning_after=head_epochs
    )
    print(f"test, last epoch: {cd.evaluate(model, splits.test, mirror=True)}")


if __name__ == "__main__":
    script(main)
