"""Sketched cats and dogs: a pose, a body and a head, in units of the head's radius."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .sketch_heads import draw_cat_head, draw_dog_head
from .sketch_pen import (
    SIDES,
    Looks,
    Pen,
    curve,
    draw_fur,
    ellipse,
    limb,
    rotation,
    sample_looks,
    widening,
)


@dataclass(frozen=True)
class Build:
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


def sample_build(rng: np.random.Generator, *, is_cat: bool) -> Build:
    curl, lift = rng.uniform(-0.4, 0.5), rng.uniform(0.7, 1.2)
    if is_cat:
        return Build(
            girth=rng.uniform(0.62, 0.85),
            leg=rng.uniform(0.17, 0.24),
            height=rng.uniform(2.7, 3.1),
            tail=((0, 0), (1.2, 0.3), (0.9 + curl, -1.8 * lift), (1.5 + 2 * curl, -2 * lift)),
            tail_width=rng.uniform(0.12, 0.18),
        )
    return Build(
        girth=rng.uniform(0.7, 0.95),
        leg=rng.uniform(0.2, 0.3),
        height=rng.uniform(2.8, 3.3),
        tail=((0, 0), (0.6, 0), (0.8, -0.5 * lift), (0.8 + curl, -1.1 * lift)),
        tail_width=rng.uniform(0.2, 0.3),
    )


# A pose's name, and the box it fills around the head: left, top, right, bottom in head radii.
POSES: dict[str, tuple[float, float, float, float]] = {
    "portrait": (-1.4, -1.6, 1.4, 1.6),
    "sitting": (-1.6, -1.5, 2.0, 3.2),
    "standing": (-1.4, -1.5, 4.8, 3.2),
}
POSE_SHARES = (0.4, 0.35, 0.25)


def draw_animal(rng: np.random.Generator, canvas: Image.Image, *, is_cat: bool) -> None:
    pose = str(rng.choice(list(POSES), p=POSE_SHARES))
    pen = pose_pen(rng, canvas, pose)
    looks = sample_looks(rng, pen)
    build = sample_build(rng, is_cat=is_cat)
    if pose == "portrait":
        _draw_bust(pen, looks, build)
    elif pose == "sitting":
        _draw_sitting_body(pen, looks, build)
    else:
        _draw_standing_body(pen, looks, build)
    _draw_collar(pen, looks)
    draw_head = draw_cat_head if is_cat else draw_dog_head
    draw_head(rng, pen.turned(rng.uniform(-15, 15)), looks)


def pose_pen(rng: np.random.Generator, canvas: Image.Image, pose: str) -> Pen:
    """Return the pen that draws a pose at a random size, place, tilt and mirroring."""
    left, top, right, bottom = POSES[pose]
    side = canvas.width
    unit = side * rng.uniform(0.75, 1.1) / max(right - left, bottom - top)
    mirror = np.diag([rng.choice(SIDES), 1.0])
    basis = unit * mirror @ rotation(rng.uniform(-22, 22))
    place = side * (0.5 + rng.uniform(-0.12, 0.12, 2))
    box_centre = np.array([(left + right) / 2, (top + bottom) / 2])
    return Pen(canvas, place - box_centre @ basis, basis)


def _draw_tail(pen: Pen, looks: Looks, build: Build, x: float, y: float) -> None:
    centre = curve(*build.tail) + np.array((x, y))
    draw_fur(pen, looks, limb(centre, build.tail_width))


def _draw_collar(pen: Pen, looks: Looks) -> None:
    if looks.collar is not None:
        pen.line(curve((-0.7, 0.8), (0, 1.35), (0.7, 0.8)), looks.collar, 0.25)


def _draw_bust(pen: Pen, looks: Looks, build: Build) -> None:
    draw_fur(pen, looks, limb(curve((0, 0.2), (0, 5)), 1.7 * build.girth, widening))
    pen.fill(ellipse(0, 1.9, 0.5 * build.girth, 1), looks.marking)


def _draw_sitting_body(pen: Pen, looks: Looks, build: Build) -> None:
    ground = build.height
    _draw_tail(pen, looks, build, 0.8, ground - 0.4)
    for side in SIDES:
        draw_fur(pen, looks, ellipse(side * build.girth, ground - 0.6, 0.5, 0.62))
    draw_fur(pen, looks, limb(curve((0, 0.2), (0, ground)), 1.25 * build.girth, widening))
    pen.fill(ellipse(0, 1.4, 0.5 * build.girth, 0.6), looks.marking)
    for side in SIDES:
        x = side * 0.5 * build.girth
        draw_fur(pen, looks, limb(curve((x, ground), (x, 1.6)), build.leg))
        draw_fur(pen, looks, ellipse(x + 0.05 * side, ground + 0.05, 1.3 * build.leg, 0.17))


def _draw_standing_body(pen: Pen, looks: Looks, build: Build) -> None:
    ground, belly = build.height, 0.9 + build.girth
    _draw_tail(pen, looks, build, 3.3, 1)
    for x in (0.9, 3.2, 0.4, 2.8):  # the far legs first
        draw_fur(pen, looks, limb(curve((x, belly - 0.5), (x, ground)), build.leg))
        draw_fur(pen, looks, ellipse(x - 0.1, ground, 1.35 * build.leg, 0.16))
    spine = curve((0, 0.1), (0.1, 1.3), (1.6, 1.1), (3.7, 1.2))
    draw_fur(pen, looks, limb(spine, build.girth, widening))
