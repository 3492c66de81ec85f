"""The command line: `catdog-jax train model3 --data PATH` and its siblings."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from .data.decode import decode_file
from .data.load import Splits, list_photos, load_data
from .errors import InputError, RunError, first_line, printable, say
from .files import make_folder
from .models.keras_weights import cached_official_weights
from .reports.sections import draw_data
from .runs.build import load_splits
from .runs.messages import accuracy_line, describe
from .runs.recipes import RECIPES, Experiment
from .runs.reproduce import reproduce as reproduce_series
from .runs.run_folder import Run
from .runs.runner import evaluate_run, has_died, load_model, predict, run
from .runs.runner import resume as resume_run

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Options:
    """What can be changed of a recipe. None leaves the recipe's own value."""

    data: str | None = None
    """cats_vs_dogs (TFDS), cats_and_dogs_filtered (downloads the post's zip), sketches (drawn by a
    program), or the path of a zip or folder of photos, one sub-folder a class."""
    data_dir: str | None = None
    """Folder of TFDS's prepared data, or for the downloaded zip."""
    weights: str | None = None
    """Model 4's backbone: imagenet (downloaded once), a Keras .h5 or .keras file, or none."""
    epochs: int | None = None
    """How many epochs (20)."""
    batch_size: int | None = None
    """Images a step (32)."""
    learning_rate: float | None = None
    """Adam's learning rate (1e-3; model 4: 1e-4)."""
    image_size: int | None = None
    """Height and width the photos are resized to (160)."""
    sizes: tuple[int, int, int] | None = None
    """Images to train, validate and test on (the source's own)."""
    split_seed: int | None = None
    """Which photos are set apart (0)."""
    flip: bool | None = None
    """Flip training images at random (models 2 to 4 do)."""
    rotation: float | None = None
    """Rotate training images at random within ± this share of a turn (0.2 in models 2 to 4)."""
    blog_logits: bool | None = None
    """Models 1 to 3: the post's 64 outputs (True), or one logit a class."""
    threshold: float | None = None
    """Model 4: the logit above which a photo counts as a dog (0.5, as Keras; 0 is unbiased)."""
    stop_when_dead: bool | None = None
    """End a run whose outputs are all zero (True)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What the model computes in (float32); bfloat16 is for accelerators, and rounds more."""
    on_device: bool | None = None
    """Keep the photos in the devices' memory and run an epoch as one program, rather than stream
    them (by itself: on a GPU or TPU, where they take no more than half of its free memory; on a
    CPU it is slow)."""

    def adapt(self, experiment: Experiment) -> Experiment:
        """The experiment with these changes."""
        chosen = {field.name: getattr(self, field.name) for field in fields(Options)}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if experiment.model != "model4":
            chosen.pop("weights", None)
        return replace(experiment, **chosen)


@dataclass(frozen=True)
class TrainOptions(Options):
    """Options of one run."""

    seed: int = 0
    """Of initial weights, order, dropout and augmentation."""
    out: Path | None = None
    """The run folder (runs/MODEL-seedN)."""
    strict: bool = False
    """Stop if a single photo cannot be read, rather than leave it out."""


@dataclass(frozen=True)
class ReproduceOptions(Options):
    """Options of a series of runs."""

    models: tuple[str, ...] = tuple(RECIPES)
    """Which models."""
    seeds: int = 1
    """How many seeds, from 0."""
    out: Path = Path("runs/reproduce")
    """The series' folder; runs that are in it already are not repeated."""
    strict: bool = False
    """Stop if a single photo cannot be read, rather than leave it out."""


def train_model(model: str, options: TrainOptions) -> tuple[Run, Splits]:
    """Train one model by the post's recipe and the options' changes to it."""
    if model not in RECIPES:
        raise InputError(f"unknown model '{model}'; choose one of: {', '.join(RECIPES)}")
    if options.weights is not None and model != "model4":
        raise InputError(f"--weights is for model4; {model} has no pretrained part")
    experiment = replace(options.adapt(RECIPES[model]), seed=options.seed)
    out = options.out or Path("runs") / f"{model}-seed{options.seed}"
    splits = load_splits(experiment, strict=options.strict)
    for line in describe(splits):
        say(line)
    finished = run(experiment, out, splits=splits)
    _say_where(finished)
    return finished, splits


def _say_where(finished: Run) -> None:
    say(f"history.csv, history.png, metrics.json and the checkpoints are in {finished.folder}")


def reproduce_post(options: ReproduceOptions) -> list[Run]:
    """Train the post's models over seeds and set the results beside the published ones."""
    if not 1 <= options.seeds <= 1000:
        raise InputError(f"--seeds must be 1 or more, and 1000 at most, not {options.seeds}")
    runs = reproduce_series(
        options.models,
        range(options.seeds),
        options.out,
        adapt=options.adapt,
        strict=options.strict,
    )
    say(f"summary.md, curves.png and a folder a run are in {options.out}")
    return runs


def _train(
    options: Annotated[TrainOptions, tyro.conf.arg(name="")],
    model: Positional[Annotated[str | None, tyro.conf.arg(metavar="MODEL")]] = None,
    resume: Path | None = None,
) -> None:
    """Train one model, model1, model2, model3 or model4, or go on with an interrupted run.

    Args:
        options: what to change of the recipe.
        model: model1 (plain CNN), model2 (augmented), model3 (rescaled), model4 (transfer).
        resume: the folder of an interrupted run, which goes on as it was begun; give nothing else.
    """
    if resume is not None:
        if model is not None or options != TrainOptions():
            raise InputError("--resume goes on with a run as it was begun; give nothing beside it")
        _say_where(resume_run(resume))
    elif model is None:
        raise InputError(f"which model? choose one of: {', '.join(RECIPES)}")
    else:
        train_model(model, options)


def _reproduce(options: Annotated[ReproduceOptions, tyro.conf.arg(name="")]) -> None:
    """Train all four models and compare with the published numbers."""
    reproduce_post(options)


def _demo(
    weights: str | None = None,
    epochs: int = 6,
    image_size: int = 160,
    sizes: tuple[int, int, int] = (600, 168, 32),
    out: Path = Path("runs/demo"),
) -> None:
    """See it work in minutes, offline: the models on drawings of cats and dogs.

    Args:
        weights: a Keras MobileNetV2 file; with it (or once downloaded) model 4 takes part.
        epochs: how many epochs a model.
        image_size: height and width of the drawings.
        sizes: drawings to train, validate and test on.
        out: folder of the runs.
    """
    cached = cached_official_weights()
    weights = weights or (str(cached) if cached else None)
    models = ["model1", "model2", "model3"] + (["model4"] if weights else [])
    say("These are drawings made by a program, not photos, and a few epochs on 600 of them hardly")
    say("leave chance: see that everything runs, not how well.")
    if not weights:
        say("Model 4 needs pretrained weights and is left out; give a file with --weights.")
    options = Options(
        data="sketches", weights=weights, epochs=epochs, image_size=image_size, sizes=sizes
    )
    reproduce_series(models, [0], out, adapt=options.adapt)
    say(f"Histories, figures and a summary are in {out}. These were drawings; the real thing, on")
    say("3,000 photos, which it downloads with the weights of model 4:  catdog-jax reproduce")


def _data(
    source: Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]],
    data_dir: str | None = None,
    image_size: int = 160,
    sizes: tuple[int, int, int] | None = None,
    split_seed: int = 0,
    out: Path = Path("runs/data"),
    strict: bool = False,
) -> None:
    """Prepare a data set, count its classes and draw some of it.

    Args:
        source: as --data of train.
        data_dir: folder of TFDS's prepared data, or for the downloaded zip.
        image_size: height and width the photos are resized to.
        sizes: images to train, validate and test on.
        split_seed: which photos are set apart.
        out: folder of the figures.
        strict: stop if a single photo cannot be read, rather than leave it out.
    """
    splits = load_data(source, image_size, data_dir, split_seed, sizes=sizes, strict=strict)
    for line in describe(splits):
        say(line)
    say(f"  prepared: {splits.folder}")
    make_folder(out)
    draw_data(splits, out)
    say(f"labels.png and photos.png are in {out}")


def _evaluate(
    run_folder: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]],
    data: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    checkpoint: str = "best",
) -> None:
    """Evaluate a run's model.

    Args:
        run_folder: a folder that train made.
        data: another source than the run's own.
        data_dir: folder of TFDS's prepared data.
        split: train, validation or test.
        checkpoint: best (of the best validation accuracy) or last.
    """
    result = evaluate_run(run_folder, data=data, data_dir=data_dir, split=split, which=checkpoint)
    _warn_of_death(run_folder)
    say(f"{split} accuracy: {accuracy_line(result)}")


def _predict(
    run_folder: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]],
    images: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE_OR_FOLDER...")]],
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Classify photos with a run's model.

    Args:
        run_folder: a folder that train made.
        images: photos, or folders of photos.
        json_: print one JSON object a photo and line.
    """
    if not images:
        raise InputError("no photos to classify; give some after the run's folder")
    model, experiment, class_names = load_model(run_folder)
    _warn_of_death(run_folder)
    rows: dict[Path, dict[str, Any]] = {}
    paths: list[Path] = []
    for given in images:
        try:
            paths += list_photos(given)
        except InputError as error:
            rows[given] = {"error": str(error)}
            paths.append(given)
    for start in range(0, len(paths), experiment.batch_size):
        batch = paths[start : start + experiment.batch_size]
        decoded: dict[Path, Any] = {}
        for path in batch:
            try:
                if path not in rows:
                    decoded[path] = decode_file(path, experiment.image_size)
            except InputError as error:
                rows[path] = {"error": str(error)}
        if decoded:
            pixels = np.stack(list(decoded.values()))
            chances = predict(
                model,
                pixels,
                class_names,
                batch_size=experiment.batch_size,
                dtype=experiment.dtype,
            )
            for path, chance in zip(decoded, chances.tolist(), strict=True):
                by_class = dict(zip(class_names, chance, strict=True))
                best = class_names[int(np.argmax(chance))]
                rows[path] = {"class": best, "probabilities": by_class}
        for path in batch:
            say(json.dumps({"file": str(path), **rows[path]}) if json_ else _row(path, rows[path]))
    return 1 if any("error" in row for row in rows.values()) else 0


def _warn_of_death(run_folder: Path) -> None:
    if has_died(run_folder):
        print("note: this model died in training: it says the same of any photo", file=sys.stderr)


def _row(path: Path, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{path}  error: {row['error']}"
    chance = row["probabilities"][row["class"]]
    return f"{path}  {row['class']}  {100 * chance:.1f} %"


_COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": _demo,
    "data": _data,
    "train": _train,
    "reproduce": _reproduce,
    "evaluate": _evaluate,
    "predict": _predict,
}


def main(args: list[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0, 1 a failed run, 2 wrong input, 130 Ctrl-C."""
    return guarded(
        lambda: tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="catdog-jax",
            description="Cats and dogs in JAX and Flax: from a plain CNN to transfer learning.",
            args=args,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
    )


def script(command: Callable[[Any], object], options: type[Options]) -> None:
    """Run an experiment script: its `options` from the command line, its errors in one line."""

    def parse_and_run() -> None:
        command(tyro.cli(options, description=command.__doc__))

    sys.exit(guarded(parse_and_run))


def guarded(command: Callable[[], int | None]) -> int:
    """Run `command`; an error that the user can mend ends in one line, without a traceback."""
    try:
        return command() or 0
    except InputError as error:
        return _failed(str(error), 2)
    except RunError as error:
        return _failed(str(error), 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads our output, or its disk is full: let Python not try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as of `| head`
            return 1
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{first_line(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        # An accelerator's memory ends in an error of XLA, a RuntimeError by class.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what_to_try = "try a smaller --batch-size or --image-size, or --on-device False"
        return _failed(f"not enough memory ({first_line(error)[:200]}); {what_to_try}", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _failed(said: str, code: int) -> int:
    print(f"error: {printable(said)}", file=sys.stderr)
    return code
