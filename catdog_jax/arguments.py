"""The options of each command, for tyro.

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

from .errors import InputError
from .runs.experiment import Experiment, range_of
from .runs.recipes import OF_PARTS, POST, recipe

Kind = TypeVar("Kind", bound=type)
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
RunFolder = Positional[Annotated[Path, arg(metavar="RUN")]]

_HINTS = get_type_hints(Experiment, include_extras=True)
_MEANINGS = {
    param.arg_name: " ".join((param.description or "").split())
    for param in docstring_parser.parse_from_object(Experiment).params
}


def help_of_settings(kind: Kind) -> Kind:
    """A class decorator: options named like a setting of `Experiment` get its help and range."""
    own = get_type_hints(kind, include_extras=True)
    for name in _MEANINGS.keys() & own.keys():
        limits = range_of(_HINTS[name])
        text = f"{_MEANINGS[name]} {limits.capitalize()}." if limits else _MEANINGS[name]
        kind.__annotations__[name] = Annotated[own[name], arg(help=text)]
    return kind


@help_of_settings
@dataclass(frozen=True)
class Settings(Experiment):
    """The settings of an experiment as options, not validated here: `Experiment` does that."""

    mirror_test: tyro.conf.FlagConversionOff[bool] = False
    stop_when_dead: tyro.conf.FlagConversionOff[bool] = True
    tensorboard: Flag = False
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
    Annotated[str, arg(metavar="MODEL", help=_MEANINGS["model"], help_behavior_hint="")]
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


@dataclass(frozen=True)
class Compare:
    """Compare runs in one table, whose columns are the settings that differ, and one picture.

    Example: catdog-jax compare runs/model3-seed0 runs/sweep
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="")]] = ()
    """Folders of runs, finished or not, or folders that hold several, as those of a sweep."""
    out: Path = Path("runs/compare")  # Folder of compare.md and compare.png.


@dataclass(frozen=True)
class Report:
    """Make the page of a run again, or one that compares several: report.html.

    Example: catdog-jax report runs/model3-seed0 runs/model2-seed0
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="")]] = ()
    """Folder of a run, or of a series; several are compared."""
    out: Path | None = None
    """The page; None: report.html in the folder of the run or series, or in runs/compare."""
    data: Path | None = None  # Where the photos of the run are now, if they have moved.
    data_dir: str | None = None  # Folder of TFDS's prepared data, if it has moved.


@dataclass(frozen=True)
class Demo:
    """See it work in two minutes, offline: train on drawings, classify photos.

    Example: catdog-jax demo --photos my_cat.jpg
    """

    photos: tuple[str, ...] = ()
    """Photos for the classifier that comes with the package: files, folders or patterns."""

    weights: str | None = None
    """A Keras MobileNetV2 file; with it (or once downloaded) model 4 is included."""
    epochs: int = 10  # Epochs per model.
    image_size: int = 64  # Height and width of the drawings.
    sizes: tuple[int, int, int] = (1000, 200, 100)  # Drawings to train, validate and test on.
    out: Path = Path("runs/demo")  # Folder of the runs.


@help_of_settings
@dataclass(frozen=True)
class Data:
    """Prepare a data set, count its classes and draw some of its photos.

    Example: catdog-jax data my_photos/ --out runs/my_photos
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE", help=_MEANINGS["data"])]]
    data_dir: str | None = Experiment.data_dir
    image_size: int = Experiment.image_size
    sizes: tuple[int, int, int] | None = Experiment.sizes
    split_seed: int = Experiment.split_seed
    out: Path = Path("runs/data")  # Folder of the figures.
    strict: Flag = False  # Stop if a photo cannot be read or is passed over.


@dataclass(frozen=True)
class Evaluate:
    """Measure the accuracy of a run's model.

    Example: catdog-jax evaluate runs/model3-seed0 --data new_photos/ --split all
    """

    run: RunFolder  # A folder that train made.
    data: str | None = None  # Another source than the run's own.
    data_dir: str | None = None  # Folder of TFDS's prepared data.
    split: Literal["train", "validation", "test", "all"] = "test"  # Which part of the photos.
    unseen: Flag = False
    """Leave out photos that look like one that the run was trained or validated on."""
    checkpoint: Literal["best", "last"] = "best"  # Of the best validation accuracy, or the last.
    predictions: Path | None = None  # CSV file for the prediction on each photo.


@dataclass(frozen=True)
class Predict:
    """Classify photos, by the classifier that comes with the package or by a run's model.

    Example: catdog-jax predict my_photos/ --json
    """

    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO...", help_behavior_hint="")]]
    """Photos, folders of photos, patterns as 'photos/*.jpg', or - for a photo on standard input."""
    run: Path | None = None  # Use the model of this run, a folder that train made.
    json: Flag = False  # Print a line of JSON per photo.
    csv: Flag = False  # Print a table of comma-separated values.


@dataclass(frozen=True)
class Export:
    """Write a run's model as a Keras, TFLite or StableHLO file that takes pixels.

    Example: catdog-jax export runs/model3-seed0 --to keras
    """

    run: RunFolder  # A folder that train made.
    to: Literal["keras", "tflite", "stablehlo"]
    """keras and tflite (float32, and int8) for models 1 to 6; stablehlo, a program for JAX on CPU,
    GPU or TPU, for any model."""
    out: Path | None = None  # The file; None: in the run's folder.
    photos: tuple[Path, ...] = ()
    """Photos, or folders of photos, to compare the file with the run on; by default the run's test
    photos, or drawings where they are absent."""
    checkpoint: Literal["best", "last"] = "best"  # Of the best validation accuracy, or the last.


@dataclass(frozen=True)
class Serve:
    """Open a page to drop photos on, answered by the package's classifier or a run's model.

    Example: catdog-jax serve --run runs/model4-seed0 --port 8001
    """

    run: Path | None = None  # Use the model of this run, a folder that train made.
    port: int = 8000  # Port to listen on; 0 is any free one.
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines use the page."""
    no_browser: Flag = False  # Do not open the page in a browser.
