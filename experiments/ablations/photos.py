"""The ablation's photos as one file of WebP pictures, for a machine without TensorFlow and TFDS."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import catdog_jax as cd
from catdog_jax.data.copies import without_copies
from catdog_jax.data.load import unused_photos
from catdog_jax.errors import InputError, say
from catdog_jax.files import make_folder, written_whole

_QUALITY = {"train": 95, "validation": 90, "unseen": 90}  # of WebP


def pack(
    data: str = "cats_and_dogs_filtered",
    unseen: str = "cats_vs_dogs",
    unseen_dir: str | None = None,
    image_size: int = 128,
    megabytes: float = 54,
    out: Path = Path("runs/ablation.npz"),
) -> None:
    """Write the photos to one file; `unseen_dir` is the folder of TFDS's prepared data.

    All of `data`, and as many unseen ones as fit into so many megabytes.
    """
    own, other = cd.load_data(data, image_size), cd.load_data(unseen, image_size, unseen_dir)
    posts = [part for part in (own.train, own.validation, own.test) if len(part)]
    parts = [other.train, other.validation, other.test, unused_photos(other)]
    kept = [without_copies(part, posts)[0] for part in parts if len(part)]
    pool = [(part, row) for part in kept for row in range(len(part))]
    order = np.random.default_rng(0).permutation(len(pool))
    chosen = {
        name: [(part, row) for row in range(len(part))]
        for name, part in (("train", own.train), ("validation", own.validation))
    }
    chosen["unseen"] = [pool[index] for index in order]
    arrays: dict[str, Any] = {"class_names": np.array(own.class_names)}
    room = megabytes * 1e6
    for name, photos in chosen.items():
        files, labels, errors = [], [], []
        for part, row in photos:
            image = part.images[row]
            file = io.BytesIO()
            Image.fromarray(image).save(file, "WEBP", quality=_QUALITY[name], method=6)
            room -= file.tell() + 12  # and where it ends, and its label
            if room < 0:
                break
            files.append(np.frombuffer(file.getvalue(), np.uint8))
            labels.append(part.labels[row])
            errors.append(np.abs(_decoded(files[-1]).astype(int) - image).mean())
        if len(files) < (1 if name == "unseen" else len(photos)):
            raise InputError(f"{megabytes:g} megabytes are too few for the {name} photos")
        arrays[name] = np.concatenate(files)
        arrays[f"{name}_ends"] = np.cumsum([len(file) for file in files])
        arrays[f"{name}_labels"] = np.array(labels, np.int32)
        size, error = arrays[name].size / 1e6, np.mean(errors)
        say(f"{name}: {len(files)} of {len(photos)} photos, {size:.1f} MB, pixels ± {error:.1f}")
    make_folder(out.parent)
    with written_whole(out, "wb") as file:
        np.savez(file, **arrays)


def _decoded(file: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB"))


def unpacked(path: Path) -> dict[str, cd.Split]:
    """The parts `train`, `validation` and `unseen`."""
    found = {}
    with np.load(path) as arrays:
        for name in _QUALITY:
            files = np.split(arrays[name], arrays[f"{name}_ends"][:-1])
            images, names = np.stack([*map(_decoded, files)]), map(str, range(len(files)))
            classes = tuple(arrays["class_names"].tolist())
            found[name] = cd.Split(images, arrays[f"{name}_labels"], classes, tuple(names))
    return found
