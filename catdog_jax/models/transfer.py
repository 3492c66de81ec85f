"""Transfer learning from MobileNetV2: model 4 of the post, and model 5, which is fine-tuned."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from .layers import PathParts, rescale
from .mobilenet_v2 import MobileNetV2


class _Transfer(nnx.Module):
    """A MobileNetV2, global pooling, dropout and one linear layer; for pixels 0…255.

    Args:
        image_size: ignored (the other models need it); any size from 32 pixels works.
        num_classes: number of classes.
        alpha: width of the backbone.
        rngs: source of the initial weights.
    """

    feature_parts = ("backbone",)
    _pool: ClassVar[Callable[..., Any]]
    _dropout: ClassVar[float]
    _head_init: ClassVar[nnx.Initializer]

    def __init__(
        self,
        *,
        image_size: int = 160,
        num_classes: int = 2,
        alpha: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        del image_size
        self.backbone = MobileNetV2(alpha, rngs=rngs)
        self.dropout = nnx.Dropout(self._dropout, rngs=rngs)
        self.head = nnx.Linear(
            self.backbone.out_features,
            self._outputs(num_classes),
            kernel_init=self._head_init,
            rngs=rngs,
        )

    @staticmethod
    def _outputs(num_classes: int) -> int:
        return num_classes

    @property
    def stages(self) -> list[PathParts]:
        """Paths of the backbone's stages and of the head."""
        return [*(("backbone", *path) for path in self.backbone.stages), ("head",)]

    def features(
        self, images: Num[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """The backbone's features after global pooling."""
        features = self.backbone(rescale(images), use_running_average=True)
        return self._pool(features, axis=(1, 2))

    def classify(self, features: Float[Array, "batch features"]) -> Float[Array, "batch outputs"]:
        """Logits from `features`."""
        return self.head(self.dropout(features))

    def __call__(self, images: Num[Array, "batch height width 3"]) -> Float[Array, "batch outputs"]:
        """Logits of `images`."""
        return self.classify(self.features(images))


class Model4(_Transfer):
    """A frozen MobileNetV2, global max pooling, dropout 0.1 and one linear layer.

    The backbone is always in inference mode; to freeze its weights as well, train with
    `trainable=nnx.PathContains("head")`. It needs pretrained weights
    (`catdog_jax.load_keras_weights`). Two classes have one logit, positive for class 1.
    """

    _pool = staticmethod(jnp.max)
    _dropout = 0.1
    _head_init = staticmethod(nnx.initializers.glorot_uniform())

    @staticmethod
    def _outputs(num_classes: int) -> int:
        return 1 if num_classes == 2 else num_classes


class Model5(_Transfer):
    """MobileNetV2 to be fine-tuned: global average pooling, dropout 0.2, one logit for each class.

    Batch norm always uses its running statistics, even where its weights are trained: the
    statistics of small batches of other photos would spoil the pretrained features
    (https://keras.io/guides/transfer_learning/).
    """

    _pool = staticmethod(jnp.mean)
    _dropout = 0.2
    _head_init = staticmethod(nnx.initializers.lecun_normal())
