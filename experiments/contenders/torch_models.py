"""The networks in PyTorch, without augmentation and rescaling."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import worker
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from worker import MODEL6_STRIDE, MODEL6_WIDTHS

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
    """MobileNetV2 without its top: the stem, 17 blocks, the last convolution."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, stride=2)]
    channels = 32
    for expansion, outputs, repeats, stride in STAGES:
        for repeat in range(repeats):
            block = InvertedResidual(channels, outputs, expansion, 1 if repeat else stride)
            layers.append(block)
            channels = outputs
    model = nn.Sequential(*layers, conv_norm(channels, 1280, 1))
    norms = [buffer for name, buffer in model.named_buffers() if "running" in name]
    parameters = sum(tensor.numel() for tensor in [*model.parameters(), *norms])
    worker.check_parameters("mobilenet", parameters)
    return model


def load_backbone(backbone: nn.Module, path: str) -> None:
    """Fill MobileNetV2 from an `.npz`: kernel, gamma, beta, mean and variance of each layer."""
    convs = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    with np.load(path) as file:
        arrays = iter([torch.from_numpy(file[name]) for name in file.files])
    with torch.no_grad():
        for conv, norm in zip(convs, norms, strict=True):
            conv.weight.copy_(next(arrays).permute(3, 2, 0, 1))
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(next(arrays))


class Model4(nn.Module):
    """A frozen MobileNetV2, global max pooling, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = mobilenet().eval().requires_grad_(False)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(1280, 1)

    def train(self, mode: bool = True) -> "Model4":
        """As for any module, but batch norm stays in inference mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.backbone(images).amax((2, 3))
        return self.head(self.dropout(features))


class Model5(nn.Module):
    """MobileNetV2 with batch norm in inference mode, average pooling, dropout and two logits."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.backbone = mobilenet().requires_grad_(False).eval()
        for stage in list(self.backbone)[len(self.backbone) + 1 - stages :]:
            stage.requires_grad_(True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(1280, 2)

    def train(self, mode: bool = True) -> "Model5":
        """As for any module, but batch norm stays in inference mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.backbone(images).mean((2, 3))))


class ResidualBlock(nn.Module):
    """Batch norm, relu and a 3×3 convolution, twice, added to the pooled and projected input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs, eps=1e-5)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs, eps=1e-5)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride > 1 or inputs != outputs
        self.projection = nn.Conv2d(inputs, outputs, 1, bias=False) if changes else None
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm1(images))
        shortcut = images if self.projection is None else self.projection(self.pool(x))
        return shortcut + self.conv2(functional.relu(self.norm2(self.conv1(x))))


def model6() -> nn.Sequential:
    """Model 6, for pixels in [-1, 1]."""
    widths, stride = MODEL6_WIDTHS, MODEL6_STRIDE
    kernel = 2 * stride - 1
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], kernel, stride, kernel // 2, bias=False)]
    channels = widths[0]
    for stage, width in enumerate(widths):
        layers.append(ResidualBlock(channels, width, 2 if stage else 1))
        channels = width
    pooled = [nn.BatchNorm2d(channels, eps=1e-5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, *pooled, nn.Dropout(0.2), nn.Linear(channels, 2))
    worker.check_parameters("model6", sum(tensor.numel() for tensor in model.parameters()))
    return model


def network(name: str) -> nn.Module:
    """One of the models, without augmentation and rescaling; `whole` and `last` are model 5."""
    if name in worker.FINE_TUNED:
        return Model5(worker.FINE_TUNED[name])
    if name == "model4":
        return Model4()
    if name == "model6":
        return model6()
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
