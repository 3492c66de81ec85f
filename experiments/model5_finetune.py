"""Beyond the post: MobileNetV2, fine-tuned. First the head on frozen features, then all of it.

    python experiments/model5_finetune.py            # downloads the photos and ImageNet weights

98.6 % (five seeds, 98.5 to 98.6; weights restored from 8 bits) of 10,831 or more photos of TFDS
that look like none of the post's, where model 4 reaches 95 to 96 % of the validation photos. 2
minutes on an H100, ten on two cores of an EPYC (Zen 5); with --image-size 160 half of that, and a
point less. More: docs/beyond.md.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flax import nnx

import catdog_jax as cd
from catdog_jax.cli import script
from catdog_jax.reports import plots
from catdog_jax.training.augment import random_crop, random_mirror
from catdog_jax.training.losses import cross_entropy, smoothed
from catdog_jax.training.optimizers import make_optimizer


def show(records: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Print each epoch as it ends."""
    for record in records:
        print(record)
        yield vars(record)


def main(
    data: str = "cats_and_dogs_filtered",
    weights: str = "imagenet",
    image_size: int = 224,
    head_epochs: int = 10,
    epochs: int = 20,
    seed: int = 0,
) -> None:
    """Model 5: fine-tuned MobileNetV2."""
    cd.use_cpu_cores()
    splits = cd.load_data(data, image_size)
    photos = splits.train, splits.validation

    classes = len(splits.class_names)
    model = cd.create_model("model5", num_classes=classes, rngs=nnx.Rngs(seed))
    cd.load_keras_weights(model, weights, image_size=image_size)
    options = {"seed": seed, "loss": smoothed(cross_entropy, 0.1, classes)}

    # The head alone: nothing changes the photos' features, so they are computed once.
    head = nnx.PathContains("head")
    history = list(show(cd.fit(model, *photos, epochs=head_epochs, trainable=head, **options)))

    # Then all weights, at a rate that falls to zero, on mirrored and cropped photos.
    def optimizer(steps: int) -> Any:
        return make_optimizer(
            "adamw",
            learning_rate=1e-4,
            steps=steps,
            schedule="cosine",
            warmup_steps=steps // (epochs - head_epochs),  # an epoch
            weight_decay=0.01,
        )

    options |= {"optimizer": optimizer, "augment": [random_mirror, random_crop(0.5)], "ema": 0.99}
    history += show(cd.fit(model, *photos, start=head_epochs, epochs=epochs, **options))
    plots.plot_history(
        Path("runs/model5/history.png"), history, "model 5", fine_tuning_after=head_epochs
    )
    print(f"test, last epoch: {cd.evaluate(model, splits.test, mirror=True)}")


if __name__ == "__main__":
    script(main)
