"""The benchmark's workloads in PyTorch, eager or compiled, in its fast layout: channels last."""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch._inductor.config  # pyright: ignore[reportMissingImports]
import worker
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from torch_models import load_backbone, mobilenet, network
from worker import Result, Spec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Flip each image along each axis at random, then rotate it by a random angle."""
    count = len(images)
    coins = torch.rand(2, count, 1, 1, 1, device=images.device) < 0.5
    images = torch.where(coins[0], images.flip(3), images)
    images = torch.where(coins[1], images.flip(2), images)
    angles = (torch.rand(count, device=images.device) * 2 - 1) * (0.2 * 2 * math.pi)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, sin, zero, -sin, cos, zero], 1).reshape(count, 2, 3)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    rotated = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # `grid_sample` returns channels first.
    return rotated.contiguous(memory_format=torch.channels_last)


def step(spec: Spec) -> Result:
    """One training step on a batch in host memory."""
    with np.load(spec.batch) as batch:
        pixels, labels = batch["image"], batch["label"]
    training = Training(spec)

    def take_step() -> None:
        training.step(_on_device(pixels), _on_device(labels))
        _wait()

    return {**worker.time_calls(take_step, spec.repeats), "device": _device()}


def memory(spec: Spec) -> Result:
    """Train on photos that are first copied to the device and stay there."""
    arrays = worker.load_arrays(spec.arrays)
    training = Training(spec)
    stamps, loss = [time.perf_counter()], 0.0
    train, validation = ([_on_device(array) for array in pair] for pair in arrays)
    for _ in range(spec.epochs):
        order = torch.randperm(len(train[1]), device=DEVICE)
        losses = torch.zeros((), device=DEVICE)
        for rows in order.split(spec.batch_size):
            losses += training.step(train[0][rows], train[1][rows]) * len(rows)
        sums = torch.zeros(2, device=DEVICE)
        for images, labels in zip(*(a.split(spec.batch_size) for a in validation), strict=True):
            sums += training.evaluate(images, labels)
        loss = float(losses) / len(order)
        print(loss, (sums / len(validation[1])).tolist())
        stamps.append(time.perf_counter())
    return {**worker.time_epochs(stamps), "loss": loss, "device": _device()}


class Training:
    """Steps of training (with augmentation in models 2 to 4, and Adam) and of validation.

    On a GPU all but Adam is compiled as CUDA graphs. On a CPU augmentation is not: in the same
    graph as the network, it makes a step two to three times slower.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        _set_precision(spec)
        torch.manual_seed(spec.seed)
        self._model = network(spec.model)
        # Initializes the lazy layers.
        self._model(torch.zeros(2, 3, spec.image_size, spec.image_size))
        if spec.backbone and hasattr(self._model, "backbone"):
            load_backbone(self._model.backbone, spec.backbone)
        _channels_last(self._model)
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        rate = 1e-3 if spec.model in ("model1", "model2", "model3", "model6") else 1e-4
        self._optimizer = torch.optim.Adam(trained, rate, fused=True)
        self._on_gpu = DEVICE.type == "cuda"
        self._loss_function = self._compiled(self._loss_of_pixels if self._on_gpu else self._loss)
        self._sums_function = self._compiled(self._sums)

    def step(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take a step; returns its mean loss."""
        torch.compiler.cudagraph_mark_step_begin()
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        images = pixels if self._on_gpu else self._prepared(pixels)
        loss = self._loss_function(images, labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def evaluate(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sums of losses and of right answers."""
        torch.compiler.cudagraph_mark_step_begin()
        self._model.eval()
        with torch.inference_mode():
            return self._sums_function(pixels, labels)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self._spec.compiled:
            return function
        # For each shape anew: an epoch's last batch is smaller.
        mode = "reduce-overhead" if self._on_gpu else None
        return torch.compile(function, mode=mode, dynamic=False)

    def _scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        # Only the shape becomes channels first: memory stays channels last.
        images = pixels.permute(0, 3, 1, 2).float()
        return images if self._spec.model in ("model1", "model2") else images / 127.5 - 1

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        images = self._scaled(pixels)
        return augmented(images) if self._spec.model in ("model2", "model3", "model4") else images

    def _loss_of_pixels(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._loss(self._prepared(pixels), labels)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._losses(self._logits(images), labels).mean()

    def _sums(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self._logits(self._scaled(pixels))
        answers = logits[:, 0] > 0 if self._spec.model == "model4" else logits.argmax(1)
        return torch.stack([self._losses(logits, labels).sum(), (answers == labels).sum()])

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        low = self._spec.precision == "bfloat16"
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low):
            return self._model(images).float()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self._spec.model == "model4":
            truth = labels.float()
            return functional.binary_cross_entropy_with_logits(
                logits[:, 0], truth, reduction="none"
            )
        return functional.cross_entropy(logits, labels.long(), reduction="none")


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode; if compiled, with its weights as constants."""
    model = mobilenet().eval().requires_grad_(False)
    _channels_last(model)
    return _time_function(spec, model, _images(spec) / 127.5 - 1)[0]


def augment(spec: Spec) -> Result:
    """Flips and rotations of a batch."""
    images = _images(spec)
    result, output = _time_function(spec, augmented, images)
    worker.check_changed(not torch.equal(output, images))
    return result


def _time_function(
    spec: Spec, function: Callable[..., Any], images: torch.Tensor
) -> tuple[Result, torch.Tensor]:
    _set_precision(spec)
    torch._inductor.config.freezing = True
    call: Any = torch.compile(function) if spec.compiled else function

    def run() -> torch.Tensor:
        with torch.inference_mode():
            output = call(images)
        _wait()
        return output

    return {**worker.time_calls(run, spec.repeats), "device": _device()}, run()


def _set_precision(spec: Spec) -> None:
    full = spec.precision == "float32"
    torch.set_float32_matmul_precision("highest" if full else "high")
    torch.backends.cudnn.allow_tf32 = not full


def _channels_last(model: nn.Module) -> None:
    """Move a model to the device, in place, and to channels last."""
    # The type hints of `to` lack this overload.
    move: Any = model.to
    move(DEVICE, memory_format=torch.channels_last)


def _on_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(DEVICE)


def _images(spec: Spec) -> torch.Tensor:
    with np.load(spec.batch) as batch:
        return torch.from_numpy(batch["image"]).to(DEVICE).permute(0, 3, 1, 2).float()


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _device() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads"


if __name__ == "__main__":
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)  # random weights make tiny numbers, which are slow
    worker.main(
        {
            "memory": memory,
            "step": step,
            "finetune": step,
            "forward": forward,
            "augment": augment,
        }
    )
