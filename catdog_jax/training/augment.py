"""Random augmentation of training photos: pure functions of a key.

Most are `(key, image) -> image`, for one image of pixels 0…255. Those that mix images, like
`mixup`, are `(key, images, labels) -> (images, labels)` over a batch. The transforms themselves
(`flip`, `rotate`) take coins and angles that have been drawn.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key, Num

from ..errors import InputError
from ..models.ops import Images, in_microbatches
from .losses import Labels, one_hot

Image: TypeAlias = Float[Array, "height width channels"]
ImageAugmentation: TypeAlias = Callable[[Key[Array, ""], Image], Image]
BatchAugmentation: TypeAlias = Callable[[Key[Array, ""], Images, Labels], tuple[Images, Labels]]
Augmentation: TypeAlias = ImageAugmentation | BatchAugmentation


def combined(augmentations: Augmentation | Sequence[Augmentation]) -> BatchAugmentation:
    """All augmentations in order, as one over a batch; each image gets its own key."""
    if callable(augmentations):
        augmentations = [augmentations]
    steps: list[Any] = []
    for is_for_one, group in groupby(augmentations, is_for_one_image):
        parts = list(group)
        steps += [_over_batch(parts)] if is_for_one else parts

    def augment(
        key: Key[Array, ""], images: Float[Array, "batch *pixels"], labels: Labels
    ) -> tuple[Float[Array, "batch *pixels"], Labels]:
        for index, step in enumerate(steps):
            images, labels = step(jax.random.fold_in(key, index), images, labels)
        return images, labels

    return augment


def named_augmentation(text: str, num_classes: int) -> Augmentation:
    """An augmentation of this module by name: `flip`, `mirror`, or with a number, `rotation=0.2`.

    Raises:
        InputError: the name is unknown, or the number is out of range.
    """
    name, given, number = text.partition("=")
    plain: dict[str, ImageAugmentation] = {"flip": random_flip, "mirror": random_mirror}
    with_range: dict[str, tuple[Callable[[float], Augmentation], float, float]] = {
        "rotation": (random_rotation, 0, 1),
        "crop": (random_crop, 0.01, 1),
        "colour": (random_colour, 0, 1),
        "mixup": (partial(mixup, num_classes=num_classes), 0.01, 100),
    }
    if name in plain and not given:
        return plain[name]
    if name not in with_range:
        choices = ", ".join([*plain, *(f"{name}=NUMBER" for name in with_range)])
        raise InputError(
            f"unknown augmentation '{text}'; choose one of: {choices}; or your own FILE.py:NAME"
        )
    make, least, most = with_range[name]
    with contextlib.suppress(ValueError):
        if least <= float(number) <= most:
            return make(float(number))
    raise InputError(
        f"augment: {name} takes a number from {least} to {most}, as {name}=0.2, not '{number}'"
    )


def is_for_one_image(augmentation: Augmentation) -> bool:
    """Whether it is `(key, image) -> image`, not one of a batch and its labels."""
    required = [
        parameter
        for parameter in inspect.signature(augmentation).parameters.values()
        if parameter.default is parameter.empty
    ]
    return len(required) == 2


def _over_batch(functions: Sequence[Any]) -> BatchAugmentation:
    def on_image(key: Key[Array, ""], image: Image) -> Image:
        for function, its_key in zip(functions, jax.random.split(key, len(functions)), strict=True):
            image = function(its_key, image)
        return image

    changed = jax.vmap(on_image)

    def augment(key: Key[Array, ""], images: Images, labels: Labels) -> tuple[Images, Labels]:
        keys = jax.random.split(key, len(images))
        return in_microbatches(lambda _, *batch: changed(*batch), (), keys, images), labels

    return augment


def random_flip(key: Key[Array, ""], image: Image) -> Image:
    """Flip each axis with probability one half, independently.

    (`RandomFlip("horizontal_and_vertical")` of Keras 3 tosses one coin for both axes.)
    """
    horizontal, vertical = jax.random.bernoulli(key, shape=(2,))
    return flip(image, horizontal, vertical)


def random_mirror(key: Key[Array, ""], image: Image) -> Image:
    """Mirror left-right with probability one half."""
    return flip(image, jax.random.bernoulli(key), jnp.array(False))


def flip(image: Image, horizontal: Bool[Array, ""], vertical: Bool[Array, ""]) -> Image:
    """Mirror left-right if `horizontal`, upside-down if `vertical`."""
    image = jnp.where(horizontal, image[:, ::-1], image)
    return jnp.where(vertical, image[::-1], image)


def random_rotation(factor: float = 0.2) -> ImageAugmentation:
    """Rotate by an angle uniform within ±`factor` of a full turn; see `rotate`."""

    def rotation(key: Key[Array, ""], image: Image) -> Image:
        limit = 2 * jnp.pi * factor
        return rotate(image, jax.random.uniform(key, minval=-limit, maxval=limit))

    return rotation


def rotate(image: Image, angle: Float[Array, ""]) -> Image:
    """Rotate about the centre, counterclockwise as seen, by `angle` in radians.

    Bilinear; beyond the border the image is mirrored, its edge pixels repeated
    (d c b a | a b c d | d c b a), as Keras `RandomRotation` does by default.
    """
    height, width, _ = image.shape
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    source_y = y * jnp.cos(angle) + x * jnp.sin(angle) + (height - 1) / 2
    source_x = x * jnp.cos(angle) - y * jnp.sin(angle) + (width - 1) / 2
    return lax.platform_dependent(
        image, source_y, source_x, tpu=_bilinear_by_products, default=_bilinear
    )


def _bilinear(
    image: Image, y: Float[Array, "out_height out_width"], x: Float[Array, "out_height out_width"]
) -> Image:
    """Interpolate at (y, x), which must be within half the image's diagonal from its centre.

    Padding with the mirrored border once takes a third of the time of mirroring pixel by pixel. The
    border is 2 pixels wider than the diagonal needs, for the neighbouring pixel and for rounding.
    Gathers whole pixels; `map_coordinates` would take one channel at a time.
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


def _bilinear_by_products(
    image: Image, y: Float[Array, "out_height out_width"], x: Float[Array, "out_height out_width"]
) -> Image:
    """`_bilinear` without gathers, which are slow on TPUs: see `docs/targets.md`.

    Each row of the result is the image times the weights of its columns, then of its rows. That is
    two thousand times as much arithmetic, and the matrix units are made for it.
    """
    height, width, _ = image.shape

    def row(at: tuple[Float[Array, " out_width"], Float[Array, " out_width"]]) -> Array:
        of_rows, of_columns = (_weights(*pair) for pair in zip(at, (height, width), strict=True))
        # Three passes in bfloat16, which is exact enough for pixels.
        lines = jnp.einsum("hwc,wo->cho", image, of_columns, precision="high")
        return jnp.sum(lines * of_rows, axis=1)

    # Eight rows at a time: their weights stay in the chip's own memory.
    return lax.map(row, (y, x), batch_size=8).transpose(0, 2, 1)


def _weights(at: Float[Array, " out"], size: int) -> Float[Array, "size out"]:
    """The weight of each of `size` pixels at a place between them, mirrored beyond the border."""
    at = jnp.mod(at + 0.5, 2 * size)
    at = jnp.clip(jnp.minimum(at, 2 * size - at) - 0.5, 0, size - 1)
    return jnp.maximum(0, 1 - jnp.abs(at - jnp.arange(size)[:, None]))


def random_crop(least_area: float = 0.5) -> ImageAugmentation:
    """Crop a random part and resize it to the image's size (arXiv:1409.4842).

    Its share of the area is uniform in `least_area` to 1, its aspect ratio log-uniform in 3/4 to
    4/3, clipped to the image; bilinear, without antialiasing.
    """

    def crop(key: Key[Array, ""], image: Image) -> Image:
        area_key, aspect_key, place_key = jax.random.split(key, 3)
        area = jax.random.uniform(area_key, minval=least_area)
        limit = math.log(4 / 3) / 2
        stretch = jnp.exp(jax.random.uniform(aspect_key, minval=-limit, maxval=limit))
        side = jnp.minimum(jnp.sqrt(area) * jnp.stack([stretch, 1 / stretch]), 1.0)
        start = jax.random.uniform(place_key, (2,)) * (1 - side) * jnp.array(image.shape[:2])
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / side, -start / side, "linear", antialias=False
        )

    return crop


def random_colour(strength: float = 0.2) -> ImageAugmentation:
    """Change brightness, contrast and saturation, each by a factor uniform in 1 ± `strength`."""

    def colour(key: Key[Array, ""], image: Image) -> Image:
        brightness, contrast, saturation = jax.random.uniform(
            key, (3,), minval=1 - strength, maxval=1 + strength
        )
        image = image * brightness
        image = contrast * image + (1 - contrast) * image.mean()
        image = saturation * image + (1 - saturation) * image.mean(axis=-1, keepdims=True)
        return jnp.clip(image, 0, 255)

    return colour


def mixup(alpha: float, num_classes: int) -> BatchAugmentation:
    """Mix each image and its label with another's, the share drawn from Beta(alpha, alpha) a batch.

    Zhang et al. 2018, arXiv:1710.09412. Labels become probabilities, `[batch, num_classes]`.
    """
    from scipy.special import betaincinv  # takes a sixth of a second

    # jax.random.beta draws in loops, and a GPU stops for each turn: 46 of model 6's 244 kernels.
    of_beta = betaincinv(alpha, alpha, np.linspace(0, 1, 1025)).astype(np.float32)

    def mix(key: Key[Array, ""], images: Images, labels: Labels) -> tuple[Images, Labels]:
        share_key, order_key = jax.random.split(key)
        quantiles = jnp.asarray(of_beta)
        place = jax.random.uniform(share_key, maxval=len(quantiles) - 1)
        index = place.astype(int)
        low, high = quantiles[index], quantiles[index + 1]
        share = low + (high - low) * (place - index)
        order = jax.random.permutation(order_key, len(images))

        def mixed(array: Num[Array, "batch ..."]) -> Num[Array, "batch ..."]:
            return share * array + (1 - share) * array[order]

        return mixed(images), mixed(one_hot(labels, num_classes))

    return mix
