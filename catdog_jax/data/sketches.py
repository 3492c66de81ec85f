"""Cats and dogs drawn by a program: a labelled data set that needs no download.

Both classes share one distribution of poses, fur, backgrounds, light and occlusion, so that only
shape (ears, muzzle, eyes, whiskers, tail) tells them apart and raw pixel values do not.

`sketch_pen` holds what they are drawn with, `sketch_bodies` and `sketch_heads` the animals.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from PIL import Image, ImageFilter

from .sketch_bodies import draw_animal
from .sketch_pen import (
    DARK,
    Pen,
    any_color,
    curve,
    ellipse,
    leafy,
    limb,
    mix,
    pen_somewhere,
    pointed,
    rotation,
)

CLASS_NAMES = ("cats", "dogs")
EDITION = 1
"""Raise it when the same number would now be another drawing."""
SMALLEST_SIZE = 32

_SUPERSAMPLING = 2


def draw(
    count: int, image_size: int = 160, seed: int = 0
) -> tuple[UInt8[np.ndarray, "count size size 3"], Int32[np.ndarray, " count"]]:
    """Draw `count` square RGB pictures, cats and dogs in turn.

    Picture i depends on nothing but `seed`, i and `image_size`, so a longer draw begins with the
    pictures of a shorter one.

    Args:
      count: how many pictures, 0 or more.
      image_size: side of a picture in pixels, 32 or more.
      seed: 0 or more.

    Returns:
      The pictures, values in 0..255, and their labels, which index `CLASS_NAMES`.

    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    _check_size(image_size)
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    for index in range(count):
        images[index] = draw_numbered(index, image_size, seed)
    return images, labels_of(np.arange(count))


def draw_numbered(index: int, image_size: int, seed: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draw picture number `index` of those that `draw` draws."""
    rng = np.random.default_rng((seed, index))
    return draw_one(rng, index % len(CLASS_NAMES), image_size)


def labels_of(indices: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """Return the labels of the pictures with these numbers."""
    return (indices % len(CLASS_NAMES)).astype(np.int32)


def draw_one(
    rng: np.random.Generator, label: int, image_size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Draw one square RGB picture, values in 0..255.

    Args:
      rng: decides all that varies, and is advanced.
      label: index in `CLASS_NAMES`.
      image_size: side of the picture in pixels, 32 or more.

    """
    _check_size(image_size)
    canvas = _background(rng, image_size * _SUPERSAMPLING)
    draw_animal(rng, canvas, is_cat=CLASS_NAMES[label] == "cats")
    if rng.random() < 0.3:
        _draw_occluder(rng, canvas)
    return _photograph(rng, canvas.reduce(_SUPERSAMPLING))


def _check_size(image_size: int) -> None:
    if image_size < SMALLEST_SIZE:
        raise ValueError(f"image_size must be {SMALLEST_SIZE} or more, not {image_size}")


# What lies behind and before the animal.


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    kind = rng.choice(["plain", "gradient", "texture", "shapes", "room"])
    color = any_color(rng)
    canvas = Image.new("RGB", (side, side), color)
    if kind == "gradient":
        corners = np.array([mix(color, any_color(rng), share) for share in rng.random(4)])
        canvas = _spread(corners.reshape(2, 2, 3), side)
    elif kind == "texture":
        cells = int(rng.integers(5, 28))
        weave = rng.normal(0, 18, (cells, cells, 1)) + rng.normal(0, 5, (cells, cells, 3))
        canvas = _spread(np.array(color) + weave, side)
    elif kind == "shapes":
        for _ in range(rng.integers(3, 9)):
            _draw_clutter(rng, canvas)
    elif kind == "room":
        floor = np.array([(-3, 0), (3, 0), (3, 3), (-3, 3)], dtype=np.float64)
        middle = np.array([0.5, rng.uniform(0.45, 0.8)]) * side
        level = Pen(canvas, middle, side * rotation(rng.uniform(-10, 10)))
        level.fill(floor, any_color(rng))
    return canvas


def _spread(cells: Float64[np.ndarray, "rows columns 3"], side: int) -> Image.Image:
    """Stretch a few colours smoothly over a square canvas."""
    small = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _draw_clutter(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw a disc, a slab, a triangle or a stick, so that no such outline alone marks a class."""
    size = rng.uniform(0.06, 0.22)
    outlines = (
        ellipse(0, 0, size, size * rng.uniform(0.5, 1)),
        limb(curve((0, 0), (size, size), (2 * size, 0)), size / 2),
        limb(curve((0, 0), (0, 1.5 * size)), size, pointed),
        limb(curve((-0.5, 0), (0.1, rng.uniform(-0.3, 0.3)), (0.5, 0)), size / 7),
    )
    pen = pen_somewhere(rng, canvas)
    pen.fill(outlines[rng.integers(len(outlines))], any_color(rng))


def _draw_occluder(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw a bar, a box or a leaf over part of the picture."""
    pen = pen_somewhere(rng, canvas)
    color = any_color(rng)
    kind = rng.choice(["bar", "box", "leaf"])
    if kind == "bar":
        pen.fill(limb(curve((-2, 0), (2, 0)), rng.uniform(0.02, 0.06)), color)
    elif kind == "box":
        half = rng.uniform(0.06, 0.12)
        pen.fill(np.array([(-half, -half), (half, -half), (half, half), (-half, half)]), color)
    else:
        rib = curve((-0.2, 0), (0, rng.uniform(-0.15, 0.15)), (0.2, 0))
        pen.fill(limb(rib, rng.uniform(0.05, 0.1), leafy), color)
        pen.line(rib, mix(color, DARK, 0.4), 0.01)


def _photograph(rng: np.random.Generator, picture: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
    """Add blur, light and sensor noise."""
    side = picture.width
    if rng.random() < 0.35:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.002, 0.007) * side))
    values = np.asarray(picture, dtype=np.float32)
    values = (values - 128) * rng.uniform(0.7, 1.15) + 128 + rng.uniform(-25, 25)
    values = values * _light(rng, side)[:, :, None]
    noise = rng.standard_normal((side, side, 3), dtype=np.float32) * rng.uniform(0, 9)
    return np.clip(values + noise, 0, 255).astype(np.uint8)


def _light(rng: np.random.Generator, side: int) -> Float32[np.ndarray, "side side"]:
    """Return a brightness factor that grows steadily in a random direction, 1 in the middle."""
    slope_x, slope_y = rng.uniform(-0.3, 0.3, 2)
    across = np.linspace(-1, 1, side, dtype=np.float32)
    return (1 + slope_x * across[None, :] + slope_y * across[:, None]).astype(np.float32)
