"""The options of the other commands, for tyro."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..runs.experiment import Experiment
from .settings import MEANINGS, Flag, RunFolder, help_of_settings


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
    epochs: int = 16  # Epochs per model.
    image_size: int = 48  # Height and width of the drawings.
    sizes: tuple[int, int, int] = (1000, 200, 100)  # Drawings to train, validate and test on.
    out: Path = Path("runs/demo")  # Folder of the runs.


@help_of_settings
@dataclass(frozen=True)
class Data:
    """Prepare a data set, count its classes and draw some of its photos.

    Example: catdog-jax data my_photos/ --out runs/my_photos
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE", help=MEANINGS["data"])]]
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
    seen_to: Path | None = None  # CSV file that lists those that --unseen leaves out.
    checkpoint: Literal["best", "last"] = "best"  # Of the best validation accuracy, or the last.
    predictions: Path | None = None  # CSV file for the prediction on each photo.


@dataclass(frozen=True)
class Predict:
    """Classify photos, by the classifier that comes with the package or by a run's model.

    Example: catdog-jax predict my_photos/ --json

    The answer is one of the model's classes, or "not sure", whatever a photo shows. The exit code
    is 1 if one could not be read.
    """

    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO...", help_behavior_hint="")]]
    """Photos, folders of photos, patterns such as 'photos/*.jpg', or - for standard input."""
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
