"""Outlines of limbs and heads, and a pen that fills them on a picture.

Points are in units of the head's radius: x points right and y down from the head's centre.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw

Color: TypeAlias = tuple[int, ...]
Points: TypeAlias = Float64[np.ndarray, "_n 2"]
Widths: TypeAlias = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]

_STEPS = np.sin(np.linspace(0, np.pi / 2, 24))  # denser at the end, where a rounded limb bends


def pointed(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (1 - step) ** 0.85


def rounded(step: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.sqrt(1 - step**6)


def rotation(degrees: float) -> Float64[np.ndarray, "2 2"]:
    """Turns row vectors clockwise."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def curve(*controls: tuple[float, float]) -> Points:
    """Points along the Bézier curve of two or more control points."""
    points, step = np.array(controls, np.float64)[:, None, :], _STEPS[:, None]
    while len(points) > 1:
        points = points[:-1] * (1 - step) + points[1:] * step
    return points[0]


def limb(centre: Points, half_width: float, widths: Widths = rounded) -> Points:
    """The outline around a `curve`; `widths` scales the width along it."""
    along = np.gradient(centre, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    offset = normal * half_width * widths(_STEPS)[:, None]
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


@dataclass(frozen=True)
class Pen:
    """Draws outlines on an image, in units and at the angle of `basis`, from `origin` on."""

    image: Image.Image
    origin: Float64[np.ndarray, " 2"]
    basis: Float64[np.ndarray, "2 2"]

    def fill(self, outline: Points, color: Color, edge: Color | None = None) -> None:
        ImageDraw.Draw(self.image).polygon(self._pixels(outline), fill=color)
        if edge is not None:
            self.line(np.concatenate([outline, outline[:1]]), edge, 0.05)

    def line(self, points: Points, color: Color, width: float) -> None:
        thickness = max(1, round(width * float(np.linalg.norm(self.basis[0]))))
        ImageDraw.Draw(self.image).line(self._pixels(points), fill=color, width=thickness)

    def _pixels(self, points: Points) -> list[float]:
        return (points @ self.basis + self.origin).ravel().tolist()
