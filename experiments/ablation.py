"""An ablation of model 6: each trick of its recipe left out or changed alone, over seeds.

    python experiments/ablation.py pack --data PATH/cats_and_dogs_filtered.zip  # a minute or two
    python experiments/ablation.py run --photos runs/ablation.npz               # on a GPU
    python experiments/ablation.py table

`pack` writes small WebP pictures to one file, which a machine without TensorFlow and TFDS can read:
the post's training and validation photos, and as many as fit of TFDS's that look like none of the
post's. `run` trains and asks the last epoch's weights about these unseen photos; each result is
kept at once, and results that are there are not computed again. All settings get their first seed,
then their second, so that a run stopped by `--minutes` still gives a table. `table` compares with
mirroring, as the recipe predicts; ablations/summary.py says what its 95 % intervals cover.
"""

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from ablations.photos import pack, unpacked
from ablations.summary import packed, table_of

import catdog_jax as cd
from catdog_jax.errors import InputError, guarded, say
from catdog_jax.files import make_folder, sha256, written_whole
from catdog_jax.runs.build import build_model, device, training_of
from catdog_jax.training.evaluation import predict_logits
from catdog_jax.training.mesh import keep_compiled_programs, use_cpu_cores

RECIPE = replace(cd.RECIPES["model6"], epochs=140)  # fewer than the recipe's, to have more runs
BASE = "the recipe"


def _augment_without(name: str) -> dict[str, Any]:
    return {"augment": tuple(one for one in RECIPE.augment if not one.startswith(name))}


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    BASE: {},
    "no mirroring in training": _augment_without("mirror"),
    "no crops": _augment_without("crop"),
    "no change of colours": _augment_without("colour"),
    "no mixup": _augment_without("mixup"),
    "no augmentation": {"augment": ()},
    "no label smoothing": {"label_smoothing": 0.0},
    "no dropout": {"model_options": ("dropout=0.0",)},
    "weight decay 0.05 instead of 1": {"weight_decay": 0.05},
    "no moving average of weights": {"ema": None},
    "constant rate instead of cosine": {"schedule": "constant"},
    "no warm-up": {"warmup": 0.0},
    "70 epochs instead of 140": {"epochs": 70},
}
"""What each changes in the recipe."""

_ASKED_AT_ONCE = 256
_photos = cache(unpacked)  # once in each process


def run(
    photos: Path = Path("runs/ablation.npz"),
    out: Path = Path("runs/ablation.json"),
    settings: tuple[str, ...] = tuple(SETTINGS),
    seeds: int = 3,
    epochs: int = RECIPE.epochs,
    jobs: int = 6,
    minutes: float = math.inf,
) -> None:
    """Train each setting with each seed, `jobs` at once, each in a process of its own.

    `epochs` are those of the recipe; a setting of half as many gets half of them.
    """
    deadline = time.time() + 60 * minutes
    if unknown := [name for name in settings if name not in SETTINGS]:
        raise InputError(f"no setting {unknown[0]!r}; choose from: {', '.join(SETTINGS)}")
    if not photos.is_file():
        raise InputError(f"no photos at {photos}: pack them first")
    found: dict[str, Any] = {"photos": sha256(photos), "epochs": epochs, "rows": []}
    if out.exists():
        before = json.loads(out.read_text("utf-8"))
        if any(before[name] != found[name] for name in ("photos", "epochs")):
            raise InputError(f"{out} is of other photos or epochs; choose another file")
        found = before
    done = {(row["setting"], row["seed"]) for row in found["rows"]}
    todo = [(name, seed) for seed in range(seeds) for name in settings if (name, seed) not in done]
    make_folder(out.parent)
    for row in _results([(photos, *which, epochs, deadline) for which in todo], jobs):
        found["rows"].append(row)
        with written_whole(out) as file:
            json.dump(found, file, indent=1)
        right = row.get("correct_mirrored", row.get("error"))
        say(f"{row['setting']}, seed {row['seed']}: {right} right, {row['seconds']:.0f} s")


def _results(todo: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[dict[str, Any]]:
    """A row for each that is done by its deadline."""
    if jobs == 1:
        use_cpu_cores()
        yield from filter(None, (_trained(*one) for one in todo))
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # they share the GPU
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_trained, *one) for one in todo]
        yield from filter(None, (future.result() for future in as_completed(futures)))


def _trained(
    photos: Path, setting: str, seed: int, epochs: int, deadline: float
) -> dict[str, Any] | None:
    if time.time() > deadline:
        return None
    keep_compiled_programs()  # seeds of a setting share theirs, also between processes
    begun, parts = time.time(), _photos(photos)
    train, size = parts["train"], parts["train"].images.shape[1]
    experiment = replace(RECIPE, image_size=size, seed=seed, **SETTINGS[setting])
    experiment = replace(experiment, epochs=max(1, experiment.epochs * epochs // RECIPE.epochs))
    classes, batch = len(train.class_names), experiment.batch_size
    model = build_model(experiment, classes)
    options = training_of(experiment, model, classes, len(train.batches(batch)))
    # `fit` validates each epoch, which nobody reads here: one batch.
    glance = parts["validation"].take(np.arange(min(batch, len(parts["validation"]))))
    row: dict[str, Any] = {"setting": setting, "seed": seed, "device": device(jax.device_count())}
    try:
        for _ in cd.fit(model, train, glance, **options):
            if time.time() > deadline:
                return None
    except cd.RunError as error:
        return {**row, "error": str(error), "seconds": time.time() - begun}
    hits, mirrored, validated = (
        predict_logits(model, parts[part], batch_size=_ASKED_AT_ONCE, mirror=mirror).argmax(axis=1)
        == parts[part].labels
        for part, mirror in (("unseen", False), ("unseen", True), ("validation", False))
    )
    row |= {"photos": len(hits), "correct": int(hits.sum()), "hits": packed(mirrored)}
    row |= {"correct_mirrored": int(mirrored.sum()), "val_accuracy": float(validated.mean())}
    return {**row, "seconds": time.time() - begun}


def table(results: Path = Path("runs/ablation.json")) -> None:
    """Print the results as a Markdown table."""
    rows = json.loads(results.read_text("utf-8"))["rows"]
    print(table_of(rows, tuple(SETTINGS)), end="\n\n")
    counts = {f"{row['photos']} unseen photos; {row['device']}" for row in rows if "hits" in row}
    say(", ".join(sorted(counts)))


if __name__ == "__main__":
    steps: dict[str, Any] = {"pack": pack, "run": run, "table": table}
    sys.exit(guarded(lambda: tyro.extras.subcommand_cli_from_dict(steps)))
