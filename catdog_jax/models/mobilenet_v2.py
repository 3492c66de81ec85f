"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), layer for layer as Keras builds it.

Keras's particulars, which its published weights need: batch norm with epsilon 1e-3 and momentum
0.999, no biases in convolutions, padding at stride 2 as TensorFlow's SAME (not symmetric, as in
torch), and channel counts rounded to multiples of eight.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from . import layers, ops
from .layers import PathParts

_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.999


@dataclass(frozen=True)
class Row:
    """A row of the paper's table 2: `repeats` blocks, the first at `stride`, the others at 1."""

    expansion: int
    channels: int
    repeats: int
    stride: int


ROWS = (
    Row(expansion=1, channels=16, repeats=1, stride=1),
    Row(expansion=6, channels=24, repeats=2, stride=2),
    Row(expansion=6, channels=32, repeats=3, stride=2),
    Row(expansion=6, channels=64, repeats=4, stride=2),
    Row(expansion=6, channels=96, repeats=3, stride=1),
    Row(expansion=6, channels=160, repeats=3, stride=2),
    Row(expansion=6, channels=320, repeats=1, stride=1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280

# Keras's default for every kernel; Flax's is LeCun normal.
_glorot = nnx.initializers.glorot_uniform()

# Rounded before normalization is folded in, weights would be rounded twice.
_WHOLE = {layers.STAYS_FLOAT32: True}


class ConvNorm(nnx.Module):
    """A convolution without bias, batch norm, and relu6 unless `activate` is False."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        activate: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = nnx.Conv(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            strides=stride,
            feature_group_count=in_features if depthwise else 1,
            use_bias=False,
            kernel_init=_glorot,
            kernel_metadata=_WHOLE,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            out_features,
            momentum=_BATCH_NORM_MOMENTUM,
            epsilon=_BATCH_NORM_EPSILON,
            use_fast_variance=False,
            use_running_average=True,  # until a view of the model says otherwise
            scale_metadata=_WHOLE,
            bias_metadata=_WHOLE,
            rngs=rngs,
        )
        self.stride = stride
        self.depthwise = depthwise
        self.activate = activate

    def __call__(
        self, x: ops.Images, *, use_running_average: bool = True, rounded: bool = False
    ) -> ops.Images:
        """The features; `rounded` is about products, see `ops.pointwise_conv2d`."""
        convolve = ops.depthwise_conv2d if self.depthwise else ops.conv2d_in_loop
        kernel = self.conv.kernel[...]
        if not use_running_average:
            y = convolve(x, kernel.astype(x.dtype), stride=self.stride)
            y = self.norm(y, use_running_average=False).astype(x.dtype)
        else:
            # Normalizing with fixed statistics is linear, so it is folded into the kernel and free.
            scale, bias = self._scale_and_bias()
            kernel = (kernel * scale).astype(x.dtype)
            if rounded and kernel.shape[:2] == (1, 1):
                # Not the projections: rounding them alone makes the features 3 % wrong.
                y = ops.pointwise_conv2d(x, kernel[0, 0], rounded=self.activate)
            else:
                y = convolve(x, kernel, stride=self.stride)
            y = ops.add_bias(y, bias.astype(x.dtype))
        return nnx.relu6(y) if self.activate else y

    def _scale_and_bias(self) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
        """Scale and bias of inference-mode batch norm."""
        norm = self.norm
        assert norm.scale is not None
        assert norm.bias is not None
        scale = norm.scale[...] * lax.rsqrt(norm.var[...] + _BATCH_NORM_EPSILON)
        return scale, norm.bias[...] - norm.mean[...] * scale


class InvertedResidual(nnx.Module):
    """Expand 1×1, filter 3×3 depthwise, project 1×1; the input is added where shapes agree."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: int,
        stride: int,
        rngs: nnx.Rngs,
    ) -> None:
        hidden = in_features * expansion
        self.expand = None if expansion == 1 else ConvNorm(in_features, hidden, 1, rngs=rngs)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride=stride, depthwise=True, rngs=rngs)
        self.project = ConvNorm(hidden, out_features, 1, activate=False, rngs=rngs)
        self.residual = stride == 1 and in_features == out_features

    def __call__(self, x: ops.Images, **mode: bool) -> ops.Images:
        """The features; `mode` as of `ConvNorm`."""
        y = x if self.expand is None else self.expand(x, **mode)
        y = self.project(self.depthwise(y, **mode), **mode)
        return x + y if self.residual else y


class MobileNetV2(nnx.Module):
    """MobileNetV2 for images in [-1, 1] of any size from 32 pixels.

    Args:
        alpha: multiplies the channels of every layer; Keras has weights for 0.35, 0.5, 0.75, 1.0,
            1.3 and 1.4.
        include_top: add global average pooling and a linear classifier.
        classes: outputs of the classifier.
        rngs: source of the initial weights; see `catdog_jax.load_keras_weights` for trained ones.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        include_top: bool = False,
        classes: int = 1000,
        rngs: nnx.Rngs,
    ) -> None:
        channels = _round_to_eight(STEM_CHANNELS * alpha)
        self.stem = ConvNorm(3, channels, 3, stride=2, rngs=rngs)
        blocks = []
        for row in ROWS:
            out_features = _round_to_eight(row.channels * alpha)
            for repeat in range(row.repeats):
                stride = row.stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(
                        channels,
                        out_features,
                        expansion=row.expansion,
                        stride=stride,
                        rngs=rngs,
                    )
                )
                channels = out_features
        self.blocks = nnx.List(blocks)
        # Narrow networks keep the full width here, as in the paper.
        self.out_features = _round_to_eight(LAST_CHANNELS * max(alpha, 1.0))
        self.last = ConvNorm(channels, self.out_features, 1, rngs=rngs)
        self.classifier = (
            nnx.Linear(self.out_features, classes, kernel_init=_glorot, rngs=rngs)
            if include_top
            else None
        )
        self.alpha = alpha

    @property
    def stages(self) -> list[PathParts]:
        """Paths of the stem, the 17 blocks and the last convolution (and the top)."""
        blocks: list[PathParts] = [("blocks", index) for index in range(len(self.blocks))]
        top: list[PathParts] = [] if self.classifier is None else [("classifier",)]
        return [("stem",), *blocks, ("last",), *top]

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch height_out width_out features"] | Float[Array, "batch classes"]:
        """Features `[batch, ⌈height/32⌉, ⌈width/32⌉, out_features]`, or logits with the top.

        Args:
            images: rescaled to [-1, 1]. If they are bfloat16, so are the factors of most matrix
                products in inference mode; the rest, and the features, are float32 then.
            use_running_average: False normalizes with the batch's own statistics and updates the
                running ones, as in training from scratch. None follows the layers' setting
                (`nnx.view`), initially True.
        """
        if use_running_average is None:
            use_running_average = self.stem.norm.use_running_average
        if not use_running_average:
            return self._forward(images, use_running_average=False)
        graphdef, state = nnx.split(self)
        return ops.in_microbatches(
            lambda state, images: nnx.merge(graphdef, state)._forward(images), state, images
        )

    def _forward(
        self, images: ops.Images, *, use_running_average: bool = True
    ) -> Float[Array, "..."]:
        rounded = use_running_average and images.dtype == jnp.bfloat16
        x = images.astype(jnp.float32) if rounded else images
        for stage in (self.stem, *self.blocks, self.last):
            stage = partial(stage, use_running_average=use_running_average, rounded=rounded)
            x = ops.recomputed(stage)(x) if use_running_average else stage(x)
        return x if self.classifier is None else self.classifier(x.mean(axis=(1, 2)))


def _round_to_eight(channels: float) -> int:
    """The multiple of eight nearest to `channels`, at least eight, at most a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
