"""Cats and dogs in JAX and Flax: four models from a plain CNN to transfer learning.

    import catdog_jax as cd
    from flax import nnx

    splits = cd.load_data("cats_and_dogs_filtered")
    model = cd.create_model("model3", rngs=nnx.Rngs(0))
    for record in cd.fit(model, splits.train.shuffled(seed=0), splits.validation.batches()):
        print(record.epoch, record.val_accuracy)

The names below are imported at first use, so that `import catdog_jax` is light and needs neither
TensorFlow nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import load_data as load_data
    from .errors import InputError as InputError
    from .errors import RunError as RunError
    from .evaluate import evaluate as evaluate
    from .models import create_model as create_model
    from .models import load_keras_weights as load_keras_weights
    from .recipes import RECIPES as RECIPES
    from .recipes import Experiment as Experiment
    from .train import fit as fit

_HOME = {
    "Experiment": "recipes",
    "InputError": "errors",
    "RECIPES": "recipes",
    "RunError": "errors",
    "create_model": "models",
    "evaluate": "evaluate",
    "fit": "train",
    "load_data": "data",
    "load_keras_weights": "models",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
