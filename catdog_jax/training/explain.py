"""Grad-CAM: which parts of an image speak for a class, for any NNX model with a feature map.

Selvaraju et al. 2017 (arXiv:1610.02391): the channels of a feature map, each weighted by the mean
gradient of the class's logit, summed; what is negative speaks against the class and is cut off.
Where global average pooling and one linear layer follow, this is CAM (arXiv:1512.04150).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, PyTree

from ..data.arrays import unlabelled
from ..errors import InputError, first_line
from .feed import limit_dispatch, stream
from .losses import Logits
from .mesh import data_mesh, even_batch, fetch, jit, replicate
from .metrics import predicted
from .state import full_precision, in_mode, in_pixels

FeatureMap = Float[Array, "batch rows columns channels"]

_PREDICTED = -1
"""In place of a class: the predicted one."""


def explain(
    model: nnx.Module,
    images: Any,
    classes: Sequence[int] | np.ndarray | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 32,
) -> Float32[np.ndarray, "n height width"]:
    """Heat maps: how much each part of an image speaks for a class, by Grad-CAM.

    Each map is divided by its largest value, so it ranges over 0…1; it is all zero if nothing
    speaks for the class. Maps are as coarse as the layer's output, scaled up bilinearly.

    Args:
        model: takes pixels 0…255 and gives logits; it is not changed.
        images: `[n, height, width, channels]`.
        classes: a class for each image; by default the predicted one. With a single logit class 1
            is what a logit above 0 speaks for, class 0 the opposite.
        layer: path of the submodule to look at, such as `backbone` or `blocks/3`; by default the
            last one to be called whose output has several rows and columns.
        batch_size: images at once.

    Raises:
        InputError: the model has no such layer, or images or classes do not fit it.
    """
    split = unlabelled(images)
    count = len(split)
    if not count:
        raise InputError("there are no images to explain")
    wanted = np.full(count, _PREDICTED) if classes is None else np.asarray(classes)
    if wanted.shape != (count,) or wanted.dtype.kind not in "iu":
        raise InputError(f"classes must be {count} whole numbers, one for each image")
    # The batches carry the classes in the labels' place.
    size = even_batch(min(batch_size, count))  # the rest is padding
    batches = unlabelled(images).batches(size)
    batches.split.labels[:] = wanted
    mesh = data_mesh(size)
    graphdef, state = nnx.split(in_mode(model, training=False))
    state = replicate(state, mesh)
    with jax.set_mesh(mesh):
        outputs = (
            _explain_batch(graphdef, layer, state, batch["image"], batch["label"])
            for batch in stream(batches, mesh)
        )
        maps, logits = zip(*(map(fetch, pair) for pair in limit_dispatch(outputs)), strict=True)
    known = max(2, logits[0].shape[1])
    if classes is not None and (wanted.min() < 0 or wanted.max() >= known):
        raise InputError(f"classes must be from 0 to {known - 1}, as {type(model).__name__} has")
    return np.concatenate(maps)[:count]  # without padding


@jit(tuned=False, static_argnums=(0, 1))  # a report has 12 photos
def _explain_batch(
    graphdef: nnx.GraphDef,
    layer: str | None,
    state: PyTree,
    images: Array,
    classes: Int[Array, " batch"],
) -> tuple[Float[Array, "batch height width"], Logits]:
    call = _find_call(graphdef, layer, state, images)

    def score(change: FeatureMap) -> tuple[Array, tuple[Logits, FeatureMap]]:
        logits, features = _forward(graphdef, call, state, images, change)
        return _speaking_for(logits, classes).sum(), (logits, features)

    # The gradient of an added zero is the feature map's. Nothing before it is differentiated.
    zeros = jnp.zeros(call.output.shape, call.output.dtype)
    gradients, (logits, features) = jax.grad(score, has_aux=True)(zeros)
    maps = jnp.einsum("nhwc,nc->nhw", features, gradients.mean(axis=(1, 2)))
    maps = jax.image.resize(nnx.relu(maps), images.shape[:3], "bilinear").astype(jnp.float32)
    largest = maps.max(axis=(1, 2), keepdims=True)
    return maps / jnp.where(largest > 0, largest, 1), logits


def _speaking_for(logits: Logits, classes: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The logit of each image's class; of a single logit, for class 0 its negative."""
    classes = jnp.where(classes == _PREDICTED, predicted(logits), classes)
    if logits.shape[1] == 1:
        return jnp.where(classes == 1, logits[:, 0], -logits[:, 0])
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


# Which submodule: modules of a copy are made to report what they return.


class _Call(NamedTuple):
    """The call of a submodule that gives the feature map."""

    path: tuple[Any, ...]
    number: int
    """Of the calls of this submodule, from 0: it may be used several times."""
    output: jax.ShapeDtypeStruct


def _find_call(graphdef: nnx.GraphDef, layer: str | None, state: PyTree, images: Array) -> _Call:
    """The last call, of `layer` or of any submodule, whose output has rows and columns.

    Raises:
        InputError: there is none, or the model does not take these images.
    """
    calls: list[_Call] = []
    times: dict[tuple[Any, ...], int] = {}

    def note(path: tuple[Any, ...], output: Any) -> Any:
        number = times[path] = times.get(path, -1) + 1
        if isinstance(output, jax.Array) and output.ndim == 4 and min(output.shape[1:3]) > 1:
            calls.append(_Call(path, number, jax.ShapeDtypeStruct(output.shape, output.dtype)))
        return output

    def run(state: PyTree, images: Array) -> Logits:
        model: Any = nnx.merge(graphdef, state)
        for path, module in list(nnx.iter_modules(model)):
            _report_to(module, partial(note, path))
        return full_precision(model(in_pixels(images, "float32")))

    try:
        logits = jax.eval_shape(run, state, images)
    except (TypeError, ValueError) as error:
        size = "×".join(map(str, images.shape[1:]))
        raise InputError(
            f"the model does not take images of {size} ({first_line(error)})"
        ) from error
    if logits.ndim != 2:
        raise InputError(f"a model must give logits [batch, outputs], not {logits.shape}")
    # A loop over parts of a batch hands its body fewer images.
    calls = [call for call in calls if call.output.shape[0] == images.shape[0]]
    chosen = [call for call in calls if layer is None or _named(call.path) == layer]
    if not chosen:
        wanted = "no layer" if layer is None else f"no layer {layer}"
        names = ", ".join(dict.fromkeys(_named(call.path) for call in calls))
        there = f"; those that do: {names}" if names else ""
        raise InputError(
            f"the model has {wanted} whose output has rows and columns, so there is no heat "
            f"map{there}"
        )
    return chosen[-1]


def _named(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _forward(
    graphdef: nnx.GraphDef, call: _Call, state: PyTree, images: Array, change: FeatureMap
) -> tuple[Logits, FeatureMap]:
    """Logits and the feature map, to which `change` is added on the way."""
    model: Any = nnx.merge(graphdef, state)
    outputs: list[Any] = []

    def add(output: Any) -> Any:
        outputs.append(output)
        return output + change if len(outputs) == call.number + 1 else output

    _report_to(dict(nnx.iter_modules(model))[call.path], add)
    logits = full_precision(model(in_pixels(images, "float32")))
    return logits, outputs[call.number]


def _report_to(module: nnx.Module, report: Callable[[Any], Any]) -> None:
    """Let calls of `module` return what `report` makes of their output."""
    vars(module)["_report"] = report
    object.__setattr__(module, "__class__", _reporting(type(module)))


@cache
def _reporting(kind: Any) -> type[nnx.Module]:
    """A subclass of `kind` whose objects hand their output to their attribute `_report`."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._report(kind.__call__(self, *args, **kwargs))

    return type(kind)(kind.__name__, (kind,), {"__call__": call})
