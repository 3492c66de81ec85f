"""A run's model as StableHLO: one program for CPU, CUDA and TPU that needs only JAX to run.

The file is a zip, whose `model.bin` is what `jax.export` serializes, weights included.
"""

import logging
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jaxtyping import Array, Float, Num, UInt8

from ..errors import RunError, first_line
from ..runs.results import Run
from ..training.evaluation import logits_of
from ..training.state import in_mode
from .package import Probabilities

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM = "model.bin"

_LOGGER = logging.getLogger(__name__)


def write(run: Run, path: Path) -> dict[str, Any]:
    """Write the file; returns what is to be said about it in `about.json`.

    Raises:
        RunError: JAX cannot export the model.
    """
    program = _exported(run)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PROGRAM, bytes(program.serialize()))
    batch, height, width, _ = program.in_avals[0].shape
    return {
        "input": f"uint8 pixels 0…255, RGB [{batch}, {height}, {width}, 3]",
        "one_at_a_time": batch == 1,
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }


def predict(path: Path, images: UInt8[np.ndarray, "n height width 3"]) -> Probabilities:
    """The probabilities that the file gives."""
    with zipfile.ZipFile(path) as archive:
        program = export.deserialize(bytearray(archive.read(PROGRAM)))
    at_once = 1 if program.in_avals[0].shape[0] == 1 else 16
    call = jax.jit(program.call)
    parts = [call(images[start : start + at_once]) for start in range(0, len(images), at_once)]
    return np.concatenate([np.asarray(part) for part in parts])


def _exported(run: Run) -> export.Exported:
    """The program: for any number of images, or for one at a time if the model needs a number."""
    program = export.export(jax.jit(_answer(run)), platforms=PLATFORMS)
    batch, height, width = export.symbolic_shape("batch, height, width")
    try:
        return program(jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8))
    except Exception as error:  # the model may be anyone's code
        _LOGGER.warning(
            "the file takes one image at a time, since this model needs to know how many there "
            "are (%s)",
            first_line(error),
        )
    try:
        return program(jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8))
    except Exception as error:
        raise RunError(f"JAX cannot export this model ({first_line(error)})") from error


def _answer(run: Run) -> Any:
    """The function from pixels to probabilities, with the run's weights in it."""
    graphdef, state = nnx.split(in_mode(run.model, training=False))
    size, classes = run.image_size, len(run.class_names)

    def answer(pixels: Num[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        columns = _resized(pixels.astype(jnp.float32), size, axis=2)
        images = jnp.round(_resized(columns, size, axis=1))  # decoded photos are whole numbers
        with jax.default_matmul_precision("highest"):  # the same answer on every platform
            logits = logits_of(graphdef, "float32", run.experiment.mirror_test, state, images)
        if logits.shape[1] == 1:
            logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)
        return jax.nn.softmax(logits[:, :classes], axis=1)

    return answer


def _resized(
    images: Float[Array, "batch height width 3"], size: int, axis: int
) -> Float[Array, "batch _height _width 3"]:
    """Interpolate one axis, linearly, without antialiasing, as `tf.image.resize` does.

    `jax.image.resize` rounds differently: where the result is half a grey level, it gave another.
    """
    count = images.shape[axis]
    at = (jnp.arange(size) + 0.5) * (jnp.asarray(count, jnp.float32) / size) - 0.5
    below = jnp.floor(at)
    first = jnp.maximum(below, 0).astype(jnp.int32)
    second = jnp.minimum(jnp.ceil(at).astype(jnp.int32), count - 1)
    share = jnp.expand_dims(at - below, [other for other in range(4) if other != axis])
    left, right = jnp.take(images, first, axis), jnp.take(images, second, axis)
    return left + (right - left) * share
