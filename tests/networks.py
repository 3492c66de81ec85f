"""Small networks of standard NNX layers, and a callback, as a user would write them."""

import time
from typing import Any

from flax import nnx


class Linear(nnx.Module):
    """The smallest network that takes photos: mean colour, dropout, one linear layer."""

    def __init__(self, *, num_classes: int = 2, dropout: float = 0.2, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(3, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        return self.linear(self.dropout(images.mean(axis=(1, 2)) / 255))


class Residual(nnx.Module):
    """A small residual network of standard layers, with batch norm and dropout."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.convs = nnx.List([nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs) for _ in "ab"])
        self.norms = nnx.List([nnx.BatchNorm(8, momentum=0.9, rngs=rngs) for _ in "ab"])
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        x = self.stem(images / 127.5 - 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + nnx.relu(norm(conv(x)))
        return self.head(self.dropout(x.mean(axis=(1, 2))))


class TwoParts(nnx.Module):
    """A backbone and a head, of one linear layer each, with dropout in between."""

    feature_parts = ("backbone",)
    stages = (("backbone",), ("head",))

    def __init__(self, *, num_classes: int = 2, rngs: nnx.Rngs) -> None:
        self.backbone = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(4, num_classes, rngs=rngs)

    def features(self, images: Any) -> Any:
        return self.backbone(images.mean(axis=(1, 2)) / 255)

    def classify(self, features: Any) -> Any:
        return self.head(self.dropout(features))

    def __call__(self, images: Any) -> Any:
        return self.classify(self.features(images))


def pause(_record: Any, _state: Any) -> None:
    """Make an epoch as long as the write of a checkpoint."""
    time.sleep(0.1)
