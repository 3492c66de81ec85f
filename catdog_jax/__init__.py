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
    from .data.load import load_data
    from .errors import InputError, RunError
    from .models.create import create_model, load_keras_weights
    from .runs.recipes import RECIPES, Experiment
    from .training.loop import fit
    from .training.mesh import use_cpu_cores
    from .training.metrics import evaluate

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
    "RECIPES": "runs.recipes",
    "Experiment": "runs.recipes",
    "InputError": "errors",
    "RunError": "errors",
    "create_model": "models.create",
    "evaluate": "training.metrics",
    "fit": "training.loop",
    "load_data": "data.load",
    "load_keras_weights": "models.keras_weights",
    "use_cpu_cores": "training.mesh",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
