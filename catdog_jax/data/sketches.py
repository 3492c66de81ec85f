"""Cats and dogs drawn by a program: a labelled data set that needs no download.

Both classes share one distribution of poses, fur, backgrounds, light and occlusion, so that only
shape (ears, muzzle, eyes, whiskers, tail) tells them apart and raw pixel values do not.

An animal is drawn in units of its head's radius: the head's centre is the origin, x points right
and y down. Nearly every part is an ellipse or a limb, which is a curve with a width along it.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from PIL import Image, ImageDraw, ImageFilter

CLASS_NAMES = ("cats", "dogs")
EDITION = 1
"""Raise it when the same number would now be another drawing."""
SMALLEST_SIZE = 32

_SUPERSAMPLING = 2
_SIDES = (-1, 1)

_Color: TypeAlias = tuple[int, int, int]
_Points: TypeAlias = Float64[np.ndarray, "n 2"]
_Profile: TypeAlias = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]

_FURS: tuple[_Color, ...] = (
    (44, 41, 46),  # black
    (98, 96, 104),  # slate
    (158, 154, 156),  # silver
    (240, 231, 216),  # cream
    (222, 180, 124),  # tan
    (216, 136, 66),  # ginger
    (146, 94, 56),  # brown
    (92, 60, 44),  # chocolate
)
_IRISES: tuple[_Color, ...] = ((206, 170, 60), (126, 170, 84), (120, 168, 200), (150, 96, 48))
_NOSES: tuple[_Color, ...] = ((40, 34, 36), (206, 118, 124), (100, 58, 50))
_DARK: _Color = (26, 20, 22)
_WHITE: _Color = (250, 248, 244)
_PINK: _Color = (228, 150, 150)
_TONGUE: _Color = (226, 104, 116)


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
    _draw_animal(rng, canvas, is_cat=CLASS_NAMES[label] == "cats")
    if rng.random() < 0.3:
        _draw_occluder(rng, canvas)
    return _photograph(rng, canvas.reduce(_SUPERSAMPLING))


def _check_size(image_size: int) -> None:
    if image_size < SMALLEST_SIZE:
        raise ValueError(f"image_size must be {SMALLEST_SIZE} or more, not {image_size}")


# Colours.


def _mix(first: _Color, second: _Color, share: float) -> _Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _pick(rng: np.random.Generator, colors: tuple[_Color, ...]) -> _Color:
    shifted = np.array(colors[rng.integers(len(colors))]) + rng.integers(-14, 15, 3)
    red, green, blue = np.clip(shifted, 0, 255).tolist()
    return red, green, blue


def _any_color(rng: np.random.Generator) -> _Color:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.55), rng.uniform(0.35, 0.95))
    red, green, blue = (round(255 * channel) for channel in rgb)
    return red, green, blue


# Outlines, and the pen that puts them on a canvas.

# Denser towards the end of a curve, where a rounded limb bends fastest.
_STEPS = np.sin(np.linspace(0, np.pi / 2, 24))


def _pointed(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (1 - step) ** 0.85


def _rounded(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.sqrt(1 - step**6)


def _widening(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (0.5 + 0.5 * step) * np.sqrt(1 - step**6)


def _leafy(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.sin(np.pi * step)


def _rotation(degrees: float) -> Float64[np.ndarray, "2 2"]:
    """Return the matrix that turns row vectors clockwise (y points down)."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> _Points:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], axis=1)
    return outline @ _rotation(degrees) + (x, y)


def _curve(*controls: tuple[float, float]) -> _Points:
    """Return points along the Bézier curve of two or more control points."""
    points = np.array(controls, dtype=np.float64)[:, None, :]
    step = _STEPS[:, None]
    while len(points) > 1:
        points = points[:-1] * (1 - step) + points[1:] * step
    return np.broadcast_to(points[0], (len(_STEPS), 2))


def _limb(centre: _Points, half_width: float, profile: _Profile = _rounded) -> _Points:
    """Return the outline around a `_curve`; `profile` scales the width along it."""
    along = np.gradient(centre, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    offset = normal * half_width * profile(_STEPS)[:, None]
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


@dataclass(frozen=True)
class _Pen:
    """A frame of coordinates on an image, and what draws outlines in it.

    Attributes:
      image: what is drawn on.
      origin: where the pen's (0, 0) lies, in pixels.
      basis: pixels for a step along the pen's x (first row) and y (second row).

    """

    image: Image.Image
    origin: Float64[np.ndarray, " 2"]
    basis: Float64[np.ndarray, "2 2"]

    def turned(self, degrees: float) -> "_Pen":
        return replace(self, basis=_rotation(degrees) @ self.basis)

    def fill(self, outline: _Points, color: _Color) -> None:
        ImageDraw.Draw(self.image).polygon(self._pixels(outline), fill=color)

    def line(self, points: _Points, color: _Color, width: float) -> None:
        thickness = max(1, round(width * float(np.linalg.norm(self.basis[0]))))
        ImageDraw.Draw(self.image).line(self._pixels(points), fill=color, width=thickness)

    def paste(self, outline: _Points, texture: Image.Image) -> None:
        """Fill the outline with `texture`, an image of the canvas's size."""
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._pixels(outline), fill=1)
        self.image.paste(texture, mask=mask)

    def _pixels(self, points: _Points) -> list[float]:
        return (points @ self.basis + self.origin).ravel().tolist()


def _pen_somewhere(rng: np.random.Generator, canvas: Image.Image) -> _Pen:
    """Return a pen at a random place and angle whose unit is the side of the canvas."""
    side = canvas.width
    return _Pen(canvas, rng.uniform(0, side, 2), side * _rotation(rng.uniform(0, 360)))


# What lies behind and before the animal.


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    kind = rng.choice(["plain", "gradient", "texture", "shapes", "room"])
    color = _any_color(rng)
    canvas = Image.new("RGB", (side, side), color)
    if kind == "gradient":
        corners = np.array([_mix(color, _any_color(rng), share) for share in rng.random(4)])
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
        level = _Pen(canvas, middle, side * _rotation(rng.uniform(-10, 10)))
        level.fill(floor, _any_color(rng))
    return canvas


def _spread(cells: Float64[np.ndarray, "rows columns 3"], side: int) -> Image.Image:
    """Stretch a few colours smoothly over a square canvas."""
    small = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _draw_clutter(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw a disc, a slab, a triangle or a stick, so that no such outline alone marks a class."""
    size = rng.uniform(0.06, 0.22)
    outlines = (
        _ellipse(0, 0, size, size * rng.uniform(0.5, 1)),
        _limb(_curve((0, 0), (size, size), (2 * size, 0)), size / 2),
        _limb(_curve((0, 0), (0, 1.5 * size)), size, _pointed),
        _limb(_curve((-0.5, 0), (0.1, rng.uniform(-0.3, 0.3)), (0.5, 0)), size / 7),
    )
    pen = _pen_somewhere(rng, canvas)
    pen.fill(outlines[rng.integers(len(outlines))], _any_color(rng))


def _draw_occluder(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw a bar, a box or a leaf over part of the picture."""
    pen = _pen_somewhere(rng, canvas)
    color = _any_color(rng)
    kind = rng.choice(["bar", "box", "leaf"])
    if kind == "bar":
        pen.fill(_limb(_curve((-2, 0), (2, 0)), rng.uniform(0.02, 0.06)), color)
    elif kind == "box":
        half = rng.uniform(0.06, 0.12)
        pen.fill(np.array([(-half, -half), (half, -half), (half, half), (-half, half)]), color)
    else:
        rib = _curve((-0.2, 0), (0, rng.uniform(-0.15, 0.15)), (0.2, 0))
        pen.fill(_limb(rib, rng.uniform(0.05, 0.1), _leafy), color)
        pen.line(rib, _mix(color, _DARK, 0.4), 0.01)


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


# The animal's colours: nothing here knows the class.


@dataclass(frozen=True)
class _Looks:
    """The colours of one animal.

    Attributes:
      coat: the fur with its pattern, an image of the canvas's size.
      ink: of the outlines.
      fur: main colour of the coat.
      marking: of muzzle and chest.
      iris: of the eyes.
      nose: of the nose.
      collar: of the collar, None without one.

    """

    coat: Image.Image
    ink: _Color
    fur: _Color
    marking: _Color
    iris: _Color
    nose: _Color
    collar: _Color | None


def _sample_looks(rng: np.random.Generator, pen: _Pen) -> _Looks:
    fur = _pick(rng, _FURS)
    lightness = sum(fur) / 3
    return _Looks(
        coat=_coat(rng, pen, fur),
        ink=_mix(fur, _DARK, 0.6) if lightness > 70 else _mix(fur, _WHITE, 0.3),
        fur=fur,
        marking=_mix(fur, _WHITE, rng.choice([0.12, 0.75])),
        iris=_pick(rng, _IRISES),
        nose=_pick(rng, _NOSES),
        collar=_any_color(rng) if rng.random() < 0.3 else None,
    )


def _coat(rng: np.random.Generator, pen: _Pen, fur: _Color) -> Image.Image:
    """Paint fur over a whole canvas, the pattern lying as the animal does."""
    coat = Image.new("RGB", pen.image.size, fur)
    brush = replace(pen, image=coat)
    second = _mix(fur, _pick(rng, _FURS), 0.6)
    pattern = rng.choice(["plain", "stripes", "patches"])
    if pattern == "stripes":
        gap, bend = rng.uniform(0.4, 0.65), rng.uniform(-0.5, 0.5)
        for x in np.arange(-3, 6, gap):
            brush.line(_curve((x, -2), (x + bend, 1), (x - bend, 2), (x, 4)), second, 0.4 * gap)
    elif pattern == "patches":
        for x, y in rng.uniform((-2, -2), (5, 3.5), (22, 2)):
            radius_x, radius_y = rng.uniform(0.2, 0.75, 2)
            brush.fill(_ellipse(x, y, radius_x, radius_y, rng.uniform(0, 180)), second)
    return coat


# The animal's body.


@dataclass(frozen=True)
class _Build:
    """The shape of a body, in head radii.

    Attributes:
      girth: half the width of the torso.
      leg: half the width of a leg.
      height: from the head's centre to the ground.
      tail: control points of the tail, from its root.
      tail_width: half the width of the tail.

    """

    girth: float
    leg: float
    height: float
    tail: tuple[tuple[float, float], ...]
    tail_width: float


def _sample_build(rng: np.random.Generator, *, is_cat: bool) -> _Build:
    curl, lift = rng.uniform(-0.4, 0.5), rng.uniform(0.7, 1.2)
    if is_cat:
        return _Build(
            girth=rng.uniform(0.62, 0.85),
            leg=rng.uniform(0.17, 0.24),
            height=rng.uniform(2.7, 3.1),
            tail=((0, 0), (1.2, 0.3), (0.9 + curl, -1.8 * lift), (1.5 + 2 * curl, -2 * lift)),
            tail_width=rng.uniform(0.12, 0.18),
        )
    return _Build(
        girth=rng.uniform(0.7, 0.95),
        leg=rng.uniform(0.2, 0.3),
        height=rng.uniform(2.8, 3.3),
        tail=((0, 0), (0.6, 0), (0.8, -0.5 * lift), (0.8 + curl, -1.1 * lift)),
        tail_width=rng.uniform(0.2, 0.3),
    )


# A pose's name, and the box it fills around the head: left, top, right, bottom in head radii.
_POSES: dict[str, tuple[float, float, float, float]] = {
    "portrait": (-1.4, -1.6, 1.4, 1.6),
    "sitting": (-1.6, -1.5, 2.0, 3.2),
    "standing": (-1.4, -1.5, 4.8, 3.2),
}
_POSE_SHARES = (0.4, 0.35, 0.25)


def _draw_animal(rng: np.random.Generator, canvas: Image.Image, *, is_cat: bool) -> None:
    pose = str(rng.choice(list(_POSES), p=_POSE_SHARES))
    pen = _pose_pen(rng, canvas, pose)
    looks = _sample_looks(rng, pen)
    build = _sample_build(rng, is_cat=is_cat)
    if pose == "portrait":
        _draw_bust(pen, looks, build)
    elif pose == "sitting":
        _draw_sitting_body(pen, looks, build)
    else:
        _draw_standing_body(pen, looks, build)
    _draw_collar(pen, looks)
    draw_head = _draw_cat_head if is_cat else _draw_dog_head
    draw_head(rng, pen.turned(rng.uniform(-15, 15)), looks)


def _pose_pen(rng: np.random.Generator, canvas: Image.Image, pose: str) -> _Pen:
    """Return the pen that draws a pose at a random size, place, tilt and mirroring."""
    left, top, right, bottom = _POSES[pose]
    side = canvas.width
    unit = side * rng.uniform(0.75, 1.1) / max(right - left, bottom - top)
    mirror = np.diag([rng.choice(_SIDES), 1.0])
    basis = unit * mirror @ _rotation(rng.uniform(-22, 22))
    place = side * (0.5 + rng.uniform(-0.12, 0.12, 2))
    box_centre = np.array([(left + right) / 2, (top + bottom) / 2])
    return _Pen(canvas, place - box_centre @ basis, basis)


def _draw_fur(pen: _Pen, looks: _Looks, outline: _Points) -> None:
    pen.paste(outline, looks.coat)
    pen.line(np.concatenate([outline, outline[:1]]), looks.ink, 0.05)


def _draw_tail(pen: _Pen, looks: _Looks, build: _Build, x: float, y: float) -> None:
    centre = _curve(*build.tail) + np.array((x, y))
    _draw_fur(pen, looks, _limb(centre, build.tail_width))


def _draw_collar(pen: _Pen, looks: _Looks) -> None:
    if looks.collar is not None:
        pen.line(_curve((-0.7, 0.8), (0, 1.35), (0.7, 0.8)), looks.collar, 0.25)


def _draw_bust(pen: _Pen, looks: _Looks, build: _Build) -> None:
    _draw_fur(pen, looks, _limb(_curve((0, 0.2), (0, 5)), 1.7 * build.girth, _widening))
    pen.fill(_ellipse(0, 1.9, 0.5 * build.girth, 1), looks.marking)


def _draw_sitting_body(pen: _Pen, looks: _Looks, build: _Build) -> None:
    ground = build.height
    _draw_tail(pen, looks, build, 0.8, ground - 0.4)
    for side in _SIDES:
        _draw_fur(pen, looks, _ellipse(side * build.girth, ground - 0.6, 0.5, 0.62))
    _draw_fur(pen, looks, _limb(_curve((0, 0.2), (0, ground)), 1.25 * build.girth, _widening))
    pen.fill(_ellipse(0, 1.4, 0.5 * build.girth, 0.6), looks.marking)
    for side in _SIDES:
        x = side * 0.5 * build.girth
        _draw_fur(pen, looks, _limb(_curve((x, ground), (x, 1.6)), build.leg))
        _draw_fur(pen, looks, _ellipse(x + 0.05 * side, ground + 0.05, 1.3 * build.leg, 0.17))


def _draw_standing_body(pen: _Pen, looks: _Looks, build: _Build) -> None:
    ground, belly = build.height, 0.9 + build.girth
    _draw_tail(pen, looks, build, 3.3, 1)
    for x in (0.9, 3.2, 0.4, 2.8):  # the far legs first
        _draw_fur(pen, looks, _limb(_curve((x, belly - 0.5), (x, ground)), build.leg))
        _draw_fur(pen, looks, _ellipse(x - 0.1, ground, 1.35 * build.leg, 0.16))
    spine = _curve((0, 0.1), (0.1, 1.3), (1.6, 1.1), (3.7, 1.2))
    _draw_fur(pen, looks, _limb(spine, build.girth, _widening))


# The animal's head.


@dataclass(frozen=True)
class _Eyes:
    """How the eyes of a head look, in head radii."""

    apart: float
    y: float
    radius: float
    pupil_width: float
    closed: bool


def _draw_eyes(pen: _Pen, looks: _Looks, eyes: _Eyes, turn: float) -> None:
    for side in _SIDES:
        x = side * eyes.apart + turn
        if eyes.closed:
            droop = (x, eyes.y + 0.25)
            lid = _curve((x - eyes.radius, eyes.y), droop, (x + eyes.radius, eyes.y))
            pen.line(lid, looks.ink, 0.07)
            continue
        pen.fill(_ellipse(x, eyes.y, eyes.radius * 1.2, eyes.radius * 1.2), _DARK)
        pen.fill(_ellipse(x, eyes.y, eyes.radius, eyes.radius), looks.iris)
        pen.fill(_ellipse(x, eyes.y, eyes.pupil_width, 0.85 * eyes.radius), _DARK)
        glint = 0.25 * eyes.radius
        pen.fill(_ellipse(x - glint, eyes.y - 1.4 * glint, glint, glint), _WHITE)


def _draw_inner_ear(pen: _Pen, looks: _Looks, outline: _Points) -> None:
    pen.fill(outline, _mix(looks.fur, _PINK, 0.65))


def _draw_cat_head(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    turn = rng.uniform(-0.25, 0.25)
    _draw_cat_ears(rng, pen, looks)
    _draw_fur(pen, looks, _ellipse(0, 0, rng.uniform(0.98, 1.15), rng.uniform(0.84, 0.95)))
    muzzle_y = rng.uniform(0.32, 0.42)
    for side in _SIDES:
        pen.fill(_ellipse(turn + 0.17 * side, muzzle_y, 0.25, 0.2), looks.marking)
    if rng.random() < 0.85:
        _draw_whiskers(rng, pen, turn, muzzle_y)
    _draw_cat_nose(pen, looks, turn, muzzle_y - 0.16)
    radius = rng.uniform(0.19, 0.26)
    eyes = _Eyes(
        apart=rng.uniform(0.38, 0.48),
        y=rng.uniform(-0.2, -0.08),
        radius=radius,
        pupil_width=radius * (rng.uniform(0.2, 0.35) if rng.random() < 0.65 else 0.7),
        closed=rng.random() < 0.1,
    )
    _draw_eyes(pen, looks, eyes, 0.6 * turn)


def _draw_cat_ears(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    splay, height = rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.15)
    half_width = rng.uniform(0.36, 0.5)
    for side in _SIDES:
        root = (side * 0.58, -0.45)
        tip = (side * (0.62 + splay), -0.45 - height)
        _draw_fur(pen, looks, _limb(_curve(root, tip), half_width, _pointed))
        inner = _curve(root, (0.85 * tip[0] + 0.15 * root[0], 0.8 * tip[1] + 0.2 * root[1]))
        _draw_inner_ear(pen, looks, _limb(inner, 0.6 * half_width, _pointed))


def _draw_whiskers(rng: np.random.Generator, pen: _Pen, turn: float, y: float) -> None:
    color = _WHITE if rng.random() < 0.6 else _DARK
    length = rng.uniform(0.8, 1.2)
    for side in _SIDES:
        for rise in (-0.25, 0.0, 0.25):
            start = (turn + 0.25 * side, y + 0.3 * rise)
            bend = (turn + (0.25 + length / 2) * side, y + 0.6 * rise)
            end = (turn + (0.25 + length) * side, y + 1.3 * rise + 0.1)
            pen.line(_curve(start, bend, end), color, 0.025)


def _draw_cat_nose(pen: _Pen, looks: _Looks, x: float, y: float) -> None:
    pen.fill(_limb(_curve((x, y - 0.06), (x, y + 0.12)), 0.13, _pointed), looks.nose)
    for side in _SIDES:
        mouth = _curve((x, y + 0.12), (x + 0.03 * side, y + 0.34), (x + 0.24 * side, y + 0.25))
        pen.line(mouth, looks.ink, 0.04)


def _draw_dog_head(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    turn = rng.uniform(-0.3, 0.3)
    ears = rng.choice(["drooping", "folded", "upright"], p=[0.55, 0.25, 0.2])
    if ears == "upright":
        _draw_upright_ears(rng, pen, looks)
    _draw_fur(pen, looks, _ellipse(0, 0, rng.uniform(0.82, 0.98), rng.uniform(0.88, 1.0)))
    if ears == "drooping":
        _draw_drooping_ears(rng, pen, looks)
    elif ears == "folded":
        _draw_folded_ears(rng, pen, looks)
    radius = rng.uniform(0.13, 0.2)
    eyes = _Eyes(
        apart=rng.uniform(0.33, 0.44),
        y=rng.uniform(-0.3, -0.16),
        radius=radius,
        pupil_width=0.75 * radius,
        closed=rng.random() < 0.1,
    )
    _draw_eyes(pen, looks, eyes, 0.6 * turn)
    _draw_dog_muzzle(rng, pen, looks, turn)


def _draw_dog_muzzle(rng: np.random.Generator, pen: _Pen, looks: _Looks, turn: float) -> None:
    length, half_width = rng.uniform(0.5, 0.72), rng.uniform(0.42, 0.56)
    x, y = 1.4 * turn, 0.5
    if rng.random() < 0.4:
        tongue = _curve((x, y + 0.4), (x, y + length + rng.uniform(0.25, 0.5)))
        pen.fill(_limb(tongue, 0.17), _TONGUE)
    muzzle = _ellipse(x, y, half_width, length)
    pen.fill(muzzle, looks.marking)
    pen.line(np.concatenate([muzzle, muzzle[:1]]), looks.ink, 0.04)
    nose_y = y - 0.4 * length
    pen.fill(_ellipse(x, nose_y, rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.22)), looks.nose)
    pen.fill(_ellipse(x - 0.07, nose_y - 0.07, 0.06, 0.04), _mix(looks.nose, _WHITE, 0.6))
    pen.line(_curve((x, nose_y), (x, y + 0.5 * length)), looks.ink, 0.04)
    for side in _SIDES:
        corner = (x + 0.75 * half_width * side, y + 0.4 * length)
        lip = _curve((x, y + 0.5 * length), (x + 0.2 * side, y + 0.75 * length), corner)
        pen.line(lip, looks.ink, 0.04)


def _draw_drooping_ears(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    length, out, half_width = rng.uniform(0.5, 1.2), rng.uniform(1.0, 1.4), rng.uniform(0.26, 0.38)
    for side in _SIDES:
        centre = _curve((side * 0.55, -0.75), (side * out, -0.75), (side * 1.02, length))
        _draw_fur(pen, looks, _limb(centre, half_width, _widening))


def _draw_folded_ears(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    rise, fall, half_width = rng.uniform(1.3, 1.7), rng.uniform(-0.4, 0), rng.uniform(0.26, 0.36)
    for side in _SIDES:
        centre = _curve((side * 0.5, -0.7), (side * 0.85, -rise), (side * 1.15, fall))
        _draw_fur(pen, looks, _limb(centre, half_width))


def _draw_upright_ears(rng: np.random.Generator, pen: _Pen, looks: _Looks) -> None:
    splay, height = rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.05)
    half_width = rng.uniform(0.27, 0.36)
    for side in _SIDES:
        root, tip = (side * 0.55, -0.5), (side * (0.62 + splay), -0.5 - height)
        _draw_fur(pen, looks, _limb(_curve(root, tip), half_width))
        _draw_inner_ear(pen, looks, _limb(_curve(root, tip), 0.55 * half_width))
