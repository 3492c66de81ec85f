"""Commands about photos."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.listing import is_run
from ..errors import InputError, say
from ..files import expanded, make_folder
from ..runs.recipes import POST, RECIPES
from .options import Data, Demo, Predict, Serve
from .settings import Settings
from .start import start_jax, warn_of_death

if TYPE_CHECKING:
    from ..runs.classifier import Classifier, Photo


def show_data(options: Data) -> None:
    """Count and draw a data set."""
    from ..data.load import load_data
    from ..reports.sections import draw_data
    from ..runs.terminal import describe

    splits = load_data(
        options.source,
        options.image_size,
        options.data_dir,
        options.split_seed,
        sizes=options.sizes,
        strict=options.strict,
    )
    for line in describe(splits):
        say(line)
    if splits.folder:
        say(f"  prepared: {splits.folder}")
    out = expanded(options.out)
    make_folder(out)
    draw_data(splits, out)
    say(f"labels.png and photos.png are in {out}")


def demo(options: Demo) -> None:
    """Train on drawings, and classify photos."""
    from ..models.keras_weights import cached_official_weights

    weights = options.weights or cached_official_weights()
    changes = {name: getattr(options, name) for name in ("epochs", "image_size", "sizes")}
    changes |= {"data": "sketches"} | ({"weights": str(weights)} if weights else {})
    settings = Settings(model="", changes=changes)
    names = [name for name in POST if weights or RECIPES[name].weights == "none"]
    start_jax()
    from ..runs.demo import demo as show

    out = expanded(options.out)
    photos = list(_named_photos(options.photos))
    for name, what in photos:  # what is wrong now, not after the trainings
        if isinstance(what, InputError):
            raise what
        if isinstance(what, Path) and not what.is_file():
            raise InputError(f"{name} is not a file")
    say("These are drawings made by a program, not photos, which are harder to tell apart.")
    show([settings.adapt(RECIPES[name]) for name in names], out, photos)
    say(f"Curves and a page for each run: {out / 'report.html'}")
    if not weights:
        say("Model 4, pretrained, was left out: give its weights with --weights.")
    say("For the real photos (68 MB) and the weights of model 4 (9 MB): catdog-jax reproduce")


def predict_photos(options: Predict) -> int:
    """Print a line per photo; returns 1 if one of them cannot be read."""
    if not options.photos:
        raise InputError("no photos to classify; name photos, folders of photos, or - for stdin")
    if options.json and options.csv:
        raise InputError("--json and --csv exclude each other; give one of them")
    for word in options.photos:
        if _is_run(word):
            raise InputError(f"{word} holds no photos; to use a run's model, write --run RUN")
    from ..reports.tables import answer_line
    from ..runs.terminal import csv_line

    asked = asked_classifier(options.run)
    if options.csv:
        say(csv_line(["file", "class", "sure", *asked.class_names, "error"]))
    missing = 0
    for record in asked.answers(_named_photos(options.photos)):
        missing += "error" in record
        if options.json:
            say(json.dumps(record))
        elif options.csv:
            shares = record.get("probabilities", {})
            cells = [
                *map(record.get, ("file", "class", "sure")),
                *map(shares.get, asked.class_names),
            ]
            say(csv_line([*cells, record.get("error")]))
        else:
            say(answer_line(record))
    return 1 if missing else 0


def _is_run(word: str) -> bool:
    try:
        return is_run(expanded(word))
    except (InputError, OSError):  # to be told in the line of that photo
        return False


def asked_classifier(run: Path | None) -> "Classifier":
    """Start JAX and load the model of a run, or the package's, and say which that is."""
    from ..runs.classifier import classifier

    start_jax()
    if run is None:
        asked = classifier()
        print(f"note: {asked.about}", file=sys.stderr)
        return asked
    from ..runs.results import load_run

    loaded = load_run(expanded(run))
    warn_of_death(loaded)
    return classifier(loaded)


def _named_photos(given: Iterable[str]) -> "Iterator[Photo]":
    from ..data.listing import list_photos

    for word in given:
        if word == "-":
            yield word, sys.stdin.buffer.read()
            continue
        try:
            yield from ((str(path), path) for path in list_photos(word))
        except InputError as error:
            yield word, error


def serve_page(options: Serve) -> None:
    """Serve the page until Ctrl-C."""
    from ..serve.guard import is_loopback
    from ..serve.server import Server, address, listen, open_browser

    with listen(options.host, options.port) as listening:  # before the seconds that JAX takes
        from ..serve.app import create_app

        app = create_app(asked_classifier(options.run), host=options.host)
        url = address(listening, options.host)

        def ready() -> None:
            if not is_loopback(options.host):
                say("note: whoever can reach this machine can use the page")
            say(f"drop photos on {url}  (Ctrl-C ends it)")
            if not options.no_browser:
                open_browser(url)

        with suppress(KeyboardInterrupt):
            Server(app, ready).run(sockets=[listening])
