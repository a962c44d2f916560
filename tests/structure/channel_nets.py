"""Small nets, one per way in which channels hang together, each with its examples and what must come of it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def conv(a, b, k=3, **options):
    return nn.Conv2d(a, b, k, padding=k // 2, **options)


def chain(*layers):
    return nn.Sequential(*layers)


def head(width, out=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, out))


def plain():
    return chain(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), head(6))


def residual():
    def forward(net, x):
        x = F.relu(net.bn(net.stem(x)))
        x = F.relu(x + net.bn2(net.two(F.relu(net.bn1(net.one(x))))))
        return net.head(x)

    return Net(
        forward, stem=conv(3, 8), bn=nn.BatchNorm2d(8), one=conv(8, 6), bn1=nn.BatchNorm2d(6), two=conv(6, 8),
        bn2=nn.BatchNorm2d(8), head=head(8),
    )  # fmt: skip


def dense_block():
    def forward(net, x):
        x = net.stem(x)
        for norm, layer in ((net.n1, net.one), (net.n2, net.two)):
            x = torch.cat((x, layer(F.relu(norm(x)))), 1)
        return net.head(F.relu(net.n3(x)))

    return Net(
        forward, stem=conv(3, 6), n1=nn.BatchNorm2d(6), one=conv(6, 4), n2=nn.BatchNorm2d(10), two=conv(10, 4),
        n3=nn.BatchNorm2d(14), head=head(14),
    )  # fmt: skip


def flatten():
    return chain(conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 3))


def grouped():
    return chain(conv(3, 12), nn.ReLU(), conv(12, 8, groups=4), nn.BatchNorm2d(8), nn.ReLU(), head(8))


def depthwise():
    return chain(conv(3, 8), nn.Hardswish(), conv(8, 16, groups=8), nn.ReLU(), conv(16, 6, 1), nn.ReLU(), head(6))


def shuffle():
    def forward(net, x):
        x = net.one(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return net.head(net.two(x))

    return Net(forward, one=conv(3, 8), two=conv(8, 6), head=head(6))


def split_halves():
    def forward(net, x):
        a, b = net.one(x).chunk(2, dim=1)
        return net.head(torch.cat((net.left(a), net.right(b)), 1))

    return Net(forward, one=conv(3, 8), left=conv(4, 3), right=conv(4, 3), head=head(6))


def squeeze_excitation(gate):
    def build():
        def forward(net, x):
            x = net.one(x)
            scale = gate(net.up(F.relu(net.down(x.mean((2, 3), keepdim=True)))))
            return net.head(x * scale)

        return Net(forward, one=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), head=head(8))

    return build


def transposed():
    return chain(
        conv(3, 8, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU(), head(6)
    )


def transposed_groups():
    return chain(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4), nn.ReLU(), head(12))


def group_norm():
    return chain(conv(3, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 12), nn.GroupNorm(3, 12, affine=False), head(12))


def instance_norm():
    return chain(
        conv(3, 8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU(), conv(8, 6),
        nn.InstanceNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip


def layer_norm():
    return chain(
        nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def torch_attention(**options):
    def build():
        def forward(net, x):
            y, _ = net.attention(x, x, x, need_weights=False)
            return net.out(x + y)

        return Net(forward, attention=nn.MultiheadAttention(12, 3, batch_first=True, **options), out=nn.Linear(12, 4))

    return build


def encoder_layer():
    return chain(nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dropout=0.0), nn.Linear(12, 3))


class OwnAttention(nn.Module):
    def __init__(self, dim, heads, groups, width):
        super().__init__()
        self.num_heads, self.head_dim = heads, width
        self.q, self.k, self.v = (nn.Linear(dim, n * width) for n in (heads, groups, groups))
        self.proj = nn.Linear(heads * width, dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        weights = (q @ k.transpose(-1, -2) / self.head_dim**0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))


class PackedAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn(25, heads))
        index = torch.arange(25).view(5, 5)
        self.register_buffer("index", index)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index[:n, :n].reshape(-1)].view(n, n, -1).permute(2, 0, 1)
        weights = (q @ k.mT + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def own_attention():
    return chain(nn.Linear(6, 12), nn.LayerNorm(12), OwnAttention(12, 4, 4, 3), nn.Linear(12, 3))


def grouped_query_attention():
    return chain(nn.Linear(6, 12), nn.LayerNorm(12), OwnAttention(12, 6, 3, 2), nn.Linear(12, 3))


def packed_attention():
    return chain(nn.Linear(6, 12), nn.LayerNorm(12), PackedAttention(12, 3), nn.Linear(12, 3))


def perceptron():
    return chain(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def gated():
    def forward(net, x):
        value, gate = net.fc1(x).chunk(2, -1)
        return net.fc2(value * F.silu(gate)) + net.fc3(F.glu(net.fc4(x), -1))

    return Net(forward, fc1=nn.Linear(6, 16), fc2=nn.Linear(8, 3), fc3=nn.Linear(7, 3), fc4=nn.Linear(6, 14))


def tied():
    def forward(net, tokens):
        x = net.words(tokens)
        x = x + net.two(F.gelu(net.one(x)))
        return x @ net.words.weight.t()

    return Net(forward, words=nn.Embedding(11, 8), one=nn.Linear(8, 10), two=nn.Linear(10, 8))


def shared():
    def forward(net, x):
        x = net.stem(x)
        for _ in range(3):
            x = x + torch.tanh(net.body(x))
        return net.head(x)

    return Net(forward, stem=conv(3, 8), body=conv(8, 8), head=head(8))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.b1 = nn.Parameter(torch.randn(8))
        self.gamma = nn.Parameter(torch.randn(8, 1, 1))
        self.w2 = nn.Parameter(torch.randn(8, 4) * 0.3)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.w1, self.b1, padding=1)) * self.gamma
        return torch.einsum("bchw,co->bo", x, self.w2)


def positions():
    def forward(net, x):
        tokens = net.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((net.token.expand(len(x), -1, -1), tokens), 1) + net.positions
        return net.out(F.relu(net.fc(tokens))[:, 0])

    return Net(
        forward, patches=nn.Conv2d(3, 10, 4, stride=4), token=nn.Parameter(torch.randn(1, 1, 10)),
        positions=nn.Parameter(torch.randn(1, 5, 10)), fc=nn.Linear(10, 8), out=nn.Linear(8, 3),
    )  # fmt: skip


def shuffled_groups(groups, packs):
    def make():
        grouped = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
        return chain(conv(3, 8), nn.ReLU(), grouped, nn.ChannelShuffle(packs), conv(16, 5), head(5))

    return make


def pixel_shuffle():
    return chain(conv(3, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 6), nn.PixelUnshuffle(2), conv(24, 5), head(5))


def resampling():
    return chain(
        conv(3, 8), nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(1), nn.ELU(),
        conv(8, 6, padding_mode="circular"), nn.Upsample(size=(5, 5)), nn.AdaptiveMaxPool2d(3), nn.AvgPool2d(2),
        head(6),
    )  # fmt: skip


def in_place():
    def forward(net, x):
        x = net.one(x).relu_()
        y = net.two(x).mul_(0.5)
        y += x
        return net.head(y.add_(1.0).relu_())

    return Net(forward, one=conv(3, 8), two=conv(8, 8), head=head(8))


@dataclass
class Result:
    scores: torch.Tensor
    features: list


def returns_objects(kind):
    def build():
        def forward(net, x):
            x = net.one(x).relu()
            y = net.two(x).relu()
            return kind(net.head(y), [x.mean((2, 3))])

        return Net(forward, one=conv(3, 8), two=conv(8, 6), head=head(6))

    return build


def padded_shortcut():
    def forward(net, x):
        x = net.stem(x)
        return net.head(F.relu(net.two(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))))

    return Net(forward, stem=conv(3, 6), two=conv(6, 12, stride=2), head=head(12))


def two_inputs():
    return Net(lambda net, x, y: net.out(net.bi(x).relu() * net.bj(y)), bi=nn.Linear(6, 8), bj=nn.Linear(4, 8),
               out=nn.Linear(8, 3))  # fmt: skip


def one_dimensional():
    return chain(nn.Conv1d(3, 8, 3), nn.PReLU(8), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3), nn.Flatten(), nn.Linear(30, 3))


class Buffered(nn.Module):
    """Convolutions whose outputs meet buffers of one number per channel."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = conv(3, 8), conv(8, 6), head(6)
        self.inner = nn.Module()  # a second name of a buffer
        self.inner.register_buffer("mean", torch.randn(1, 8, 1, 1))
        self.register_buffer("mean", self.inner.mean, persistent=False)
        self.register_buffer("deviation", torch.rand(8) + 0.5)
        self.register_buffer("variance", torch.rand(6) + 0.5)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("order", torch.tensor([1, 0]))

    def forward(self, x):
        x = (self.one(x) - self.mean) / self.deviation[:, None, None] + self.inner.mean
        x = self.two(x.relu()[:, :, self.order]) * self.mask[:, None, None]
        return self.head(x * (self.variance.view(1, -1, 1, 1) + 1e-5).rsqrt())


class Averaging(nn.Module):
    """A running mean that training writes."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        x = self.one(x)
        if self.training:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.two(x - self.mean)


class Rotary(nn.Module):
    """Attention whose queries and keys are turned by tables, as many positions as there are channels."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 36), nn.Linear(12, 3)
        self.register_buffer("cosine", torch.rand(12, 4))
        self.register_buffer("causal", torch.ones(12, 12).tril().bool())

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = q * self.cosine[:length], k * self.cosine[:length]
        weights = (q @ k.mT).masked_fill(~self.causal[:length, :length], -torch.inf).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def scan(start):
    def forward(net, x):
        x = net.one(x)
        state, states = start(x), []
        for step in range(x.shape[1]):
            state = torch.tanh(x[:, step] + net.again(state))
            states.append(state)
        return net.out(torch.stack(states, 1))

    return lambda: Net(forward, one=nn.Linear(6, 8), again=nn.Linear(8, 8), out=nn.Linear(8, 3))


def written_steps():
    def forward(net, x):
        x = net.one(x)
        states = torch.empty(x.shape[0], x.shape[1], x.shape[2]).to(x)
        for step in range(x.shape[1]):
            states[:, step] = x[:, : step + 1].sum(1)
        return net.out(states.relu() + net.two(states))

    return Net(forward, one=nn.Linear(6, 8), two=nn.Linear(8, 8), out=nn.Linear(8, 3))


def scattered(write):
    def forward(net, x, index):
        x = net.one(x).relu()
        y = net.two(x)
        return net.out(write(torch.zeros(4, y.shape[1]).to(y), index, y) + net.three(x[:4]))

    return lambda: Net(forward, one=nn.Linear(6, 8), two=nn.Linear(8, 7), three=nn.Linear(8, 7), out=nn.Linear(7, 3))


def numbered():
    return torch.randn(5, 6), torch.tensor([0, 2, 2, 3, 0])


# operator -> what writes slices of y to numbered places along the first dimension
WRITES = {
    "index_add": lambda to, index, y: to.index_add_(0, index, y),
    "scatter_add": lambda to, index, y: to.scatter_add(0, index[:, None].expand_as(y), y),
    "scatter_reduce": lambda to, index, y: to.scatter_reduce_(0, index[:, None].expand_as(y), y, "amax"),
    "index_put": lambda to, index, y: to.index_put_((index,), y, accumulate=True),
}


def picture(*_):
    return torch.randn(3, 3, 8, 8)


def tokens(width):
    return lambda: torch.randn(3, 5, width)


# name -> (net, example, groups: name -> atoms)
NETS = {
    "plain": (plain, picture, {"0": 8, "2": 6}),
    "residual": (residual, picture, {"stem": 8, "one": 6}),
    "concatenation": (dense_block, picture, {"stem": 6, "one": 4, "two": 4}),
    "flatten": (flatten, picture, {"0": 6, "4": 10}),
    "grouped convolution": (grouped, picture, {"0": 4}),
    "depthwise convolution with a multiplier": (depthwise, picture, {"0": 8, "4": 6}),
    "channel shuffle of groups": (shuffled_groups(4, 4), picture, {"0": 4, "4": 5}),
    "channel shuffle of halves of groups": (shuffled_groups(2, 4), picture, {"0": 2, "4": 5}),
    "channel shuffle of more than groups": (shuffled_groups(4, 2), picture, {"0": 2, "4": 5}),
    "channel shuffle": (shuffle, picture, {"one": 4, "two": 6}),
    "split into halves": (split_halves, picture, {"one": 4, "left": 3, "right": 3}),
    "squeeze and excitation": (squeeze_excitation(torch.sigmoid), picture, {"one": 8, "down": 4}),
    "squeeze and hard excitation": (squeeze_excitation(F.hardsigmoid), picture, {"one": 8, "down": 4}),
    "transposed convolution": (transposed, picture, {"0": 8, "2": 6}),
    "transposed convolution in groups": (transposed_groups, picture, {"0": 4}),
    "group norm": (group_norm, picture, {"0": 4, "3": 3}),
    "instance norm": (instance_norm, picture, {"0": 8, "3": 6}),
    "layer norm": (layer_norm, tokens(6), {"0": 10, "4": 12}),
    "torch's attention": (torch_attention(), tokens(12), {"attention.in_proj_weight": 3}),
    "torch's attention with other keys": (
        torch_attention(add_bias_kv=True, bias=False), tokens(12), {"attention.in_proj_weight": 3},
    ),
    "torch's encoder layer": (encoder_layer, tokens(12), {"0.self_attn.in_proj_weight": 3, "0.linear1": 20}),
    "own attention": (own_attention, tokens(6), {"2.q": 4, "2.proj": 12}),
    "grouped-query attention": (grouped_query_attention, tokens(6), {"2.q": 3, "2.proj": 12}),
    "packed attention with a table of positions": (packed_attention, tokens(6), {"2.qkv": 3, "2.proj": 12}),
    "perceptron": (perceptron, lambda: torch.randn(5, 6), {"0": 10, "3": 8}),
    "gated units": (gated, lambda: torch.randn(5, 6), {"fc1": 8, "fc4": 7}),
    "embedding tied to the head": (tied, lambda: torch.randint(0, 11, (3, 5)), {"words": 8, "one": 10}),
    "shared weights": (shared, picture, {"stem": 8}),
    "functional calls": (Functional, picture, {"w1": 8}),
    "positions and a class token": (positions, picture, {"patches": 10, "fc": 8}),
    "pixel shuffle": (pixel_shuffle, picture, {"0": 4, "3": 6, "5": 5}),
    "resampling": (resampling, picture, {"0": 8, "5": 6}),
    "work in place": (in_place, picture, {"one": 8}),
    "a dictionary": (returns_objects(lambda a, b: OrderedDict(a=a, b=b)), picture, {"two": 6}),
    "a dataclass": (returns_objects(Result), picture, {"two": 6}),
    "a padded shortcut": (padded_shortcut, picture, {"stem": 6}),
    "two inputs": (two_inputs, lambda: (torch.randn(5, 6), torch.randn(5, 4)), {"bi": 8}),
    "buffers": (Buffered, picture, {"one": 8, "two": 6}),
    "a buffer that training writes": (Averaging, lambda: torch.randn(5, 6), {"one": 8}),
    "tables of rotations and a mask": (Rotary, lambda: torch.randn(3, 12, 6), {"qkv": 3}),
    "a state of zeros": (scan(lambda x: torch.zeros(x.shape[0], x.shape[2]).to(x)), tokens(6), {"one": 8}),
    "a state of new zeros": (scan(lambda x: x.new_zeros(x.shape[0], x.shape[-1])), tokens(6), {"one": 8}),
    "steps written one by one": (written_steps, tokens(6), {"one": 8}),
    **{name: (scattered(write), numbered, {"one": 8, "two": 7}) for name, write in WRITES.items()},
    "one dimension": (one_dimensional, lambda: torch.randn(3, 3, 16), {"0": 8, "3": 6}),
}  # fmt: skip


def build(name, dtype=torch.float64):
    """Return a net whose norms have learnt something, and an example."""
    factory, example, _ = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = factory().to(dtype)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 1.5)
        given = example()
        return model, _cast(given, dtype) if isinstance(given, torch.Tensor) else tuple(_cast(x, dtype) for x in given)


def _cast(x, dtype):
    return x.to(dtype) if x.is_floating_point() else x
