"""The options of commands that train, for tyro.

The settings of a run come from `Experiment`. This module imports little, so that `--help` is fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.conf import Fixed, Positional, arg

from ..errors import InputError
from ..runs.experiment import Experiment, range_of
from ..runs.recipes import OF_PARTS, POST, recipe

Kind = TypeVar("Kind", bound=type)
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
RunFolder = Positional[Annotated[Path, arg(metavar="RUN")]]

_HINTS = get_type_hints(Experiment, include_extras=True)
MEANINGS = {
    param.arg_name: " ".join((param.description or "").split())
    for param in docstring_parser.parse_from_object(Experiment).params
}


def help_of_settings(kind: Kind) -> Kind:
    """A class decorator: options named like a setting of `Experiment` get its help and range."""
    own = get_type_hints(kind, include_extras=True)
    for name in MEANINGS.keys() & own.keys():
        limits = range_of(_HINTS[name])
        text = f"{MEANINGS[name]} {limits.capitalize()}." if limits else MEANINGS[name]
        kind.__annotations__[name] = Annotated[own[name], arg(help=text)]
    return kind


@help_of_settings
@dataclass(frozen=True)
class Settings(Experiment):
    """The settings of an experiment as options, not validated here: `Experiment` does that."""

    mirror_test: tyro.conf.FlagConversionOff[bool] = False
    stop_when_dead: tyro.conf.FlagConversionOff[bool] = True
    tensorboard: Flag = False
    scale_learning_rate: Flag = False
    strict: Flag = False  # Stop if a photo cannot be read or is passed over.
    changes: Fixed[Mapping[str, Any]] = field(default_factory=dict)
    """The settings given on the command line, by name."""

    def __post_init__(self) -> None:
        """Check nothing."""

    def adapt(self, recipe: Experiment) -> Experiment:
        """`recipe` with those of the changes that apply to it."""
        skip = {name for name, value in OF_PARTS.items() if getattr(recipe, name) == value}
        return replace(recipe, **{k: v for k, v in self.changes.items() if k not in skip})


Model = Positional[
    Annotated[str, arg(metavar="MODEL", help=MEANINGS["model"], help_behavior_hint="")]
]


@dataclass(frozen=True)
class Train(Settings):
    """Train a model, or resume an interrupted run.

    Example: catdog-jax train model3 --data my_photos/ --epochs 5

    The defaults shown are those of the MODEL given before --help. With --data and no MODEL: model5
    if pretrained weights can be had, else model6 (on a GPU or TPU model6_deep), with epochs that
    suit the number of photos.
    """

    model: Model = ""
    seeds: int | None = None
    """Train as many runs, with seeds from --seed on, into a folder each, with a summary."""
    out: Path | None = None  # The run folder; None: in runs/, named after what the run is.
    resume: Path | None = None
    """Run folder to resume; --epochs lengthens the run, --data says where its photos are now."""
    finish: Flag = False  # With --resume: do not train further, evaluate and report as it is.
    coordinator: str | None = None
    """HOST:PORT of process 0, to train in several processes (found by itself in SLURM, Open MPI and
    on Cloud TPUs); each is started with the same command but for --process."""
    processes: int | None = None  # How many processes there are.
    process: int | None = None  # Which of them this is, from 0.
    predictions: Path | None = None  # CSV file for the predictions on the test photos.


@dataclass(frozen=True)
class Reproduce(Settings):
    """Train the post's models by its recipes and compare with the published numbers.

    Example: catdog-jax reproduce --seeds 3

    Settings apply to all recipes; --weights, --trainable, --model-options and --head-epochs only
    to recipes that set them. The defaults shown are model3's.
    """

    model: Fixed[str] = ""
    seed: Fixed[int] = 0
    models: tuple[str, ...] = POST  # Which recipes.
    seeds: int = 1  # How many seeds, from 0.
    out: Path = Path("runs/reproduce")  # Folder of the series; finished runs are not repeated.


def _is_one_value(hint: Any) -> bool:
    return get_origin(hint) is not tuple and all(map(_is_one_value, get_args(hint)))


SWEPT = [n for n, hint in _HINTS.items() if _is_one_value(hint) and n not in ("model", "seed")]


def _of_several_values(kind: Kind) -> Kind:
    """A class decorator, before `dataclass`: settings that are one value take several."""
    for name in SWEPT:
        kind.__annotations__[name] = tuple[_HINTS[name], ...]
        setattr(kind, name, (getattr(Experiment, name),))
    return kind


@help_of_settings
@dataclass(frozen=True)
@_of_several_values
class Sweep(Settings):
    """Train with all combinations of several values of some settings, and compare the runs.

    Example: catdog-jax sweep model3 --learning-rate 3e-4 1e-3 3e-3 --seeds 2

    Settings that are lists themselves (--augment, --sizes, --model-options, --class-weights,
    --callbacks) are the same in all runs. The defaults shown are those of the first MODEL.
    """

    model: Fixed[str] = ""
    seed: Fixed[int] = 0
    models: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="MODEL...", help="Names, or your own FILE.py:NAME.", help_behavior_hint=""),
        ]
    ] = ()
    seeds: int = 1  # How many seeds for each combination, from 0.
    out: Path = Path("runs/sweep")
    """Folder of the series; runs of an earlier sweep there are kept and compared, too."""

    def experiments(self) -> list[Experiment]:
        """All combinations of the models and values given.

        Raises:
            InputError: a setting has no value or one that is out of range.
        """
        values = {n: v if n in SWEPT else (v,) for n, v in self.changes.items()}
        for name, several in values.items():
            if not several:
                raise InputError(f"--{name.replace('_', '-')} has no value; give one or more")
        return [
            replace(recipe(model), **dict(zip(values, chosen, strict=True)))
            for model in self.models
            for chosen in product(*values.values())
        ]


@dataclass(frozen=True)
class LrFind(Settings):
    """Find a learning rate: raise it from step to step and see how the loss falls.

    Example: catdog-jax lr-find model3 --data my_photos/

    The suggestion is the rate at which the loss has done nine tenths of its fall: a start for a
    sweep. With --head-epochs the training after them is tried, on a head that is still untrained.
    """

    model: Model = ""
    least: float = 1e-6  # The learning rate of the first step.
    most: float = 1.0  # That of the last step, if the loss has not diverged before.
    steps: int = 100  # How many steps, a batch each.
    out: Path = Path("runs/lr_find")  # Folder of the figure.
    epochs: Fixed[int] = 1
    learning_rate: Fixed[float] = 1.0
    head_learning_rate: Fixed[float] = 1.0
    schedule: Fixed[Literal["constant", "cosine"]] = "constant"
    warmup: Fixed[float] = 0.0
    patience: Fixed[int | None] = None
    callbacks: Fixed[tuple[str, ...]] = ()
