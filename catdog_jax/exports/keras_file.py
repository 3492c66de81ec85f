"""Write Keras and TFLite files, in a process of its own: there Keras runs on TensorFlow.

The calling process may use Keras on another backend, and TensorFlow never frees its memory. The two
processes share a folder, in which arrays are passed.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..data import own_process
from ..data.quiet_tensorflow import tensorflow
from ..runs.results import Run, load_run
from .package import Probabilities

PHOTOS, TEST, SAMPLES = "photos.npy", "test.npy", "samples.npy"
"""Photos to compare on; the test split; training photos, for the ranges of int8."""


def written(run: Run, to: str, work: Path) -> list[str]:
    """Have files written in another process; returns their names.

    Args:
        run: of a convertible model.
        to: keras or tflite; TFLite in float32, and with samples also in int8.
        work: the folder for the files; has `photos.npy`, and may have `test.npy` and `samples.npy`.

    Raises:
        InputError: the other process failed.
    """
    asked = {
        "folder": str(run.folder.absolute()),
        "checkpoint": run.checkpoint,
        "to": to,
        "work": str(work.absolute()),
    }
    return own_process.call(__name__, "write_in_this_process", asked, reads=str(run.folder))


def predictions(work: Path, name: str, photos: str = PHOTOS) -> Probabilities:
    """What a file that was written there predicts for some of the photos."""
    return np.load(work / f"{name}.{photos}")


def write_in_this_process(folder: str, checkpoint: Any, to: str, work: str) -> list[str]:
    """`written`, in the process that writes."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    jax.config.update("jax_platforms", "cpu")  # the calling process has the GPU's memory
    tensorflow()
    make = write_keras if to == "keras" else write_tflite
    return make(load_run(folder, checkpoint=checkpoint), Path(work))


def write_keras(run: Run, work: Path) -> list[str]:
    """Write `model.keras` and what it predicts once it is loaded again."""
    import keras

    from .keras_network import network_of, whole_model

    network, path = network_of(run.model, run.image_size), work / "model.keras"
    model = whole_model(network, len(run.class_names), mirror=run.experiment.mirror_test)
    model.save(path)
    again: Any = keras.saving.load_model(path)
    for photos, images in _photos(work).items():
        _keep(work, path.name, photos, again.predict(images, batch_size=32, verbose=0))
    return [path.name]


def write_tflite(run: Run, work: Path) -> list[str]:
    """Write `model.tflite`, with samples also `model.int8.tflite`, and what they predict."""
    import keras

    from .keras_network import network_of, probabilities_of
    from .tflite import converted, predict

    network, mirror = network_of(run.model, run.image_size), run.experiment.mirror_test
    pixels = keras.Input(network.input_shape[1:], name="pixels")
    output = probabilities_of(network, pixels, len(run.class_names), mirror=mirror)
    saved = work / "saved_model"
    keras.Model(pixels, output).export(saved, verbose=False)
    samples: dict[str, Any] = {"model.tflite": None}
    if (work / SAMPLES).exists():
        samples["model.int8.tflite"] = np.load(work / SAMPLES)
    for name, of_int8 in samples.items():
        (work / name).write_bytes(converted(saved, of_int8))
        for photos, images in _photos(work).items():
            _keep(work, name, photos, predict(work / name, images))
    return list(samples)


def _photos(work: Path) -> dict[str, np.ndarray]:
    return {name: np.load(work / name, "r") for name in (PHOTOS, TEST) if (work / name).exists()}


def _keep(work: Path, name: str, photos: str, probabilities: Any) -> None:
    np.save(work / f"{name}.{photos}", np.asarray(probabilities, np.float32))
