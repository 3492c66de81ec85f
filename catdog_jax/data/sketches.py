"""Portraits of cats and dogs drawn by a program: a labelled data set that needs no download.

Both classes share one distribution of fur, pose, background, light and noise. Shapes (ears, muzzle,
eyes, whiskers) tell them apart; colours do not, and a linear classifier on pixels hardly can.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image, ImageFilter

from .outlines import Color, Pen, curve, ellipse, limb, pointed, rotation
from .splits import SMALLEST_IMAGE

CLASS_NAMES = ("cats", "dogs")
EDITION = 3
"""Raise it when the same number would now be another drawing."""

ANY_WAY = 180.0
"""Degrees. Heads that lie any way are what random flips and rotations are for."""

_SUPERSAMPLING = 2
_SIDES = (-1, 1)

# Black, slate, silver, cream; tan, ginger, brown.
_FURS: tuple[Color, ...] = ((44, 41, 46), (98, 96, 104), (158, 154, 156), (240, 231, 216))
_FURS += ((222, 180, 124), (216, 136, 66), (146, 94, 56))
_IRISES: tuple[Color, ...] = ((206, 170, 60), (126, 170, 84), (120, 168, 200), (150, 96, 48))
_NOSES: tuple[Color, ...] = ((40, 34, 36), (206, 118, 124), (100, 58, 50))
_DARK, _WHITE, _PINK, _TONGUE = (26, 20, 22), (250, 248, 244), (228, 150, 150), (226, 104, 116)


def draw(
    count: int, image_size: int = 160, seed: int = 0, tilt: float = ANY_WAY
) -> tuple[UInt8[np.ndarray, "count size size 3"], Int32[np.ndarray, " count"]]:
    """Draw `count` square RGB pictures, cats and dogs in turn.

    Picture i depends on nothing but i and the other arguments, so a longer draw begins with the
    pictures of a shorter one.

    Args:
        count: how many pictures, 0 or more.
        image_size: side of a picture in pixels, 32 or more.
        seed: 0 or more.
        tilt: the most that a head is turned to either side, in degrees.

    Returns:
        The pictures, values in 0..255, and their labels, which index `CLASS_NAMES`.
    """
    if count < 0 or image_size < SMALLEST_IMAGE:
        raise ValueError(f"count must be 0 or more, image_size {SMALLEST_IMAGE} or more")
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    for index in range(count):
        images[index] = draw_numbered(index, image_size, seed, tilt)
    return images, labels_of(np.arange(count))


def draw_numbered(
    index: int, image_size: int, seed: int, tilt: float = ANY_WAY
) -> UInt8[np.ndarray, "size size 3"]:
    """Picture number `index` of those that `draw` draws."""
    rng = np.random.default_rng((seed, index))
    return draw_one(rng, index % len(CLASS_NAMES), image_size, tilt)


def labels_of(indices: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """The labels of the pictures with these numbers."""
    return (indices % len(CLASS_NAMES)).astype(np.int32)


def draw_one(
    rng: np.random.Generator, label: int, image_size: int, tilt: float = ANY_WAY
) -> UInt8[np.ndarray, "size size 3"]:
    """Draw one square RGB picture, values in 0..255.

    Args:
        rng: decides all that varies, and is advanced.
        label: index in `CLASS_NAMES`.
        image_size: side of the picture in pixels, 32 or more.
        tilt: as in `draw`.
    """
    canvas = _background(rng, image_size * _SUPERSAMPLING)
    pen, looks = _posed(rng, canvas, tilt), _sample_looks(rng)
    _draw_body(rng, pen, looks)
    draw_head = _draw_cat if CLASS_NAMES[label] == "cats" else _draw_dog
    draw_head(rng, pen, looks)
    return _photographed(rng, canvas.reduce(_SUPERSAMPLING))


def _posed(rng: np.random.Generator, canvas: Image.Image, tilt: float) -> Pen:
    """A pen for a head of random size, place, tilt and mirroring."""
    side = canvas.width
    mirror = np.diag([rng.choice(_SIDES), 1.0])
    basis = side * rng.uniform(0.28, 0.36) * mirror @ rotation(rng.uniform(-tilt, tilt))
    return Pen(canvas, side * (0.5 + rng.uniform(-0.1, 0.1, 2)), basis)


# What both classes share.


def _mixed(first: Color, second: Color, share: float) -> Color:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _picked(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    shifted = np.array(colors[rng.integers(len(colors))]) + rng.integers(-14, 15, 3)
    return tuple(np.clip(shifted, 0, 255).tolist())


def _any_color(rng: np.random.Generator) -> Color:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.55), rng.uniform(0.35, 0.95))
    return tuple(round(255 * channel) for channel in rgb)


@dataclass(frozen=True)
class _Looks:
    fur: Color
    ink: Color  # of outlines
    marking: Color  # of muzzle and chest
    iris: Color
    nose: Color


def _sample_looks(rng: np.random.Generator) -> _Looks:
    fur = _picked(rng, _FURS)
    return _Looks(
        fur=fur,
        ink=_mixed(fur, _DARK, 0.6) if sum(fur) > 210 else _mixed(fur, _WHITE, 0.3),
        marking=_mixed(fur, _WHITE, rng.choice([0.12, 0.75])),
        iris=_picked(rng, _IRISES),
        nose=_picked(rng, _NOSES),
    )


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """A plain colour or a gradient, grainy or not, with a few discs and sticks."""
    count = int(rng.integers(2, 20))
    cells = np.array(_any_color(rng)) + rng.normal(0, rng.uniform(0, 12), (count, count, 1))
    if rng.random() < 0.3:
        cells = np.array([_any_color(rng) for _ in range(4)]).reshape(2, 2, 3)
    small = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8))
    canvas = small.resize((side, side), Image.Resampling.BICUBIC)
    for _ in range(rng.integers(0, 4)):
        turn = rotation(rng.uniform(0, 360))
        pen = Pen(canvas, rng.uniform(0, side, 2), side * rng.uniform(0.05, 0.12) * turn)
        shapes = ellipse(0, 0, 1, 0.7), limb(curve((-4, 0), (0, 1), (4, 0)), 0.15)
        pen.fill(shapes[rng.integers(2)], _any_color(rng))
    return canvas


def _draw_body(rng: np.random.Generator, pen: Pen, looks: _Looks) -> None:
    girth = rng.uniform(0.8, 1.1)
    pen.fill(ellipse(0, 2.3, girth, 1.7), looks.fur, looks.ink)
    pen.fill(ellipse(0, 2.3, 0.5 * girth, 1.1), looks.marking)
    if rng.random() < 0.3:  # a collar
        pen.line(curve((-0.7, 0.8), (0, 1.35), (0.7, 0.8)), _any_color(rng), 0.25)


def _draw_eyes(
    pen: Pen, looks: _Looks, x: float, y: float, apart: float, radius: float, pupil: float
) -> None:
    for side in _SIDES:
        centre = x + side * apart
        pen.fill(ellipse(centre, y, 1.2 * radius, 1.2 * radius), _DARK)
        pen.fill(ellipse(centre, y, radius, radius), looks.iris)
        pen.fill(ellipse(centre, y, pupil * radius, 0.85 * radius), _DARK)
        pen.fill(ellipse(centre - radius / 4, y - radius / 3, radius / 4, radius / 4), _WHITE)


def _photographed(
    rng: np.random.Generator, picture: Image.Image
) -> UInt8[np.ndarray, "size size 3"]:
    """Add blur, light from one side and noise of the sensor."""
    side = picture.width
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.002, 0.006) * side))
    values = np.asarray(picture, np.float32)
    values = (values - 128) * rng.uniform(0.75, 1.1) + 128 + rng.uniform(-20, 20)
    across, (slope_x, slope_y) = np.linspace(-1, 1, side), rng.uniform(-0.2, 0.2, 2)
    values = values * (1 + slope_x * across[None, :, None] + slope_y * across[:, None, None])
    noise = rng.standard_normal(values.shape, np.float32) * rng.uniform(0, 7)
    return np.clip(values + noise, 0, 255).astype(np.uint8)


# The two heads.


def _draw_cat(rng: np.random.Generator, pen: Pen, looks: _Looks) -> None:
    """Pointed ears, a flat muzzle, whiskers, large eyes whose pupils are often slits."""
    turn, splay, height = rng.uniform(-0.2, 0.2), rng.uniform(0, 0.3), rng.uniform(0.8, 1.1)
    for side in _SIDES:
        root, tip = (side * 0.58, -0.45), (side * (0.62 + splay), -0.45 - height)
        inner = (0.85 * tip[0] + 0.15 * root[0], 0.8 * tip[1] + 0.2 * root[1])
        pen.fill(limb(curve(root, tip), 0.45, pointed), looks.fur, looks.ink)
        pen.fill(limb(curve(root, inner), 0.27, pointed), _mixed(looks.fur, _PINK, 0.65))
    pen.fill(ellipse(0, 0, rng.uniform(0.98, 1.12), rng.uniform(0.85, 0.95)), looks.fur, looks.ink)
    y = rng.uniform(0.32, 0.42)
    whiskers, length = _WHITE if rng.random() < 0.6 else _DARK, rng.uniform(0.8, 1.1)
    for side in _SIDES:
        pen.fill(ellipse(turn + 0.17 * side, y, 0.25, 0.2), looks.marking)
        for rise in (-0.25, 0.0, 0.25):
            x, end = turn + 0.25 * side, turn + (0.25 + length) * side
            bend = ((x + end) / 2, y + 0.6 * rise)
            pen.line(curve((x, y + 0.3 * rise), bend, (end, y + 1.3 * rise)), whiskers, 0.03)
        mouth = curve((turn, y - 0.04), (turn, y + 0.18), (turn + 0.24 * side, y + 0.09))
        pen.line(mouth, looks.ink, 0.04)
    pen.fill(limb(curve((turn, y - 0.22), (turn, y - 0.04)), 0.13, pointed), looks.nose)
    pupil = rng.uniform(0.2, 0.35) if rng.random() < 0.65 else 0.7
    radius, apart = rng.uniform(0.2, 0.26), rng.uniform(0.38, 0.48)
    _draw_eyes(pen, looks, 0.6 * turn, rng.uniform(-0.2, -0.08), apart, radius, pupil)


def _draw_dog(rng: np.random.Generator, pen: Pen, looks: _Looks) -> None:
    """Drooping ears (upright with one in five), a long muzzle, small eyes, often a tongue."""
    turn, upright = rng.uniform(-0.2, 0.2), rng.random() < 0.2
    head = ellipse(0, 0, rng.uniform(0.84, 0.98), rng.uniform(0.9, 1.0))
    if upright:
        splay, height = rng.uniform(0, 0.3), rng.uniform(0.75, 1.0)
        for side in _SIDES:
            root, tip = (side * 0.55, -0.5), (side * (0.62 + splay), -0.5 - height)
            pen.fill(limb(curve(root, tip), 0.32), looks.fur, looks.ink)
            pen.fill(limb(curve(root, tip), 0.17), _mixed(looks.fur, _PINK, 0.65))
    pen.fill(head, looks.fur, looks.ink)
    if not upright:
        ears, reach, length = _mixed(looks.fur, _DARK, 0.2), *rng.uniform((1.1, 0.5), (1.4, 1.1))
        for side in _SIDES:
            centre = curve((side * 0.55, -0.75), (side * reach, -0.75), (side * 1.02, length))
            pen.fill(limb(centre, 0.32), ears, looks.ink)
    length, half_width = rng.uniform(0.5, 0.68), rng.uniform(0.42, 0.54)
    x, y = 1.4 * turn, 0.5
    if rng.random() < 0.4:
        tongue = curve((x, y + 0.4), (x, y + length + rng.uniform(0.25, 0.5)))
        pen.fill(limb(tongue, 0.17), _TONGUE)
    pen.fill(ellipse(x, y, half_width, length), looks.marking, looks.ink)
    nose_y, mouth_y = y - 0.4 * length, y + 0.5 * length
    pen.line(curve((x, nose_y), (x, mouth_y)), looks.ink, 0.04)
    for side in _SIDES:
        lip = curve((x, mouth_y), (x + 0.2 * side, mouth_y + 0.15), (x + 0.35 * side, mouth_y))
        pen.line(lip, looks.ink, 0.04)
    pen.fill(ellipse(x, nose_y, rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.22)), looks.nose)
    radius, apart = rng.uniform(0.13, 0.19), rng.uniform(0.33, 0.44)
    _draw_eyes(pen, looks, 0.6 * turn, rng.uniform(-0.3, -0.18), apart, radius, 0.75)
