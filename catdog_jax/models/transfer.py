"""Model 4 of the post: transfer learning from MobileNetV2."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from .cnn import dropout
from .layers import rescale
from .mobilenet_v2 import MobileNetV2


class Model4(nnx.Module):
    """A frozen MobileNetV2, global max pooling, dropout 0.1 and one linear layer.

    Takes pixels 0…255. Only `head` is trained; `backbone` stays in inference mode. Without
    pretrained weights (`catdog_jax.load_keras_weights`) the backbone is random and of little use.

    Args:
        image_size: accepted for symmetry with the other models; any size from 32 pixels works.
        num_classes: two classes give one logit (positive for class 1), more give one a class.
        alpha: width of the backbone.
        rngs: source of the initial weights.
    """

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
        self.dropout = nnx.Dropout(0.1)
        self.head = nnx.Linear(
            self.backbone.out_features,
            1 if num_classes == 2 else num_classes,
            kernel_init=nnx.initializers.glorot_uniform(),
            rngs=rngs,
        )

    def features(
        self, images: Num[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """What the frozen part makes of `images`: nothing random, nothing trained."""
        return jnp.max(self.backbone(rescale(images)), axis=(1, 2))

    def classify(
        self, features: Float[Array, "batch features"], keys: Key[Array, " batch"] | None = None
    ) -> Float[Array, "batch outputs"]:
        """Logits from `features`; `keys`, one an image, switch dropout on."""
        return self.head(dropout(self.dropout, features, keys))

    def __call__(
        self,
        images: Num[Array, "batch height width 3"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Logits of `images`; `keys`, one an image, switch dropout on."""
        return self.classify(self.features(images), keys)
