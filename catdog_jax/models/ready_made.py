"""The classifier that comes with the package; its model card is `ready_made.md`."""

import json
import zipfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import InputError
from .building import built
from .create import MODELS
from .layers import weights_of

WEIGHTS = Path(__file__).with_name("ready_made.npz")
MODEL = "model6_deep"


@cache
def facts() -> dict[str, Any]:
    """What is known of it, as measured for its model card.

    `class_names`; `image_size`, to ask it at; `accuracy` with `interval`, on as many `photos`;
    `sure_above`, the confidence of all but the least sure tenth of the validation photos.
    """
    return json.loads(WEIGHTS.with_suffix(".json").read_text())


def ready_made() -> nnx.Module:
    """`model6_deep`, trained on 12,000 photos of cats (class 0) and dogs (class 1).

    It takes images of pixels 0…255, of any size but best of that in `facts`, and gives two logits.
    """
    create = partial(MODELS[MODEL], image_size=facts()["image_size"])
    model = built(lambda rngs: create(rngs=rngs), nnx.Rngs(0), replaced=nnx.Everything())
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
    if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in own.items()}:
        raise InputError(f"{path} holds the weights of another model")
    for name, variable in own.items():
        variable.set_value(found[name])
