"""Models for the tests of budgets, with weights that decay as those of trained models do."""

from __future__ import annotations

import torch
from torch import nn

from pliant.models import create
from pliant.models.resnet import ResNet


class Separable(nn.Module):
    """Inverted bottlenecks with depthwise convolutions and squeeze-excitation, as in MobileNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1))
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(self.expand(x)).relu()
        y = y * self.squeeze(y).sigmoid()
        return self.head((x + self.project(y)).mean((2, 3)))


class TokenMixer(nn.Module):
    """Attention without a norm layer that ties its width: products of activations depend on several groups."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.BatchNorm2d(12)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.fc1 = nn.Linear(12, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        tokens = self.norm(self.patches(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.fc1(tokens).relu().mean(1))


FACTORIES = {
    "resnet": lambda: ResNet(num_classes=10, in_channels=3, image_size=8, blocks=(1, 1), widths=(8, 12)),
    "resnet-20": lambda: create("resnet-20", num_classes=10, in_channels=3, image_size=16, widths=(6, 8, 12)),
    "vgg": lambda: create("vgg-16-bn", num_classes=10, in_channels=3, image_size=32, widths=(6, 8, 8, 12, 12)),
    "vit": lambda: create("vit", num_classes=10, in_channels=3, image_size=16, dim=24, depth=2),
    "separable": Separable,
    "token-mixer": TokenMixer,
}


def build(name, dtype=torch.float64):
    """Return a model and an example of two samples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        model = FACTORIES[name]().to(dtype).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                decay(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        size = {"vgg": 32, "resnet": 8}.get(name, 16)
        return model, torch.randn(2, 3, size, size, dtype=dtype)


@torch.no_grad()
def decay(weight):
    """Give a weight rows of different lengths and falling singular values."""
    matrix = weight.flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values * torch.linspace(2.0, 0.1, len(values), dtype=weight.dtype)
    matrix = (left * values) @ right * torch.rand(len(matrix), 1, dtype=weight.dtype).add(0.2)
    weight.copy_(matrix.view(weight.shape))
