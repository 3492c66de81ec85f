"""TFLite files from Keras's saved models, and their predictions."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from ..cores import usable_cores
from ..data.quiet_tensorflow import tensorflow
from .package import Probabilities


def converted(
    saved_model: Path, samples: Num[np.ndarray, "n height width 3"] | None = None
) -> bytes:
    """A TFLite model with float32 input and output.

    Args:
        saved_model: a folder that Keras's `model.export` wrote.
        samples: images to find the ranges of int8 by; None leaves all in float32.
    """
    lite = tensorflow().lite

    def one_by_one() -> Iterator[list[Any]]:
        for image in samples if samples is not None else ():
            yield [image[None].astype(np.float32)]

    converter = lite.TFLiteConverter.from_saved_model(str(saved_model))
    if samples is not None:
        converter.optimizations = [lite.Optimize.DEFAULT]
        converter.representative_dataset = one_by_one
        converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def predict(path: Path, images: Num[np.ndarray, "n height width 3"]) -> Probabilities:
    """The probabilities that a TFLite file gives."""
    with warnings.catch_warnings(action="ignore"):  # TensorFlow announces another package for it
        interpreter = tensorflow().lite.Interpreter(str(path), num_threads=usable_cores())
    interpreter.allocate_tensors()
    (pixels,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    probabilities = []
    for image in images:
        interpreter.set_tensor(pixels["index"], image[None].astype(np.float32))
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(output["index"])[0])
    return np.stack(probabilities)
