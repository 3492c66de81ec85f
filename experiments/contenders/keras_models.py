"""The models in Keras, which is imported when a function is called."""

from collections.abc import Sequence
from typing import Any


def post_layers(model: str, image_size: int, weights: Any = None) -> list[Any]:
    """The layers of one of the four models, as in the post.

    Args:
        model: `model1` … `model4`.
        image_size: height and width of the images.
        weights: for model 4's backbone, as in Keras: a file, `imagenet` or None.
    """
    from keras import layers
    from keras.applications import MobileNetV2

    def dense(units: int) -> Any:
        return layers.Dense(units, activation="relu")

    def convs(padding: str, *filters: int) -> list[Any]:
        made = []
        for count in filters:
            made.append(layers.Conv2D(count, 3, padding=padding, activation="relu"))
            made.append(layers.MaxPooling2D())
        return made

    if model == "model1":
        *without_last_pooling, _ = convs("valid", 32, 32, 64)
        return [*without_last_pooling, layers.Flatten(), dense(64), layers.Dropout(0.1)]
    augmentation = [layers.RandomFlip("horizontal_and_vertical"), layers.RandomRotation(0.2)]
    if model == "model2":
        trunk = [*augmentation, *convs("same", 16, 32, 64), layers.Flatten()]
        return [*trunk, dense(128), dense(64), layers.Dropout(0.1)]
    rescaled = [layers.Rescaling(1 / 127.5, offset=-1), *augmentation]
    if model == "model3":
        trunk = [*rescaled, *convs("same", 16, 32, 64), layers.Flatten()]
        return [*trunk, layers.Dropout(0.2), dense(128), dense(64)]
    backbone = MobileNetV2((image_size, image_size, 3), include_top=False, weights=weights)
    backbone.trainable = False
    head = [layers.GlobalMaxPooling2D(), layers.Dropout(0.1), layers.Dense(1)]
    return [*rescaled, backbone, *head]


def fine_tuned(stages: int, image_size: int, weights: Any = None) -> list[Any]:
    """The layers of model 5, with only the last `stages` of its 20 trained.

    Batch norm is in inference mode, its scale and bias are trained. Arguments as `post_layers`.
    """
    from keras import layers
    from keras.applications import MobileNetV2

    backbone = MobileNetV2((image_size, image_size, 3), include_top=False, weights=weights)
    first = 20 - stages  # stage n of 1 … 17 is block n - 1
    trained = not first
    for layer in backbone.layers:
        trained = trained or layer.name.startswith(f"block_{first - 1}_")
        layer.trainable = trained
    return [
        layers.Rescaling(1 / 127.5, offset=-1),
        _in_inference_mode(backbone),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.2),
        layers.Dense(2),
    ]


def _in_inference_mode(backbone: Any) -> Any:
    """`backbone` as Keras's guide to transfer learning calls it: `backbone(x, training=False)`."""
    import keras

    inputs = keras.Input(backbone.input_shape[1:])
    return keras.Model(inputs, backbone(inputs, training=False))


def model6(image_size: int, widths: Sequence[int], blocks: Sequence[int], stride: int) -> Any:
    """Model 6, layer for layer, for pixels 0…255.

    Args:
        image_size: height and width of the images.
        widths: channels of each stage.
        blocks: residual blocks of each stage.
        stride: of the first convolution.
    """
    import keras
    from keras import layers

    def conv(x: Any, features: int, size: int, stride: int = 1) -> Any:
        options: dict[str, Any] = {"use_bias": False, "kernel_initializer": "he_normal"}
        return layers.Conv2D(features, size, stride, "same", **options)(x)

    def norm_relu(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))

    inputs = keras.Input((image_size, image_size, 3))
    x: Any = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = conv(x, widths[0], max(3, 2 * stride - 1), stride)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            halves = 2 if stage and not block else 1
            shortcut, x = x, norm_relu(x)
            if halves > 1 or shortcut.shape[-1] != width:
                pooled = layers.AveragePooling2D(halves, padding="same")(x)
                shortcut = conv(pooled, width, 1)
            x = conv(norm_relu(conv(x, width, 3, halves)), width, 3)
            x = layers.Add()([shortcut, x])
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(norm_relu(x)))
    return keras.Model(inputs, layers.Dense(2)(x))


def compile_as_post(network: Any, model: str, learning_rate: float) -> None:
    """Compile `network` with Adam, accuracy and the post's loss for `model`."""
    from keras import losses, optimizers

    loss = losses.BinaryCrossentropy if model == "model4" else losses.SparseCategoricalCrossentropy
    network.compile(optimizers.Adam(learning_rate), loss(from_logits=True), metrics=["accuracy"])
