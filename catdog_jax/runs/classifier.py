"""Answers about single photos, by the classifier of the package or by a run's model."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from flax import nnx
from PIL import Image

from ..data.listing import list_photos
from ..data.photo import decode_file, decode_given, resized
from ..errors import InputError
from ..models import ready_made
from ..reports.tables import percent
from ..training.evaluation import Inference
from ..training.mesh import even_batch
from .experiment import Experiment
from .predictions import Predictions, predictions_of
from .recipes import RECIPES

if TYPE_CHECKING:
    from .results import Run

Photo: TypeAlias = tuple[str, Path | bytes | InputError]
"""A photo's name, and where it is, or itself (encoded), or why it is missing."""

Photos: TypeAlias = str | Path | Sequence[str | Path] | np.ndarray | Image.Image

AT_ONCE = 32
"""Photos that are classified together at most."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network, and what is needed to ask it about photos."""

    network: nnx.Module
    experiment: Experiment
    class_names: tuple[str, ...]
    image_size: int
    """What photos are resized to, in pixels."""
    sure_above: float
    """Answers with less confidence are called not sure."""
    about: str
    """What it is and how accurate, in a line."""

    def predict(self, images: np.ndarray, names: Sequence[str] = ()) -> Predictions:
        """Predictions on images uint8[n, image_size, image_size, 3], in batches of 1, 2, 4, … 32.

        The first call for each of these sizes compiles a program.
        """
        # At most six programs, and no photo waits for 31 empty places.
        batch_size = even_batch(min(AT_ONCE, 1 << (len(images) - 1).bit_length()))
        return Predictions(
            names=tuple(names) or tuple(map(str, range(len(images)))),
            class_names=self.class_names,
            logits=self._inference.logits(images, batch_size),
            threshold=self.experiment.threshold,
            sure_above=self.sure_above,
        )

    @cached_property
    def _inference(self) -> Inference:
        options = self.experiment
        return Inference(self.network, dtype=options.dtype, mirror=options.mirror_test)

    def answers(self, photos: Iterable[Photo]) -> Iterator[dict[str, Any]]:
        """A record for each photo, in order, as its batch is ready.

        As `Predictions.records`, or `file` and `error` of a photo that cannot be read. A few
        batches are in memory at once, however many photos there are.
        """
        for batch in _decoded(photos, self.image_size):
            good = [(name, pixels) for name, pixels in batch if isinstance(pixels, np.ndarray)]
            names, images = zip(*good, strict=True) if good else ((), ())
            records = iter(self.predict(np.stack(images), names).records() if good else ())
            for name, pixels in batch:
                if isinstance(pixels, np.ndarray):
                    yield next(records)
                else:
                    yield {"file": name, "error": str(pixels)}


def classifier(run: "Run | str | Path | None" = None) -> Classifier:
    """A run's model as a classifier; by default the one that comes with the package.

    Raises:
        InputError: there is no such run, or its checkpoint is damaged.
    """
    if run is None:
        facts = ready_made.facts()
        accuracy = percent(facts["accuracy"], facts["interval"])
        return Classifier(
            network=ready_made.ready_made(),
            experiment=RECIPES[ready_made.MODEL],
            class_names=tuple(facts["class_names"]),
            image_size=facts["image_size"],
            sure_above=facts["sure_above"],
            about=f"the classifier of this package, for photos of one cat or dog: right in "
            f"{accuracy} of {facts['photos']:,} photos it had not seen",
        )
    if isinstance(run, str | Path):
        from .results import load_run  # and with it, what the classifier of the package needs not

        run = load_run(run)
    return Classifier(
        network=run.model,
        experiment=run.experiment,
        class_names=run.class_names,
        image_size=run.image_size,
        sure_above=run.sure_above,
        about=_about(run),
    )


def _about(run: "Run") -> str:
    """`model4-seed0, for cat, dog: right in 96.5 % [94.2, 98.1] of 192 test photos`."""
    name = f"{run.folder.name}, for {', '.join(run.class_names)}"
    test = (run.metrics or {}).get("test")
    if test is None:
        return name
    accuracy = percent(test["accuracy"], test["interval"])
    return f"{name}: right in {accuracy} of {test['count']:,} test photos"


@overload
def predict(photos: Photos, /) -> Predictions: ...
@overload
def predict(
    model: "Run | nnx.Module | str | Path", photos: Photos, /, *, image_size: int | None = None
) -> Predictions: ...
def predict(*model_and_photos: Any, image_size: int | None = None) -> Predictions:
    """Predictions on photos without labels: `predict(photos)` or `predict(model, photos)`.

    Args:
        *model_and_photos: the model is a run, its folder, or any NNX module that turns pixels 0…255
            into logits; by default the classifier of the package, for cats and dogs. The photos are
            paths of photos or folders, one or several; or pixels 0…255, of one image
            `[height, width, 3]` or several `[n, height, width, 3]`, also as a Pillow image.
        image_size: size that photos are resized to for a module, by default 160 (arrays stay as
            they are); a run knows its own.

    Returns:
        The predictions; printed, a line for each photo.

    Raises:
        InputError: there is no such run or photo, or a photo cannot be read.
    """
    if len(model_and_photos) not in (1, 2):
        raise TypeError("predict takes photos, or a model and photos")
    *models, photos = model_and_photos
    model = models[0] if models else None
    asked = _asked(model, image_size or 160)
    if hasattr(photos, "__array_interface__") or hasattr(photos, "shape"):
        names, images = None, _images(photos)
        if image_size or not isinstance(model, nnx.Module):
            images = _of_size(images, asked.image_size)
    else:
        if not isinstance(photos, str | Path | Sequence):
            raise InputError(f"photos are paths or pixels, not {type(photos).__name__}")
        given = [photos] if isinstance(photos, str | Path) else photos
        paths = [path for one in given for path in list_photos(one)]
        if not paths:
            raise InputError("no photos to classify")
        names = tuple(map(str, paths))
        images = np.stack([decode_file(path, asked.image_size) for path in paths])
    found = predictions_of(asked.network, images, asked.experiment, asked.class_names)
    return replace(found, names=names or found.names, sure_above=asked.sure_above)


def _images(pixels: Any) -> np.ndarray:
    """Images of pixels 0…255, from one or several, or a Pillow image.

    Raises:
        InputError: they are of another shape or range.
    """
    pixels = pixels.convert("RGB") if hasattr(pixels, "convert") else pixels
    images = np.asarray(pixels)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4:
        raise InputError(f"images are [n, height, width, 3], not {list(images.shape)}")
    if np.issubdtype(images.dtype, np.floating) and images.size and 0 < images.max() <= 1:
        raise InputError("these images have values up to 1; give pixels 0…255")
    return images


def _of_size(images: np.ndarray, size: int) -> np.ndarray:
    """Resized as photos are, if they are not of that size."""
    if images.shape[1:] == (size, size, 3) or images.shape[3] != 3:
        return images
    return np.stack([resized(np.rint(one).astype(np.uint8), size) for one in images])


def _asked(model: "Run | nnx.Module | str | Path | None", image_size: int) -> Classifier:
    if not isinstance(model, nnx.Module):
        return classifier(model)
    return Classifier(model, Experiment(""), (), image_size, sure_above=0.0, about="")


def _decoded(
    photos: Iterable[Photo], image_size: int
) -> Iterator[list[tuple[str, np.ndarray | Exception]]]:
    """Batches of names with pixels, or with why there are none; the next is decoded meanwhile."""

    def decode(photo: Photo) -> tuple[str, np.ndarray | Exception]:
        name, what = photo
        if isinstance(what, Exception):
            return name, what
        try:
            return name, decode_given(what, image_size)
        except ValueError as error:
            return name, error

    with ThreadPoolExecutor() as pool:
        waiting = deque[Future]()
        for photo in photos:
            waiting.append(pool.submit(decode, photo))
            if len(waiting) == 2 * AT_ONCE:
                yield [waiting.popleft().result() for _ in range(AT_ONCE)]
        while waiting:
            yield [waiting.popleft().result() for _ in range(min(AT_ONCE, len(waiting)))]
