"""What runs are called: by their model and the settings that set them apart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import named
from .experiment import PATHS, Experiment
from .recipes import recipe

_LONGEST_NAME = 100
_SETTINGS = [field.name for field in fields(Experiment) if field.name not in ("model", "seed")]


def changed(experiment: Experiment) -> list[str]:
    """The settings, but for the seed, whose values are not those of the model's recipe."""
    usual = recipe(experiment.model)
    return [name for name in _SETTINGS if getattr(experiment, name) != getattr(usual, name)]


def differing(experiments: Sequence[Experiment]) -> list[str]:
    """The settings, but for model and seed, that set experiments apart.

    A model's name stands for its recipe: between models, what only their recipes differ in is left
    out. So are weights where all models that have some use the same.
    """
    somewhere = {name for one in experiments for name in changed(one)}

    def differs(name: str) -> bool:
        of_models = {(one.model, getattr(one, name)) for one in experiments}
        within_a_model = len(of_models) > len({one.model for one in experiments})
        values = {value for _, value in of_models}
        if name == "weights":
            values.discard("none")
        return within_a_model or (name in somewhere and len(values) > 1)

    return [name for name in _SETTINGS if differs(name)]


def folder_name(experiment: Experiment, settings: Iterable[str]) -> str:
    """`model3-epochs5`: the model, and some of its settings."""
    parts = [named.short(experiment.model).replace(".py:", "-").replace(":", "-")]
    for name in settings:
        value = getattr(experiment, name)
        between = "-" if isinstance(value, str | tuple) else ""
        parts.append(f"{name.replace('_', '-')}{between}{_short(value)}")
    name = re.sub(r"[^\w.=+-]+", "_", "-".join(parts), flags=re.ASCII)[:_LONGEST_NAME]
    return name.strip("._-")


def default_folder(experiment: Experiment) -> Path:
    """`runs/model3-epochs5-seed1`: the model, the differences from its recipe, and the seed."""
    return Path("runs") / f"{folder_name(experiment, changed(experiment))}-seed{experiment.seed}"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_short, value))
    if isinstance(value, str):
        return Path(value.rpartition(":")[2]).name
    return f"{value}"


def in_words(experiment: Experiment, name: str) -> str:
    """The value of a setting for people: files without their folders."""
    value = getattr(experiment, name)
    if value in (None, ()):
        return "none"
    if isinstance(value, tuple):
        return " ".join(named.short(str(one)) for one in value)
    if name in PATHS:
        return Path(value).name
    if isinstance(value, float):
        return f"{value:g}"
    return named.short(value) if isinstance(value, str) else f"{value}"
