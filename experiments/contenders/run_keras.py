"""The benchmark's workloads in Keras, on the backend set by KERAS_BACKEND."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import worker
from keras_models import compile_as_post, fine_tuned, model6, post_layers
from worker import FINE_TUNED, MODEL6_STRIDE, MODEL6_WIDTHS, Result, Spec

TENSORFLOW = keras.backend.backend() == "tensorflow"


class Stamps(keras.callbacks.Callback):
    """Records when each epoch ends, and the last loss.

    It has no method for batches: Keras on JAX would then wait for the device after each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = [time.perf_counter()]
        self.loss = 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(time.perf_counter())
        self.loss = float(logs["loss"])
        print(logs)


class FirstStep(keras.callbacks.Callback):
    """Records when the first step ends."""

    finished = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.finished:
            float(logs["loss"])  # waits for the device
            self.finished = time.time()


def epoch(spec: Spec) -> Result:
    """Train from a folder of photos, as in the post."""
    stamps = Stamps()
    _fit(spec, [stamps], epochs=spec.epochs)
    return {**worker.time_epochs(stamps.epochs), "loss": stamps.loss, "device": _device()}


def start(spec: Spec) -> Result:
    """The same, up to the end of the first step."""
    first_step = FirstStep()
    _fit(spec, [first_step], epochs=1, steps_per_epoch=1, validation_steps=1)
    return {**worker.time_start(spec, first_step.finished), "device": _device()}


def run(spec: Spec) -> Result:
    """The same from the start of the process to a saved model; first: to the end of epoch 1."""
    stamps = Stamps()
    model = _fit(spec, [stamps], epochs=spec.epochs)
    model.save(f"{spec.scratch}/model.keras")
    done = time.time()
    first = done - (time.perf_counter() - stamps.epochs[1])
    return {
        "first": first - spec.started,
        "seconds": [done - spec.started],
        "loss": stamps.loss,
        "device": _device(),
    }


def predict(spec: Spec) -> Result:
    """Load a saved model and classify a photo, from the start of the process to the answer."""
    model: Any = keras.saving.load_model(spec.saved, compile=False)
    size = model.input_shape[1:3]
    image = keras.utils.img_to_array(keras.utils.load_img(spec.photo, target_size=size))
    print(model.predict(image[None], verbose=0))
    return {**worker.time_start(spec, time.time()), "device": _device()}


def memory(spec: Spec) -> Result:
    """Train with `fit` on arrays in host memory."""
    (images, labels), validation = worker.load_arrays(spec.arrays)
    model = _compiled_model(spec)
    stamps = Stamps()
    model.fit(
        images,
        labels,
        spec.batch_size,
        spec.epochs,
        validation_data=validation,
        callbacks=[stamps],
        verbose=0,
    )
    return {**worker.time_epochs(stamps.epochs), "loss": stamps.loss, "device": _device()}


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
    worker.check_parameters("mobilenet", model.count_params())
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


def _fit(spec: Spec, callbacks: list[Any], **options: Any) -> Any:
    import tensorflow as tf

    def photos(part: str) -> Any:
        size = (spec.image_size, spec.image_size)
        data: Any = keras.utils.image_dataset_from_directory(
            f"{spec.photos}/{part}", image_size=size, batch_size=spec.batch_size
        )
        return data.prefetch(tf.data.AUTOTUNE)

    train, validation = photos("train"), photos("validation")
    model = _compiled_model(spec)
    model.fit(train, validation_data=validation, callbacks=callbacks, verbose=0, **options)
    return model


def _compiled_model(spec: Spec) -> Any:
    keras.utils.set_random_seed(spec.seed)
    if spec.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    if TENSORFLOW:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(spec.precision != "float32")
    weights = None if spec.weights == "none" else spec.weights
    shape = (spec.image_size, spec.image_size, 3)
    if spec.model == "model6":
        model = model6(spec.image_size, MODEL6_WIDTHS, (1, 1, 1, 1), MODEL6_STRIDE)
        trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        worker.check_parameters("model6", trained)
    elif spec.model in FINE_TUNED:
        layers = fine_tuned(FINE_TUNED[spec.model], spec.image_size, weights)
        model = keras.Sequential([keras.Input(shape), *layers])
    else:
        layers = post_layers(spec.model, spec.image_size, weights)
        model = keras.Sequential([keras.Input(shape), *layers])
    low = spec.model == "model4" or spec.model in FINE_TUNED
    compile_as_post(model, spec.model, 1e-4 if low else 1e-3)
    return model


def _compiled(model: Any, *, training: bool) -> Callable[[Any], Any]:
    """`model` as one compiled function of its input, at least as fast as `predict_on_batch`."""
    if TENSORFLOW:
        import tensorflow as tf

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
        import tensorflow as tf

        return ", ".join(device.device_type for device in tf.config.get_visible_devices())
    import jax

    return f"{jax.device_count()} × {jax.devices()[0].device_kind}"


if __name__ == "__main__":
    worker.main(
        {
            "epoch": epoch,
            "memory": memory,
            "start": start,
            "run": run,
            "predict": predict,
            "step": step,
            "finetune": step,
            "forward": forward,
            "augment": augment,
        }
    )
