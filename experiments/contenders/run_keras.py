"""The benchmark's workloads in Keras, on the backend set by KERAS_BACKEND."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import worker
from keras_models import compile_as_post, post_layers
from worker import Result, Spec

TENSORFLOW = keras.backend.backend() == "tensorflow"


class Stamps(keras.callbacks.Callback):
    """Records when the first step and each epoch end, and the last loss."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = [time.perf_counter()]
        self.first_step = 0.0
        self.loss = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.first_step:
            float(logs["loss"])  # waits for the device
            self.first_step = time.time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(time.perf_counter())
        self.loss = float(logs["loss"])


def epoch(spec: Spec) -> Result:
    """Train from a folder of photos, as in the post."""
    stamps = Stamps()
    _fit(spec, [stamps], epochs=spec.epochs)
    return {**worker.time_epochs(stamps.epochs), "loss": stamps.loss, "device": _device()}


def start(spec: Spec) -> Result:
    """The same, up to the end of the first step."""
    stamps = Stamps()
    _fit(spec, [stamps], epochs=1, steps_per_epoch=1, validation_steps=1)
    return {**worker.time_start(spec, stamps.first_step), "device": _device()}


def step(spec: Spec) -> Result:
    """`train_on_batch`, which runs the same step as `fit`, equally fast."""
    model = _compiled_model(spec)
    with np.load(spec.batch) as batch:
        images, labels = batch["image"], batch["label"]
    # `train_on_batch` returns the loss as a number, so it waits for the device.
    result = worker.time_calls(lambda: model.train_on_batch(images, labels), spec.repeats)
    return {**result, "device": _device()}


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode, as one compiled function."""
    shape = (spec.image_size, spec.image_size, 3)
    model = keras.applications.MobileNetV2(shape, include_top=False, weights=None)  # pyright: ignore[reportArgumentType]
    worker.check_mobilenet(model.count_params())
    function = _compiled(model, training=False)
    images: Any = keras.ops.convert_to_tensor(_float_images(spec) / 127.5 - 1)
    result = worker.time_calls(lambda: _wait(function(images)), spec.repeats)
    return {**result, "device": _device()}


def augment(spec: Spec) -> Result:
    """Flips and rotations, in training mode: otherwise the layers do nothing."""
    model = keras.Sequential(
        [
            keras.Input((spec.image_size, spec.image_size, 3)),
            keras.layers.RandomFlip("horizontal_and_vertical"),
            keras.layers.RandomRotation(0.2),
        ]
    )
    function = _compiled(model, training=True)
    images: Any = keras.ops.convert_to_tensor(_float_images(spec))
    result = worker.time_calls(lambda: _wait(function(images)), spec.repeats)
    worker.check_changed(not np.array_equal(function(images), images))
    return {**result, "device": _device()}


def _fit(spec: Spec, callbacks: list[Any], **options: Any) -> None:
    def photos(part: str) -> Any:
        size = (spec.image_size, spec.image_size)
        data: Any = keras.utils.image_dataset_from_directory(
            f"{spec.photos}/{part}", image_size=size, batch_size=spec.batch_size
        )
        return data.prefetch(tf.data.AUTOTUNE)

    train, validation = photos("train"), photos("validation")
    _compiled_model(spec).fit(
        train, validation_data=validation, callbacks=callbacks, verbose=0, **options
    )


def _compiled_model(spec: Spec) -> Any:
    keras.utils.set_random_seed(spec.seed)
    weights = None if spec.weights == "none" else spec.weights
    shape = (spec.image_size, spec.image_size, 3)
    layers = post_layers(spec.model, spec.image_size, weights)
    model = keras.Sequential([keras.Input(shape), *layers])
    compile_as_post(model, spec.model, 1e-4 if spec.model == "model4" else 1e-3)
    return model


def _compiled(model: Any, *, training: bool) -> Callable[[Any], Any]:
    """`model` as one compiled function of its input, at least as fast as `predict_on_batch`."""
    if TENSORFLOW:
        # Without XLA, which makes MobileNetV2 ten times slower on a CPU.
        return tf.function(lambda images: model(images, training=training))
    import jax

    trained = [variable.value for variable in model.trainable_variables]
    other = [variable.value for variable in model.non_trainable_variables]
    function = jax.jit(
        lambda trained, other, images: model.stateless_call(
            trained, other, images, training=training
        )
    )
    return lambda images: function(trained, other, images)[0]


def _wait(output: Any) -> Any:
    return output.numpy() if TENSORFLOW else output.block_until_ready()


def _float_images(spec: Spec) -> np.ndarray:
    with np.load(spec.batch) as batch:
        return batch["image"].astype(np.float32)


def _device() -> str:
    if TENSORFLOW:
        return ", ".join(device.device_type for device in tf.config.get_visible_devices())
    import jax

    return f"{jax.device_count()} × {jax.devices()[0].device_kind}"


if __name__ == "__main__":
    worker.main(
        {"epoch": epoch, "start": start, "step": step, "forward": forward, "augment": augment}
    )
