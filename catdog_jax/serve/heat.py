"""Heat maps as small transparent pictures to lay over a photo."""

import base64
import io

import numpy as np
from jaxtyping import Float32
from PIL import Image

from ..runs.classifier import Classifier
from ..training.explain import explain

_COLOURS = np.array([[13, 8, 135], [204, 71, 120], [240, 249, 33]])
"""From cold to hot, the start, middle and end of matplotlib's plasma."""
_STRENGTH = 0.75
"""How much of the photo the hottest place covers."""


def heat_maps(
    classifier: Classifier, images: np.ndarray
) -> Float32[np.ndarray, "n image_size image_size"]:
    """What speaks for the predicted class, from 0 to 1, on images uint8[n, side, side, 3].

    One image after another, so there is one program to compile.

    Raises:
        InputError: the network has no feature map.
    """
    return explain(classifier.network, images, batch_size=1)


def picture(heat: Float32[np.ndarray, "rows columns"]) -> str:
    """A heat map as a PNG in a `data:` URL, transparent where it is cold."""
    colours = [np.interp(heat, [0, 0.5, 1], channel) for channel in _COLOURS.T]
    cover = 255 * _STRENGTH * heat**1.5  # a map that is warm all over hides nothing
    pixels = np.stack([*colours, cover], axis=-1).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
