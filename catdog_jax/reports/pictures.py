"""Photos and heat maps as small pictures inside a page, and where a map is hot in words."""

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8

Photo = UInt8[np.ndarray, "height width 3"]
Heat = Float[np.ndarray, "height width"]

_SIDE = 176
"""Pixels of a picture's side in a page, about."""
_STRENGTH = 0.75
"""How much of the hottest place the colour covers."""
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")


def data_uri(*photos: Photo) -> str:
    """Photos side by side as one WebP picture in a `data:` URI."""
    from PIL import Image

    height, width = photos[0].shape[:2]
    image = Image.fromarray(np.concatenate(photos, axis=1))
    scale = _SIDE / max(height, width)
    size = round(width * scale) * len(photos), round(height * scale)
    # Small photos keep their pixels, as the model saw them.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, method).save(file, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def with_heat(photo: Photo, heat: Heat) -> Photo:
    """The photo with its heat map over it: from nothing where it is cold to yellow."""
    from .plots import colour_map

    colours = colour_map("plasma", np.asarray(heat, float))
    share = _STRENGTH * heat[..., None] ** 1.5  # a map that is warm all over hides nothing
    return ((1 - share) * photo + share * 255 * colours).round().astype(np.uint8)


def hot_place(heat: Heat) -> str:
    """Where a heat map is hottest, and how much of it is hot; or that it is nowhere."""
    if not heat.any():
        return "nowhere hot"
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    side = _ROWS[3 * int(row) // heat.shape[0]], _COLUMNS[3 * int(column) // heat.shape[1]]
    place = "in the middle" if side == ("middle", "middle") else f"at the {side[0]} {side[1]}"
    share = f"{100 * (heat >= 0.5).mean():.0f} %"
    return f"hottest {place}; {share} of the photo is at least half as hot as that"
