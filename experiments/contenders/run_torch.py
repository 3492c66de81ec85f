"""The benchmark's workloads in PyTorch, eager or compiled, in its fast layout: channels last."""

import math
import os
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
    """One training step: augmentation (models 2 to 4), forward, loss, backward and Adam.

    Only network and loss are compiled: with the augmentation in the same graph, a step is two to
    three times slower.
    """
    with np.load(spec.batch) as batch:
        pixels, labels = batch["image"], batch["label"]
    torch.manual_seed(spec.seed)
    model = network(spec.model)
    model(torch.zeros(2, 3, spec.image_size, spec.image_size))  # initializes the lazy layers
    if spec.backbone and hasattr(model, "backbone"):
        load_backbone(model.backbone, spec.backbone)
    model = _on_device(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = 1e-3 if spec.model in ("model1", "model2", "model3", "model6") else 1e-4
    optimizer = torch.optim.Adam(trained, rate, fused=True)

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = model(images)
        if spec.model == "model4":
            return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
        return functional.cross_entropy(logits, labels)

    loss_function: Any = torch.compile(loss_of) if spec.compiled else loss_of

    def take_step() -> None:
        # Only the shape becomes channels first: memory stays channels last.
        images = torch.from_numpy(pixels).to(DEVICE).permute(0, 3, 1, 2).float()
        if spec.model not in ("model1", "model2"):
            images = images / 127.5 - 1
        if spec.model in ("model2", "model3", "model4"):
            images = augmented(images)
        optimizer.zero_grad(set_to_none=True)
        loss_function(images, torch.from_numpy(labels).long().to(DEVICE)).backward()
        optimizer.step()
        _wait()

    return {**worker.time_calls(take_step, spec.repeats), "device": _device()}


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode; if compiled, with its weights as constants."""
    model = _on_device(mobilenet().eval().requires_grad_(False))
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
    torch._inductor.config.freezing = True
    call: Any = torch.compile(function) if spec.compiled else function

    def run() -> torch.Tensor:
        with torch.inference_mode():
            output = call(images)
        _wait()
        return output

    return {**worker.time_calls(run, spec.repeats), "device": _device()}, run()


def _on_device(model: nn.Module) -> nn.Module:
    # The type hints of `to` lack this overload.
    move: Any = model.to
    return move(DEVICE, memory_format=torch.channels_last)


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
    worker.main({"step": step, "finetune": step, "forward": forward, "augment": augment})
