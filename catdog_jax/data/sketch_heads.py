"""The heads of sketched cats and dogs, in units of the head's radius.

The head's centre is the origin, x points right and y down.
"""

from dataclasses import dataclass

import numpy as np

from .sketch_pen import (
    DARK,
    PINK,
    SIDES,
    TONGUE,
    WHITE,
    Looks,
    Pen,
    Points,
    curve,
    draw_fur,
    ellipse,
    limb,
    mix,
    pointed,
    widening,
)


@dataclass(frozen=True)
class _Eyes:
    """How the eyes of a head look, in head radii."""

    apart: float
    y: float
    radius: float
    pupil_width: float
    closed: bool


def _draw_eyes(pen: Pen, looks: Looks, eyes: _Eyes, turn: float) -> None:
    for side in SIDES:
        x = side * eyes.apart + turn
        if eyes.closed:
            droop = (x, eyes.y + 0.25)
            lid = curve((x - eyes.radius, eyes.y), droop, (x + eyes.radius, eyes.y))
            pen.line(lid, looks.ink, 0.07)
            continue
        pen.fill(ellipse(x, eyes.y, eyes.radius * 1.2, eyes.radius * 1.2), DARK)
        pen.fill(ellipse(x, eyes.y, eyes.radius, eyes.radius), looks.iris)
        pen.fill(ellipse(x, eyes.y, eyes.pupil_width, 0.85 * eyes.radius), DARK)
        glint = 0.25 * eyes.radius
        pen.fill(ellipse(x - glint, eyes.y - 1.4 * glint, glint, glint), WHITE)


def _draw_inner_ear(pen: Pen, looks: Looks, outline: Points) -> None:
    pen.fill(outline, mix(looks.fur, PINK, 0.65))


def draw_cat_head(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    turn = rng.uniform(-0.25, 0.25)
    _draw_cat_ears(rng, pen, looks)
    draw_fur(pen, looks, ellipse(0, 0, rng.uniform(0.98, 1.15), rng.uniform(0.84, 0.95)))
    muzzle_y = rng.uniform(0.32, 0.42)
    for side in SIDES:
        pen.fill(ellipse(turn + 0.17 * side, muzzle_y, 0.25, 0.2), looks.marking)
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


def _draw_cat_ears(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    splay, height = rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.15)
    half_width = rng.uniform(0.36, 0.5)
    for side in SIDES:
        root = (side * 0.58, -0.45)
        tip = (side * (0.62 + splay), -0.45 - height)
        draw_fur(pen, looks, limb(curve(root, tip), half_width, pointed))
        inner = curve(root, (0.85 * tip[0] + 0.15 * root[0], 0.8 * tip[1] + 0.2 * root[1]))
        _draw_inner_ear(pen, looks, limb(inner, 0.6 * half_width, pointed))


def _draw_whiskers(rng: np.random.Generator, pen: Pen, turn: float, y: float) -> None:
    color = WHITE if rng.random() < 0.6 else DARK
    length = rng.uniform(0.8, 1.2)
    for side in SIDES:
        for rise in (-0.25, 0.0, 0.25):
            start = (turn + 0.25 * side, y + 0.3 * rise)
            bend = (turn + (0.25 + length / 2) * side, y + 0.6 * rise)
            end = (turn + (0.25 + length) * side, y + 1.3 * rise + 0.1)
            pen.line(curve(start, bend, end), color, 0.025)


def _draw_cat_nose(pen: Pen, looks: Looks, x: float, y: float) -> None:
    pen.fill(limb(curve((x, y - 0.06), (x, y + 0.12)), 0.13, pointed), looks.nose)
    for side in SIDES:
        mouth = curve((x, y + 0.12), (x + 0.03 * side, y + 0.34), (x + 0.24 * side, y + 0.25))
        pen.line(mouth, looks.ink, 0.04)


def draw_dog_head(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    turn = rng.uniform(-0.3, 0.3)
    ears = rng.choice(["drooping", "folded", "upright"], p=[0.55, 0.25, 0.2])
    if ears == "upright":
        _draw_upright_ears(rng, pen, looks)
    draw_fur(pen, looks, ellipse(0, 0, rng.uniform(0.82, 0.98), rng.uniform(0.88, 1.0)))
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


def _draw_dog_muzzle(rng: np.random.Generator, pen: Pen, looks: Looks, turn: float) -> None:
    length, half_width = rng.uniform(0.5, 0.72), rng.uniform(0.42, 0.56)
    x, y = 1.4 * turn, 0.5
    if rng.random() < 0.4:
        tongue = curve((x, y + 0.4), (x, y + length + rng.uniform(0.25, 0.5)))
        pen.fill(limb(tongue, 0.17), TONGUE)
    muzzle = ellipse(x, y, half_width, length)
    pen.fill(muzzle, looks.marking)
    pen.line(np.concatenate([muzzle, muzzle[:1]]), looks.ink, 0.04)
    nose_y = y - 0.4 * length
    pen.fill(ellipse(x, nose_y, rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.22)), looks.nose)
    pen.fill(ellipse(x - 0.07, nose_y - 0.07, 0.06, 0.04), mix(looks.nose, WHITE, 0.6))
    pen.line(curve((x, nose_y), (x, y + 0.5 * length)), looks.ink, 0.04)
    for side in SIDES:
        corner = (x + 0.75 * half_width * side, y + 0.4 * length)
        lip = curve((x, y + 0.5 * length), (x + 0.2 * side, y + 0.75 * length), corner)
        pen.line(lip, looks.ink, 0.04)


def _draw_drooping_ears(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    length, out, half_width = rng.uniform(0.5, 1.2), rng.uniform(1.0, 1.4), rng.uniform(0.26, 0.38)
    for side in SIDES:
        centre = curve((side * 0.55, -0.75), (side * out, -0.75), (side * 1.02, length))
        draw_fur(pen, looks, limb(centre, half_width, widening))


def _draw_folded_ears(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    rise, fall, half_width = rng.uniform(1.3, 1.7), rng.uniform(-0.4, 0), rng.uniform(0.26, 0.36)
    for side in SIDES:
        centre = curve((side * 0.5, -0.7), (side * 0.85, -rise), (side * 1.15, fall))
        draw_fur(pen, looks, limb(centre, half_width))


def _draw_upright_ears(rng: np.random.Generator, pen: Pen, looks: Looks) -> None:
    splay, height = rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.05)
    half_width = rng.uniform(0.27, 0.36)
    for side in SIDES:
        root, tip = (side * 0.55, -0.5), (side * (0.62 + splay), -0.5 - height)
        draw_fur(pen, looks, limb(curve(root, tip), half_width))
        _draw_inner_ear(pen, looks, limb(curve(root, tip), 0.55 * half_width))
