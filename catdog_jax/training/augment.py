"""Random flips and rotations, and rescaling: pure functions on batches of pixels.

Each image has its own key and so its own draw, which makes the result independent of how a batch
is cut over devices. The transforms themselves (`flip`, `rotate`) take the drawn coins and angles.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Images = Float[Array, "batch height width channels"]
Keys = Key[Array, " batch"]
Augmentation = Callable[[Keys, Images], Images]


def flip(
    images: Images, horizontal: Bool[Array, " batch"], vertical: Bool[Array, " batch"]
) -> Images:
    """Mirror left-right the images with `horizontal`, upside-down those with `vertical`."""
    images = jnp.where(horizontal[:, None, None, None], images[:, :, ::-1], images)
    return jnp.where(vertical[:, None, None, None], images[:, ::-1], images)


def random_flip(keys: Keys, images: Images) -> Images:
    """Flip each axis of each image by its own fair coin.

    (`RandomFlip("horizontal_and_vertical")` of Keras 3 tosses one coin for both axes.)
    """
    coins = jax.vmap(partial(jax.random.bernoulli, shape=(2,)))(keys)
    return flip(images, coins[:, 0], coins[:, 1])


def rotate(images: Images, angles: Float[Array, " batch"]) -> Images:
    """Rotate each image about its centre, counterclockwise as seen, by `angles` in radians.

    Bilinear; beyond the border the image is mirrored, its edge pixels repeated
    (d c b a | a b c d | d c b a), as Keras `RandomRotation` does by default.
    """
    return jax.vmap(_rotate_one)(images, angles)


def random_rotation(keys: Keys, images: Images, *, factor: float = 0.2) -> Images:
    """Rotate each image by its own angle, uniform within ±`factor` of a full turn."""
    limit = 2 * jnp.pi * factor
    angles = jax.vmap(partial(jax.random.uniform, minval=-limit, maxval=limit))(keys)
    return rotate(images, angles)


def _rotate_one(
    image: Float[Array, "height width channels"], angle: Float[Array, ""]
) -> Float[Array, "height width channels"]:
    height, width, _ = image.shape
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    source_y = y * jnp.cos(angle) + x * jnp.sin(angle) + (height - 1) / 2
    source_x = x * jnp.cos(angle) - y * jnp.sin(angle) + (width - 1) / 2
    return _bilinear(image, source_y, source_x)


def _bilinear(
    image: Float[Array, "height width channels"],
    y: Float[Array, "out_height out_width"],
    x: Float[Array, "out_height out_width"],
) -> Float[Array, "out_height out_width channels"]:
    """Pixels at (y, x), at most half the image's diagonal from its centre; others are not safe.

    The mirrored border is laid out once, which takes a third of the time of working out mirrored
    places pixel by pixel; 2 more for the second pixel of a pair and for rounding. Whole pixels are
    fetched: `map_coordinates` does it a channel at a time.
    """
    height, width, _ = image.shape
    diagonal = math.hypot(height, width)
    pad_y, pad_x = (math.ceil((diagonal - side) / 2) + 2 for side in (height, width))
    image = jnp.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="symmetric")
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    row, column = top.astype(jnp.int32) + pad_y, left.astype(jnp.int32) + pad_x

    def pixel(dy: int, dx: int) -> Array:
        return image.at[row + dy, column + dx].get(mode="promise_in_bounds")

    upper = (1 - right) * pixel(0, 0) + right * pixel(0, 1)
    lower = (1 - right) * pixel(1, 0) + right * pixel(1, 1)
    return (1 - down) * upper + down * lower
