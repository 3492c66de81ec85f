"""The classifier that comes with the package: write its weights, measure what its card says.

    catdog-jax train …                    # the two commands of catdog_jax/models/ready_made.md
    python experiments/ready_made.py --run runs/ready_made --write  # replaces the package's
    python experiments/ready_made.py --others pictures/             # only measures

Prints the tables of catdog_jax/models/ready_made.md: the held-back photos that look like none of
those it was trained or validated on, the same made darker or smaller, and pictures of neither.
"""

import json
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np

import catdog_jax as cd
from catdog_jax.cli import script
from catdog_jax.data.copies import without_copies
from catdog_jax.data.listing import list_photos
from catdog_jax.data.photo import decode_file
from catdog_jax.models.ready_made import WEIGHTS, facts, ready_made, save_weights
from catdog_jax.reports.tables import percent, table_line
from catdog_jax.training.evaluation import predict_logits
from catdog_jax.training.metrics import wilson_interval

SIZES = (12000, 1000, 5000)
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, np.inf)


def main(
    run: Path | None = None,
    data: str = "cats_vs_dogs",
    data_dir: str | None = None,
    sizes: tuple[int, int, int] = SIZES,
    image_size: int | None = None,
    others: Path | None = None,
    write: bool = False,
) -> None:
    """Measure the ready-made classifier; with `run` replace its weights first.

    `image_size` is what photos are resized to, by default as it is used; `write` the facts.
    """
    cd.use_cpu_cores()
    if run is not None:
        save_weights(cd.load_run(run, checkpoint="last").model, WEIGHTS)
    model = ready_made()
    size = image_size or int(facts()["image_size"])
    splits = cd.load_data(data, size, data_dir, sizes=sizes)
    photos, copies = without_copies(splits.test, [splits.train, splits.validation])
    print(f"{len(photos)} photos; {len(copies)} left out: they look like ones it was trained on\n")

    def probabilities(images: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.softmax(predict_logits(model, images, mirror=True)))

    images, labels = np.asarray(photos.images), photos.labels
    shares = probabilities(images)
    right = shares.argmax(axis=1) == labels
    validation, _ = without_copies(splits.validation, [splits.train])
    surest = probabilities(np.asarray(validation.images)).max(axis=1)
    found = {
        "class_names": list(facts()["class_names"]),
        "image_size": size,
        "accuracy": float(right.mean()),
        "interval": wilson_interval(int(right.sum()), len(right)),
        "photos": len(right),
        "sure_above": float(np.quantile(surest, 0.1)),
    }
    print(json.dumps(found), end="\n\n")
    if write:
        WEIGHTS.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    sure = shares.max(axis=1) >= found["sure_above"]
    darkness = images.mean(axis=(1, 2, 3))
    darkest = darkness <= np.quantile(darkness, 0.1)
    changed = {"at a third of the brightness": images // 3, "shrunk to 32 pixels": small(images)}
    rows = {"all": right}
    rows |= {name: right[labels == label] for label, name in enumerate(photos.class_names)}
    rows["those of which it is sure"] = right[sure]
    rows["the darkest tenth"] = right[darkest]
    for name, others_like_them in changed.items():
        rows[name] = probabilities(others_like_them).argmax(axis=1) == labels
    print("| photos | number | accuracy |\n|---|---|---|")
    for name, hits in rows.items():
        print(table_line([name, str(len(hits)), interval(hits)]))

    confidence = shares.max(axis=1)
    elsewhere = np.empty(0)
    if others is not None:
        pictures = np.stack([decode_file(path, size) for path in list_photos(others)])
        elsewhere = probabilities(pictures).max(axis=1)
    print("\n| confidence | photos | accuracy | pictures of neither |\n|---|---|---|---|")
    for low, high in pairwise(BINS):
        inside, outside = ((c >= low) & (c < high) for c in (confidence, elsewhere))
        cells = [str(inside.sum()), interval(right[inside]), str(outside.sum())]
        print(table_line([f"{low:g} to {min(1.0, high):g}", *cells]))


def interval(hits: np.ndarray) -> str:
    """Their share with its 95 % interval."""
    if not len(hits):
        return "–"
    return percent(float(hits.mean()), wilson_interval(int(hits.sum()), len(hits)))


def small(images: np.ndarray, size: int = 32) -> np.ndarray:
    """Images as if enlarged from `size` pixels."""
    shape = (len(images), size, size, 3)
    shrunk = jax.image.resize(images.astype(np.float32), shape, "linear")
    return np.asarray(jax.image.resize(shrunk, images.shape, "linear").round().astype(np.uint8))


if __name__ == "__main__":
    script(main)
