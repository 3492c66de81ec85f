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
    from .data import load_data
    from .errors import InputError, RunError
    from .evaluate import evaluate
    from .models import create_model, load_keras_weights
    from .parallel import use_cpu_cores
    from .recipes import RECIPES, Experiment
    from .train import fit

__all__ = [
    "RECIPES",
    "Experiment",
    "InputError",
    "RunError",
    "create_model",
    "evaluate",
    "fit",
    "load_data",
    "load_keras_weights",
    "use_cpu_cores",
]

_MODULES = {
    "RECIPES": "recipes",
    "Experiment": "recipes",
    "InputError": "errors",
    "RunError": "errors",
    "create_model": "models",
    "evaluate": "evaluate",
    "fit": "train",
    "load_data": "data",
    "load_keras_weights": "models",
    "use_cpu_cores": "parallel",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
