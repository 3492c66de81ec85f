"""Cats and dogs in JAX and Flax: from a plain CNN to transfer learning.

    import catdog_jax as cd
    from flax import nnx

    splits = cd.load_data("cats_and_dogs_filtered")
    model = cd.create_model("model3", rngs=nnx.Rngs(0))
    for record in cd.fit(model, splits.train, splits.validation):
        print(record.epoch, record.val_accuracy)

Each name below is imported when it is first used, so that `import catdog_jax` is light and needs
neither TensorFlow nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.arrays import splits_from_arrays
    from .data.load import load_data
    from .data.splits import Split, Splits
    from .errors import InputError, RunError
    from .exports.export import export
    from .models.create import create_model
    from .models.keras_weights import load_keras_weights
    from .models.keras_whole import load_keras_model
    from .runs.classifier import predict
    from .runs.experiment import Experiment
    from .runs.make_report import report
    from .runs.recipes import RECIPES
    from .runs.results import load_run
    from .runs.runner import run
    from .training.evaluation import evaluate
    from .training.explain import explain
    from .training.loop import fit
    from .training.mesh import use_cpu_cores

_NAMES = {
    "data.arrays": ["splits_from_arrays"],
    "data.load": ["load_data"],
    "data.splits": ["Split", "Splits"],
    "errors": ["InputError", "RunError"],
    "exports.export": ["export"],
    "models.create": ["create_model"],
    "models.keras_weights": ["load_keras_weights"],
    "runs.classifier": ["predict"],
    "models.keras_whole": ["load_keras_model"],
    "runs.experiment": ["Experiment"],
    "runs.make_report": ["report"],
    "runs.recipes": ["RECIPES"],
    "runs.results": ["load_run"],
    "runs.runner": ["run"],
    "training.loop": ["fit"],
    "training.mesh": ["use_cpu_cores"],
    "training.evaluation": ["evaluate"],
    "training.explain": ["explain"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "RECIPES",
    "Experiment",
    "InputError",
    "RunError",
    "Split",
    "Splits",
    "create_model",
    "evaluate",
    "explain",
    "export",
    "fit",
    "load_data",
    "load_keras_model",
    "load_keras_weights",
    "load_run",
    "predict",
    "report",
    "run",
    "splits_from_arrays",
    "use_cpu_cores",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
