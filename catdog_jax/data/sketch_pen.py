"""What sketches are drawn with: colours, outlines, a pen, and the looks of an animal.

Nearly every part is an ellipse or a limb, which is a curve with a width along it.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw

SIDES = (-1, 1)

Color: TypeAlias = tuple[int, int, int]
Points: TypeAlias = Float64[np.ndarray, "n 2"]
Profile: TypeAlias = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]

FURS: tuple[Color, ...] = (
    (44, 41, 46),  # black
    (98, 96, 104),  # slate
    (158, 154, 156),  # silver
    (240, 231, 216),  # cream
    (222, 180, 124),  # tan
    (216, 136, 66),  # ginger
    (146, 94, 56),  # brown
    (92, 60, 44),  # chocolate
)
IRISES: tuple[Color, ...] = ((206, 170, 60), (126, 170, 84), (120, 168, 200), (150, 96, 48))
NOSES: tuple[Color, ...] = ((40, 34, 36), (206, 118, 124), (100, 58, 50))
DARK: Color = (26, 20, 22)
WHITE: Color = (250, 248, 244)
PINK: Color = (228, 150, 150)
TONGUE: Color = (226, 104, 116)


def mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    shifted = np.array(colors[rng.integers(len(colors))]) + rng.integers(-14, 15, 3)
    red, green, blue = np.clip(shifted, 0, 255).tolist()
    return red, green, blue


def any_color(rng: np.random.Generator) -> Color:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.55), rng.uniform(0.35, 0.95))
    red, green, blue = (round(255 * channel) for channel in rgb)
    return red, green, blue


# Outlines, and the pen that puts them on a canvas.

# Denser towards the end of a curve, where a rounded limb bends fastest.
STEPS = np.sin(np.linspace(0, np.pi / 2, 24))


def pointed(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (1 - step) ** 0.85


def rounded(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.sqrt(1 - step**6)


def widening(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (0.5 + 0.5 * step) * np.sqrt(1 - step**6)


def leafy(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.sin(np.pi * step)


def rotation(degrees: float) -> Float64[np.ndarray, "2 2"]:
    """Return the matrix that turns row vectors clockwise (y points down)."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Points:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], axis=1)
    return outline @ rotation(degrees) + (x, y)


def curve(*controls: tuple[float, float]) -> Points:
    """Return points along the Bézier curve of two or more control points."""
    points = np.array(controls, dtype=np.float64)[:, None, :]
    step = STEPS[:, None]
    while len(points) > 1:
        points = points[:-1] * (1 - step) + points[1:] * step
    return np.broadcast_to(points[0], (len(STEPS), 2))


def limb(centre: Points, half_width: float, profile: Profile = rounded) -> Points:
    """Return the outline around a `curve`; `profile` scales the width along it."""
    along = np.gradient(centre, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    offset = normal * half_width * profile(STEPS)[:, None]
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


@dataclass(frozen=True)
class Pen:
    """A frame of coordinates on an image, and what draws outlines in it.

    Attributes:
      image: what is drawn on.
      origin: where the pen's (0, 0) lies, in pixels.
      basis: pixels for a step along the pen's x (first row) and y (second row).

    """

    image: Image.Image
    origin: Float64[np.ndarray, " 2"]
    basis: Float64[np.ndarray, "2 2"]

    def turned(self, degrees: float) -> "Pen":
        return replace(self, basis=rotation(degrees) @ self.basis)

    def fill(self, outline: Points, color: Color) -> None:
        ImageDraw.Draw(self.image).polygon(self._pixels(outline), fill=color)

    def line(self, points: Points, color: Color, width: float) -> None:
        thickness = max(1, round(width * float(np.linalg.norm(self.basis[0]))))
        ImageDraw.Draw(self.image).line(self._pixels(points), fill=color, width=thickness)

    def paste(self, outline: Points, texture: Image.Image) -> None:
        """Fill the outline with `texture`, an image of the canvas's size."""
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._pixels(outline), fill=1)
        self.image.paste(texture, mask=mask)

    def _pixels(self, points: Points) -> list[float]:
        return (points @ self.basis + self.origin).ravel().tolist()


def pen_somewhere(rng: np.random.Generator, canvas: Image.Image) -> Pen:
    """Return a pen at a random place and angle whose unit is the side of the canvas."""
    side = canvas.width
    return Pen(canvas, rng.uniform(0, side, 2), side * rotation(rng.uniform(0, 360)))


# The animal's colours: nothing here knows the class.


@dataclass(frozen=True)
class Looks:
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
    ink: Color
    fur: Color
    marking: Color
    iris: Color
    nose: Color
    collar: Color | None


def sample_looks(rng: np.random.Generator, pen: Pen) -> Looks:
    fur = pick(rng, FURS)
    lightness = sum(fur) / 3
    return Looks(
        coat=coat(rng, pen, fur),
        ink=mix(fur, DARK, 0.6) if lightness > 70 else mix(fur, WHITE, 0.3),
        fur=fur,
        marking=mix(fur, WHITE, rng.choice([0.12, 0.75])),
        iris=pick(rng, IRISES),
        nose=pick(rng, NOSES),
        collar=any_color(rng) if rng.random() < 0.3 else None,
    )


def coat(rng: np.random.Generator, pen: Pen, fur: Color) -> Image.Image:
    """Paint fur over a whole canvas, the pattern lying as the animal does."""
    coat = Image.new("RGB", pen.image.size, fur)
    brush = replace(pen, image=coat)
    second = mix(fur, pick(rng, FURS), 0.6)
    pattern = rng.choice(["plain", "stripes", "patches"])
    if pattern == "stripes":
        gap, bend = rng.uniform(0.4, 0.65), rng.uniform(-0.5, 0.5)
        for x in np.arange(-3, 6, gap):
            brush.line(curve((x, -2), (x + bend, 1), (x - bend, 2), (x, 4)), second, 0.4 * gap)
    elif pattern == "patches":
        for x, y in rng.uniform((-2, -2), (5, 3.5), (22, 2)):
            radius_x, radius_y = rng.uniform(0.2, 0.75, 2)
            brush.fill(ellipse(x, y, radius_x, radius_y, rng.uniform(0, 180)), second)
    return coat


def draw_fur(pen: Pen, looks: Looks, outline: Points) -> None:
    pen.paste(outline, looks.coat)
    pen.line(np.concatenate([outline, outline[:1]]), looks.ink, 0.05)
