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
from worker import Result, Spec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Expansion, channels, repeats, stride of the first block: table 2 of arXiv:1801.04381.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection; residual if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [conv_norm(inputs, hidden, 1)]
        layers.append(conv_norm(hidden, hidden, 3, stride=stride, groups=hidden))
        layers.append(conv_norm(hidden, outputs, 1, activate=False))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


def conv_norm(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if `activate`, relu6."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3)
    return nn.Sequential(conv, norm, *([nn.ReLU6(inplace=True)] if activate else []))


def mobilenet() -> nn.Sequential:
    """MobileNetV2 without its top, frozen, in inference mode."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, stride=2)]
    channels = 32
    for expansion, outputs, repeats, stride in STAGES:
        for repeat in range(repeats):
            block = InvertedResidual(channels, outputs, expansion, 1 if repeat else stride)
            layers.append(block)
            channels = outputs
    model = nn.Sequential(*layers, conv_norm(channels, 1280, 1)).eval().requires_grad_(False)
    norms = [buffer for name, buffer in model.named_buffers() if "running" in name]
    worker.check_mobilenet(sum(tensor.numel() for tensor in [*model.parameters(), *norms]))
    return model


class Model4(nn.Module):
    """A frozen MobileNetV2, global max pooling, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = mobilenet()
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(1280, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.backbone(images).amax((2, 3))
        return self.head(self.dropout(features))


def network(name: str) -> nn.Module:
    """One of the post's models, without augmentation and rescaling."""
    if name == "model4":
        return Model4()
    padding, filters = (0, (32, 32, 64)) if name == "model1" else (1, (16, 32, 64))
    layers: list[nn.Module] = []
    channels = 3
    for count in filters:
        layers += [nn.Conv2d(channels, count, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        channels = count
    if name == "model1":
        layers.pop()  # no pooling after its last convolution
    layers.append(nn.Flatten())
    if name == "model3":
        layers.append(nn.Dropout(0.2))
    for count in (64,) if name == "model1" else (128, 64):
        layers += [nn.LazyLinear(count), nn.ReLU()]
    if name != "model3":
        layers.append(nn.Dropout(0.1))
    return nn.Sequential(*layers)


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
    """One training step: augmentation, forward, loss, backward and Adam.

    Only network and loss are compiled: with the augmentation in the same graph, a step is two to
    three times slower.
    """
    with np.load(spec.batch) as batch:
        pixels, labels = batch["image"], batch["label"]
    torch.manual_seed(spec.seed)
    model = network(spec.model)
    model(torch.zeros(1, 3, spec.image_size, spec.image_size))  # initializes the lazy layers
    model = _on_device(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = 1e-4 if spec.model == "model4" else 1e-3
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
        if spec.model in ("model3", "model4"):
            images = images / 127.5 - 1
        if spec.model != "model1":
            images = augmented(images)
        optimizer.zero_grad(set_to_none=True)
        loss_function(images, torch.from_numpy(labels).long().to(DEVICE)).backward()
        optimizer.step()
        _wait()

    return {**worker.time_calls(take_step, spec.repeats), "device": _device()}


def forward(spec: Spec) -> Result:
    """Features of MobileNetV2 in inference mode; if compiled, with its weights as constants."""
    model = _on_device(mobilenet())
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
    worker.main({"step": step, "forward": forward, "augment": augment})
