"""The post's four models in Keras, which is imported when a function is called."""

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


def compile_as_post(network: Any, model: str, learning_rate: float) -> None:
    """Compile `network` with Adam, accuracy and the post's loss for `model`."""
    from keras import losses, optimizers

    loss = losses.BinaryCrossentropy if model == "model4" else losses.SparseCategoricalCrossentropy
    network.compile(optimizers.Adam(learning_rate), loss(from_logits=True), metrics=["accuracy"])
