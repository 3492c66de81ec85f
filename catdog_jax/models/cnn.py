"""Models 1 to 3 of the post: convolutional networks trained from scratch.

All three take pixels 0…255 and end in one logit per class. With `blog_logits` they keep the post's
largest quirk: the softmax runs over the last hidden layer, 64 outputs after a relu, although only
the first two are ever a label. If all 64 outputs are zero, the network has no gradient left and its
loss stays at ln 64 for good.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from ..errors import InputError
from . import ops
from .layers import rescale
from .pooled_conv import pooled_conv2d

Pixels = Num[Array, "batch height width 3"]
Logits = Float[Array, "batch outputs"]

# Keras's default; Flax's is LeCun normal.
_glorot = nnx.initializers.glorot_uniform()

_BLOG_OUTPUTS = 64


class ConvPool(nnx.Module):
    """A 3×3 convolution, optionally 2×2 max pooling, a bias and a relu, in this order.

    Pooling first gives the same result as in the post, since bias and relu preserve the order of
    values, and leaves only a quarter of them to process.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        padding: ops.Padding,
        pool: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(_glorot(rngs.params(), (3, 3, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.padding: ops.Padding = padding
        self.pool = pool

    def __call__(self, images: Num[Array, "batch height width channels"]) -> ops.Images:
        kernel = self.kernel[...]
        convolve = pooled_conv2d if self.pool else ops.conv2d
        x = convolve(images.astype(kernel.dtype), kernel, padding=self.padding)
        return nnx.relu(x + self.bias[...])


class Model1(nnx.Module):
    """Model 1: convolutions of 32, 32 and 64 filters without padding; pixels not rescaled.

    Args:
        image_size: height and width of the images; at least 18.
        num_classes: number of classes, at most 64 with `blog_logits`.
        blog_logits: use the 64 outputs of the last hidden layer as logits, as in the post, instead
            of a final layer with one logit per class.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        *,
        image_size: int = 160,
        num_classes: int = 2,
        blog_logits: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check_outputs(num_classes, blog_logits)
        self.conv1 = ConvPool(3, 32, padding="VALID", rngs=rngs)
        self.conv2 = ConvPool(32, 32, padding="VALID", rngs=rngs)
        self.conv3 = ConvPool(32, 64, padding="VALID", pool=False, rngs=rngs)
        size = ((image_size - 2) // 2 - 2) // 2 - 2
        self.dense = _dense(64 * size**2, _BLOG_OUTPUTS, rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.classifier = _classifier(num_classes, blog_logits, rngs)

    def __call__(self, images: Pixels) -> Logits:
        """Logits of `images`."""
        x = self.conv3(self.conv2(self.conv1(images)))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.classifier(self.dropout(x))


class Model2(nnx.Module):
    """Model 2: convolutions of 16, 32 and 64 filters with padding; pixels not rescaled.

    The post trains it on randomly flipped and rotated images (`catdog_jax.training.augment`).
    Arguments as `Model1`; images of at least 8×8.
    """

    def __init__(
        self,
        *,
        image_size: int = 160,
        num_classes: int = 2,
        blog_logits: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check_outputs(num_classes, blog_logits)
        self.convs = _three_convs(rngs)
        self.dense1 = _dense(64 * (image_size // 8) ** 2, 128, rngs)
        self.dense2 = _dense(128, _BLOG_OUTPUTS, rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.classifier = _classifier(num_classes, blog_logits, rngs)

    def __call__(self, images: Pixels) -> Logits:
        """Logits of `images`."""
        x = self.convs(images)
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        x = nnx.relu(self.dense2(x))
        return self.classifier(self.dropout(x))


class Model3(nnx.Module):
    """Model 3: model 2 on pixels rescaled to [-1, 1], with dropout 0.2 before the dense layers.

    The post rescales before flips and rotations, here the model does so after them. The order makes
    no difference, since augmentation only moves and averages pixels.
    """

    def __init__(
        self,
        *,
        image_size: int = 160,
        num_classes: int = 2,
        blog_logits: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check_outputs(num_classes, blog_logits)
        self.convs = _three_convs(rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.dense1 = _dense(64 * (image_size // 8) ** 2, 128, rngs)
        self.dense2 = _dense(128, _BLOG_OUTPUTS, rngs)
        self.classifier = _classifier(num_classes, blog_logits, rngs)

    def __call__(self, images: Pixels) -> Logits:
        """Logits of `images`."""
        x = self.convs(rescale(images))
        x = self.dropout(x.reshape(x.shape[0], -1))
        x = nnx.relu(self.dense1(x))
        x = nnx.relu(self.dense2(x))
        return self.classifier(x)


def _three_convs(rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(
        ConvPool(3, 16, padding="SAME", rngs=rngs),
        ConvPool(16, 32, padding="SAME", rngs=rngs),
        ConvPool(32, 64, padding="SAME", rngs=rngs),
    )


def _dense(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        in_features, out_features, kernel_init=_glorot, dot_general=ops.dense_dot, rngs=rngs
    )


def _classifier(num_classes: int, blog_logits: bool, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential() if blog_logits else nnx.Sequential(_dense(64, num_classes, rngs))


def _check_outputs(num_classes: int, blog_logits: bool) -> None:
    if blog_logits and num_classes > _BLOG_OUTPUTS:
        raise InputError(
            f"the post's networks have {_BLOG_OUTPUTS} outputs, too few for {num_classes} classes; "
            "set blog_logits=False (--model-options blog_logits=False)"
        )
