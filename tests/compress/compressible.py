"""Small architectures that the compressor tests share, each with an example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        y = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(y)))
        return F.log_softmax(self.fc(x.mean((2, 3))), 1)


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1)
        self.right = nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(12, 8, 3)
        self.fc = nn.Linear(8 * 36, 4)

    def forward(self, x):
        x = torch.cat((self.left(x), self.right(x)), 1).relu()
        x = F.max_pool2d(F.gelu(self.last(x)), 1)
        return self.fc(x.view(x.size(0), -1))


class Attention(nn.Module):
    """A transformer block with torch's own attention, class token and positions."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 5, 12))
        self.norm1 = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm2 = nn.LayerNorm(12)
        self.fc1 = nn.Linear(12, 24)
        self.fc2 = nn.Linear(24, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), tokens), 1) + self.positions
        y = self.norm1(tokens)
        tokens = tokens + self.attention(y, y, y, need_weights=False)[0]
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return self.head(tokens[:, 0])


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv1(x)
        if x.sum() > 0:
            x = x.relu()
        return self.fc(self.conv2(x).mean((2, 3)))


class Auxiliary(nn.Module):
    """One layer feeds two consumers, but only in training mode."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.aux = nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv1(x).relu()
        out = self.fc(self.conv2(x).relu().mean((2, 3)))
        return (out, self.aux(x).mean((2, 3))) if self.training else out


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.SiLU(),
        nn.Dropout(0.5),
        nn.Conv2d(12, 10, 3),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Linear(10 * 4, 16),
        nn.Tanh(),
        nn.Linear(16, 5),
    )


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def special():
    """Groups, dilation, strides, "same" and reflect padding, depthwise, biases."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding="same", padding_mode="reflect", groups=4),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=12, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, (3, 2), stride=(2, 1), padding=(1, 0), padding_mode="circular", bias=False),
        nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
        nn.ReLU(),
        nn.Conv2d(16, 10, 3, dilation=2),
        nn.Sigmoid(),
        nn.Conv2d(10, 6, 3, padding=1, padding_mode="replicate"),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.AvgPool1d(2),
        nn.Conv1d(8, 12, 3, dilation=2), nn.GELU(), nn.Flatten(), nn.Linear(12 * 4, 3),
    )  # fmt: skip


def three_dimensional():
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def transposed():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 10, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.ConvTranspose2d(10, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ELU(),
        nn.ConvTranspose2d(6, 8, 3, dilation=2), nn.ReLU(), nn.Conv2d(8, 2, 1),
    )  # fmt: skip


ARCHITECTURES = {
    "plain": (plain, (3, 16, 16)),
    "mlp": (mlp, (3, 4, 4)),
    "residual": (Residual, (3, 8, 8)),
    "concat": (Concat, (3, 8, 8)),
    "attention": (Attention, (3, 8, 8)),
    "untraceable": (Untraceable, (3, 8, 8)),
    "auxiliary": (Auxiliary, (3, 8, 8)),
    "special": (special, (4, 9, 9)),
    "conv1d": (one_dimensional, (3, 16)),
    "conv3d": (three_dimensional, (2, 4, 4, 4)),
    "transposed": (transposed, (3, 8, 8)),
}


def build(name, dtype=torch.float64):
    """Return a model whose norm layers have learnt something, and an example of four samples."""
    factory, shape = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        model = factory().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        nn.init.uniform_(tensor, 0.5, 2.0)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        nn.init.normal_(tensor)
        return model, torch.randn(4, *shape, dtype=dtype)
