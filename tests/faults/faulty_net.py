"""A network that draws from every random generator there is while it trains, so that resuming has to restore them."""

import random

import numpy as np
import torch
from torch import nn


class NoisyNet(nn.Module):
    """A convolution and two linear layers with dropout, and noise from torch, Python and NumPy."""

    def __init__(self, num_classes, in_channels, image_size):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.hidden = nn.Linear(8 * image_size**2, 16)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, images):
        """Return class scores."""
        if self.training:
            draws = (float(torch.randn(())), random.gauss(0, 1), float(np.random.normal()))  # noqa: NPY002
            images = images + 0.01 * sum(draws)
        flat = self.norm(self.conv(images)).relu().flatten(1)
        return self.classifier(self.dropout(self.hidden(flat).relu()))
