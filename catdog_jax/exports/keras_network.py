"""Our models as plain Keras models, layer for layer, with their weights.

Keras is imported when a function is called, for it imports TensorFlow.
"""

from functools import singledispatch
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from flax import nnx

from ..errors import InputError
from ..models.cnn import Model1, Model2, Model3
from ..models.keras_files import turned
from ..models.keras_weights import keras_variables
from ..models.resnet import Model6, ResidualBlock
from ..models.transfer import Model4, Model5

KerasTensor: TypeAlias = Any

CONVERTIBLE = (Model1, Model2, Model3, Model4, Model5, Model6)
"""The models that can become Keras models."""


def network_of(model: nnx.Module, image_size: int) -> Any:
    """A Keras model from pixels 0…255 `[batch, image_size, image_size, 3]` to our model's logits.

    Augmentation is left out; dropout is there, and does nothing in inference.

    Raises:
        InputError: `model` is none of `CONVERTIBLE`.
    """
    import keras

    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    return keras.Model(pixels, logits_of(model, pixels), name=type(model).__name__.lower())


def probabilities_of(
    network: Any, images: KerasTensor, num_classes: int, *, mirror: bool
) -> KerasTensor:
    """Probabilities of the classes, as `Predictions.probabilities` computes them.

    `mirror` takes the mean of the logits for an image and for its mirror image.
    """
    from keras import layers, ops

    logits = network(images)
    if mirror:
        logits = layers.Average()([logits, network(ops.flip(images, axis=2))])
    if logits.shape[-1] == 1:
        both = layers.Concatenate()([-logits, logits])
        return layers.Activation("sigmoid", name="probabilities")(both)
    if logits.shape[-1] > num_classes:  # of the post's 64 outputs
        logits = logits[:, :num_classes]
    return layers.Softmax(name="probabilities")(logits)


def whole_model(network: Any, num_classes: int, *, mirror: bool) -> Any:
    """A Keras model from pixels of any size, resized as in training, to probabilities."""
    import keras

    size = network.input_shape[1]
    pixels = keras.Input((None, None, 3), name="pixels")
    resized = keras.layers.Resizing(size, size, interpolation="bilinear")(pixels)
    images = keras.ops.round(resized)  # decoded photos are whole numbers
    return keras.Model(pixels, probabilities_of(network, images, num_classes, mirror=mirror))


@singledispatch
def logits_of(model: nnx.Module, images: KerasTensor) -> KerasTensor:
    """The logits of `images`, pixels 0…255, by Keras layers with the weights of `model`."""
    del images
    raise InputError(f"{type(model).__name__} cannot be made of Keras layers")


@logits_of.register
def _(model: Model1, images: KerasTensor) -> KerasTensor:
    from keras import layers

    x = _convs(images, model.conv1, model.conv2, model.conv3)
    x = _dense(layers.Flatten()(x), model.dense, "relu")
    return _classifier(layers.Dropout(model.dropout.rate)(x), model)


@logits_of.register
def _(model: Model2, images: KerasTensor) -> KerasTensor:
    from keras import layers

    x = layers.Flatten()(_convs(images, *model.convs.layers))
    x = _dense(_dense(x, model.dense1, "relu"), model.dense2, "relu")
    return _classifier(layers.Dropout(model.dropout.rate)(x), model)


@logits_of.register
def _(model: Model3, images: KerasTensor) -> KerasTensor:
    from keras import layers

    x = layers.Flatten()(_convs(_rescaled(images), *model.convs.layers))
    x = layers.Dropout(model.dropout.rate)(x)
    return _classifier(_dense(_dense(x, model.dense1, "relu"), model.dense2, "relu"), model)


@logits_of.register(Model4 | Model5)
def _(model: Model4 | Model5, images: KerasTensor) -> KerasTensor:
    from keras import applications, layers

    backbone: Any = applications.MobileNetV2(
        tuple(images.shape[1:]),
        model.backbone.alpha,
        include_top=False,
        weights=None,  # pyright: ignore[reportArgumentType]
    )
    by_layer = groupby(keras_variables(model.backbone).items(), lambda pair: pair[0].split("/")[0])
    for name, variables in by_layer:
        arrays = [(tensor, np.asarray(variable[...])) for tensor, variable in variables]
        shaped = [array.reshape(turned(tensor, array.shape)) for tensor, array in arrays]
        backbone.get_layer(name).set_weights(shaped)
    pool = layers.GlobalMaxPooling2D if isinstance(model, Model4) else layers.GlobalAveragePooling2D
    x = pool()(backbone(_rescaled(images), training=False))
    return _dense(layers.Dropout(model.dropout.rate)(x), model.head)


@logits_of.register
def _(model: Model6, images: KerasTensor) -> KerasTensor:
    from keras import layers

    x = _conv(_rescaled(images), model.stem)
    for block in model.blocks:
        x = _residual(x, block)
    x = layers.GlobalAveragePooling2D()(_norm_relu(x, model.norm))
    return _dense(layers.Dropout(model.dropout.rate)(x), model.head)


def _residual(images: KerasTensor, block: ResidualBlock) -> KerasTensor:
    from keras import layers

    x = _norm_relu(images, block.norm1)
    shortcut = images
    if block.projection is not None:
        pooled = layers.AveragePooling2D(block.stride, padding="same")(x) if block.stride > 1 else x
        shortcut = _conv(pooled, block.projection)
    x = _conv(_norm_relu(_conv(x, block.conv1), block.norm2), block.conv2)
    return layers.Add()([shortcut, x])


def _convs(images: KerasTensor, *convs: Any) -> KerasTensor:
    from keras import layers

    x = images
    for conv in convs:  # `ConvPool`s
        filters, padding = conv.kernel.shape[-1], conv.padding.lower()
        layer = layers.Conv2D(filters, 3, padding=padding, activation="relu")
        x = _filled(layer, x, conv.kernel, conv.bias)
        x = layers.MaxPooling2D()(x) if conv.pool else x
    return x


def _conv(images: KerasTensor, conv: nnx.Conv) -> KerasTensor:
    from keras import layers

    *size, _, filters = conv.kernel.shape
    layer = layers.Conv2D(filters, size, strides=conv.strides, padding="same", use_bias=False)
    return _filled(layer, images, conv.kernel)


def _norm_relu(images: KerasTensor, norm: nnx.BatchNorm) -> KerasTensor:
    from keras import layers

    layer = layers.BatchNormalization(epsilon=norm.epsilon, momentum=norm.momentum)
    return layers.ReLU()(_filled(layer, images, norm.scale, norm.bias, norm.mean, norm.var))


def _rescaled(images: KerasTensor) -> KerasTensor:
    from keras import layers

    return layers.Rescaling(1 / 127.5, offset=-1)(images)


def _classifier(features: KerasTensor, model: Model1 | Model2 | Model3) -> KerasTensor:
    """The last layer, which the post's networks do not have (`blog_logits`)."""
    for layer in model.classifier.layers:
        features = _dense(features, layer)
    return features


def _dense(features: KerasTensor, dense: Any, activation: str | None = None) -> KerasTensor:
    from keras import layers

    layer = layers.Dense(dense.out_features, activation=activation)
    return _filled(layer, features, dense.kernel, dense.bias)


def _filled(layer: Any, inputs: KerasTensor, *weights: Any) -> KerasTensor:
    """The output of a layer that gets these weights."""
    outputs = layer(inputs)
    layer.set_weights([np.asarray(weight[...]) for weight in weights])
    return outputs
