"""Multi-head attention as torch's own computes it, whose heads need not fill the width of its tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module, ABC):
    """What `nn.MultiheadAttention` computes, with its call and its results, from projections that a subclass makes.

    Args:
        like: whose heads, dropout and conventions are taken over.
    """

    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None
    out_proj: nn.Linear

    def __init__(self, like: nn.MultiheadAttention | Attention) -> None:
        super().__init__()
        self.num_heads = like.num_heads
        self.head_dim = like.head_dim
        self.dropout = like.dropout
        self.batch_first = like.batch_first
        self.add_zero_attn = like.add_zero_attn
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, getattr(like, name))
        self._qkv_same_embed_dim = False  # nn.TransformerEncoderLayer reads it: its fused path knows torch's own only

    @abstractmethod
    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return the projected query, key and value, each of shape (batch, tokens, heads x head width)."""

    @property
    def embed_dim(self) -> int:
        """Return the width of the tokens."""
        return int(self.out_proj.out_features)

    def forward(  # noqa: PLR0917  (the call of nn.MultiheadAttention)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments, shapes and results are those of `nn.MultiheadAttention`.

        Raises:
            ValueError: if a mask has one part for each head, but not as many as there are heads; or if a nested tensor
                comes in another way than from `nn.TransformerEncoder`.
        """
        if query.is_nested:
            plain = key is query and value is query and key_padding_mask is None and attn_mask is None
            return self._nested(query, plain=plain and not need_weights), None
        batched = query.ndim == 3
        tokens = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)]
        q, k, v = self._heads([x if self.batch_first else x.transpose(0, 1) for x in tokens])
        mask = self._mask(attn_mask, key_padding_mask, q, k.shape[2], causal=is_causal and attn_mask is None)
        rate = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.mT * self.head_dim**-0.5
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), rate)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, rate)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        out = out if batched else out.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return out, None
        shown = weights.mean(1) if average_attn_weights else weights
        return out, shown if batched else shown.squeeze(0)

    def _nested(self, tokens: Tensor, *, plain: bool) -> Tensor:
        """Attend to sequences of different lengths, as `nn.TransformerEncoder` makes them of padded ones."""
        if not plain:
            raise ValueError(
                "a nested tensor must be query, key and value alike, without masks and with need_weights=False; give "
                "a padded tensor and key_padding_mask instead"
            )
        lengths = [len(sample) for sample in tokens.unbind()]
        padded = tokens.to_padded_tensor(0.0)
        places = torch.arange(padded.shape[1], device=padded.device)
        missing = places >= torch.tensor(lengths, device=padded.device)[:, None]
        mixed, _ = self(padded, padded, padded, missing, need_weights=False)
        return torch.nested.as_nested_tensor([row[:length] for row, length in zip(mixed, lengths, strict=True)])

    def _heads(self, tokens: list[Tensor]) -> list[Tensor]:
        """Return query, key and value, each of shape (batch, heads, tokens, head width)."""
        q, k, v = self.project(*tokens)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat((k, self.bias_k.expand(len(k), -1, -1)), 1)
            v = torch.cat((v, self.bias_v.expand(len(v), -1, -1)), 1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return [x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in (q, k, v)]

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, query: Tensor, keys: int, *, causal: bool
    ) -> Tensor | None:
        """Return what is added to the scores, broadcastable to (batch, heads, queries, keys)."""
        parts = []
        if causal:
            attention = query.new_ones(query.shape[2], keys, dtype=torch.bool).triu(1)
        if attention is not None:
            full = _added(attention, query)
            parts.append(full if full.ndim == 2 else self._per_head(full, len(query)))
        if padding is not None:
            shown = padding if padding.ndim == 2 else padding[None]
            parts.append(_added(shown, query)[:, None, None])
        missing = [F.pad(part, (0, keys - part.shape[-1])) for part in parts]
        return sum(missing[1:], missing[0]) if missing else None

    def _per_head(self, mask: Tensor, samples: int) -> Tensor:
        if len(mask) != samples * self.num_heads:
            raise ValueError(
                f"attn_mask must have two dimensions, or one part for each of {samples} samples times the "
                f"{self.num_heads} heads that are left, found {len(mask)} parts; build it from num_heads of this module"
            )
        return mask.unflatten(0, (samples, self.num_heads))


@final
class PrunedAttention(Attention):
    """`nn.MultiheadAttention` with any number of heads, which torch's own module cannot express.

    It has the parameter names of the module that it replaces; only the heads are fewer than width / head width.

    Args:
        old: the module to replace; its parameters, already sliced, are taken over.
    """

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter
    k_proj_weight: nn.Parameter
    v_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None

    def __init__(self, old: nn.MultiheadAttention) -> None:
        super().__init__(old)
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            self.register_parameter(name, getattr(old, name))
        self.out_proj = old.out_proj
        self.train(old.training)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights, biases = projections_of(self)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def projections_of(
    attention: nn.MultiheadAttention | PrunedAttention,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Return the weights of query, key and value, each (heads x head width, tokens' width), and their biases."""
    packed, bias = attention.in_proj_weight, attention.in_proj_bias
    own = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    return own if packed is None else packed.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)


def fit_fused_path(layer: nn.TransformerEncoderLayer) -> None:
    """Leave a transformer layer its fused path only while `linear1` and `linear2` are plain, in place.

    The fused path reads their weights and never calls them: what stands in their place would be multiplied out. It asks
    for the activation before it reads a weight, and the number that says which one is used for nothing else.
    """
    if type(layer.linear1) is not nn.Linear or type(layer.linear2) is not nn.Linear:
        layer.activation_relu_or_gelu = 0
    elif type(layer) is nn.TransformerEncoderLayer:  # a subclass may have gone without it before
        layer.activation_relu_or_gelu = _fused_activation(layer.activation)


def _fused_activation(activation: object) -> int:
    """Return what `nn.TransformerEncoderLayer` notes of an activation: 1 for relu, 2 for gelu, 0 for any other."""
    if activation is F.relu or isinstance(activation, nn.ReLU):
        return 1
    return 2 if activation is F.gelu or isinstance(activation, nn.GELU) else 0


@contextmanager
def slow_path() -> Iterator[None]:
    """Switch off the shortcut of torch's attention and transformer layers.

    It hides what they do from whoever counts or follows operators, and some of it refuses models that have hooks.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add: True means not allowed."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
