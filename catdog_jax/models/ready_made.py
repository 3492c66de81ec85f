"""The classifier that comes with the package; its model card is `ready_made.md`."""

import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import InputError
from .create import create_model
from .layers import weights_of

WEIGHTS = Path(__file__).with_name("ready_made.npz")
IMAGE_SIZE = 128
"""Height and width, in pixels, of the images it was trained on."""
CLASS_NAMES = ("cat", "dog")


def ready_made() -> nnx.Module:
    """`model6_deep`, trained on 12,000 photos of cats (class 0) and dogs (class 1).

    It takes images of 128×128 pixels, 0…255, and gives two logits.
    """
    model = create_model("model6_deep", image_size=IMAGE_SIZE, rngs=nnx.Rngs(0))
    load_weights(model, WEIGHTS)
    return model


def save_weights(model: nnx.Module, path: Path) -> None:
    """Write a model's parameters and batch statistics as float16 to an `.npz` file."""
    arrays = {"/".join(map(str, p)): np.float16(v[...]) for p, v in weights_of(model).items()}
    np.savez(path, allow_pickle=False, **arrays)


def load_weights(model: nnx.Module, path: Path) -> None:
    """Fill `model`, in place, with the weights of a file that `save_weights` wrote, as float32.

    Raises:
        InputError: the file is damaged, or of another model.
    """
    own = {"/".join(map(str, path)): variable for path, variable in weights_of(model).items()}
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            found = {name: jnp.asarray(arrays[name], jnp.float32) for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a file of weights ({error})") from error
    if {n: v.shape for n, v in found.items()} != {n: v[...].shape for n, v in own.items()}:
        raise InputError(f"{path} holds the weights of another model")
    for name, variable in own.items():
        variable[...] = found[name]
