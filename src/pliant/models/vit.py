"""vit: a small vision transformer."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pliant.models.checks import check_share, check_sizes

_LARGEST_PATCH = 16
_TOKENS_A_SIDE = 7  # patches are chosen so that there are at least so many along a side
_INIT_STD = 0.02


@final
class SelfAttention(nn.Module):
    """Multi-head self-attention; ``qkv`` holds the query, key and value maps one below the other.

    Args:
        dim: of the tokens, a multiple of ``num_heads``.
        num_heads: at least 1.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(batch, tokens, dim)`` to the same shape."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


@final
class EncoderBlock(nn.Module):
    """Attention, then a two-layer perceptron, each on normalised tokens and added to them.

    Args:
        dim: of the tokens.
        num_heads: of the attention.
        hidden: width of the perceptron.
        dropout: probability on both branches, in [0, 1).
    """

    def __init__(self, dim: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(batch, tokens, dim)`` to the same shape."""
        tokens = tokens + self.dropout1(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.dropout2(self.fc2(self.gelu(self.fc1(self.norm2(tokens)))))
        return out


@final
class ViT(nn.Module):
    """Patch embedding, class token, learned positions, encoder blocks, LayerNorm, one linear layer.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels; the model takes images of exactly this size.
        patch_size: divides the image size; None picks the largest divisor from 2 to 16 that leaves at least
            seven patches a side (2 for images too small for that).
        dim: of the tokens, a multiple of ``num_heads``.
        depth: encoder blocks, at least 1.
        num_heads: at least 1.
        mlp_ratio: the perceptrons' width is ``round(mlp_ratio * dim)``.
        dropout: probability on the branches of the blocks, in [0, 1).

    Raises:
        ValueError: a size is out of its range.

    Reference:
        A. Dosovitskiy et al., An Image is Worth 16x16 Words (2021), section 3.1.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int | None = None,
        dim: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("vit", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_share("vit", "dropout", dropout)
        hidden = _hidden(dim, depth, num_heads, mlp_ratio)
        patch = _patch_size(image_size, patch_size)
        self.patches = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(_INIT_STD * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(_INIT_STD * torch.randn(1, (image_size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, num_heads, hidden, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(images.shape[0], -1, -1), patches), dim=1)
        encoded = self.norm(self.blocks(tokens + self.positions))
        scores: Tensor = self.classifier(encoded[:, 0])
        return scores


def _patch_size(image_size: int, patch_size: int | None) -> int:
    if patch_size is not None:
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"vit: patch_size must divide the image size {image_size}, found {patch_size}")
        return patch_size
    largest = min(max(2, image_size // _TOKENS_A_SIDE), _LARGEST_PATCH)
    divisors = [size for size in range(2, largest + 1) if image_size % size == 0]
    if not divisors:
        message = f"vit: image_size must have a divisor from 2 to {largest}, found {image_size}"
        raise ValueError(f"{message}; resize the images, or give patch_size=1 or patch_size={image_size}")
    return divisors[-1]


def _hidden(dim: int, depth: int, num_heads: int, mlp_ratio: float) -> int:
    if min(dim, depth, num_heads) < 1 or dim % num_heads:
        found = f"dim={dim}, depth={depth}, num_heads={num_heads}"
        raise ValueError(f"vit: dim, depth and num_heads must be positive, num_heads a divisor of dim, found {found}")
    hidden = round(mlp_ratio * dim)
    if hidden < 1:
        raise ValueError(f"vit: mlp_ratio must leave at least one hidden unit, found {mlp_ratio}")
    return hidden
