"""Channels that hang together, one small net per way of doing so, and the cut that follows."""

from __future__ import annotations

import pytest
import torch
from channel_nets import NETS, build
from torch import nn

from pliant.compress import Cut, FilterPruning, Global, Layers, compress
from pliant.structure.channels import ChannelGroup, Listed, Regular, Role, channel_graph
from pliant.structure.channels.positions import positions_of
from pliant.testing.compressor_laws import check_compressor

ALL = FilterPruning(layers=Layers.ALL)


@pytest.mark.parametrize("name", NETS)
def test_the_groups_are_those_that_theory_says(name):
    graph = channel_graph(*build(name))
    assert {group.name: group.atoms for group in graph.groups} == NETS[name][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_laws_hold_at_several_fractions(name):
    check_compressor(ALL, *build(name), fractions=(0.1, 0.3, 0.7, 0.95))


@pytest.mark.parametrize("name", NETS)
def test_every_group_is_cut_exactly(name):
    model, example = build(name)
    check_compressor(ALL, model, example, fractions=(0.6,))
    assert set(ALL.select(model, 0.5, example=example).kept) == set(NETS[name][2])


@pytest.mark.parametrize(
    "name",
    ["residual", "torch's attention", "instance norm", "resampling", "packed attention with a table of positions"],
)
def test_single_precision_is_as_exact_as_it_can_be(name):
    check_compressor(ALL, *build(name, torch.float32), fractions=(0.5,))


@pytest.mark.parametrize("name", NETS)
def test_the_cut_net_learns_and_travels_as_json(name):
    model, example = build(name)
    cut = ALL.select(model, 0.5, example=example)
    again = Cut.from_json(cut.to_json())
    assert again.removed_slices() == cut.removed_slices()
    smaller = ALL.realise(model, again).train()
    output = smaller(*example) if isinstance(example, tuple) else smaller(example)
    leaves = [leaf for leaf in _tensors(output) if leaf.requires_grad]
    sum(leaf.square().sum() for leaf in leaves).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in smaller.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in smaller.parameters())


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = (
        value.values()
        if isinstance(value, dict)
        else vars(value).values()
        if not isinstance(value, list | tuple)
        else value
    )
    return [leaf for item in items for leaf in _tensors(item)]


def _member(group: ChannelGroup, tensor, dim=0):
    return next(member for member in group.members if (member.tensor, member.dim) == (tensor, dim))


def _groups(name):
    return {group.name: group for group in channel_graph(*build(name)).groups}


def test_a_residual_stream_is_one_group_with_everything_on_it():
    stem = _groups("residual")["stem"]
    roles = {(member.tensor, member.dim): member.role for member in stem.members}
    assert roles == {
        ("stem.weight", 0): Role.OUTPUT, ("two.weight", 0): Role.OUTPUT, ("stem.bias", 0): Role.BIAS,
        ("two.bias", 0): Role.BIAS, ("bn.weight", 0): Role.SCALE, ("bn2.weight", 0): Role.SCALE,
        ("bn.bias", 0): Role.SHIFT, ("bn2.bias", 0): Role.SHIFT, ("bn.running_mean", 0): Role.MEAN,
        ("bn2.running_mean", 0): Role.MEAN, ("bn.running_var", 0): Role.VARIANCE, ("bn2.running_var", 0): Role.VARIANCE,
        ("one.weight", 1): Role.INPUT, ("head.2.weight", 1): Role.INPUT,
    }  # fmt: skip


def test_flattened_pixels_go_with_their_channel():
    assert _member(_groups("flatten")["0"], "4.weight", 1).positions == Regular(0, 6, 0, 16, ((16, 1),))


def test_a_head_is_its_queries_keys_and_values():
    group = _groups("packed attention with a table of positions")["2.qkv"]
    assert _member(group, "2.qkv.weight").positions == Regular(0, 3, 0, 4, ((3, 12), (4, 1)))
    assert _member(group, "2.table", 1).positions == Regular(0, 3, 0, 1)
    assert [(a.module, a.name, a.per_atom) for a in group.attributes] == [("2", "num_heads", 1)]


def test_a_head_of_keys_takes_its_queries_along():
    group = _groups("grouped-query attention")["2.q"]
    assert _member(group, "2.q.weight").positions == Regular(0, 3, 0, 4, ((4, 1),))
    assert _member(group, "2.k.weight").positions == Regular(0, 3, 0, 2, ((2, 1),))
    assert [(a.name, a.per_atom) for a in group.attributes] == [("num_heads", 2)]


def test_a_tied_table_is_named_once():
    words = _groups("embedding tied to the head")["words"]
    assert [(member.tensor, member.dim) for member in words.members if member.tensor == "words.weight"] == [
        ("words.weight", 1)
    ]


def test_positions_that_follow_no_rule_are_listed():
    shuffled = _groups("a padded shortcut")["stem"]
    assert _member(shuffled, "two.weight", 0).positions == Regular(0, 6, 3, 1)
    listed = positions_of(torch.tensor([0, 1, 1, 0, 2]).numpy(), torch.tensor([0, 1, 2, 5, 7]).numpy())
    assert listed == Listed(((0, 5), (1, 2), (7,)))
    assert listed.of([0, 2]).tolist() == [0, 5, 7]


@pytest.mark.parametrize("name", NETS)
def test_positions_are_inside_their_tensors_and_belong_to_one_atom(name):
    model, example = build(name)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    seen = {}
    for group in channel_graph(model, example).groups:
        for member in group.members:
            places = member.positions.of(range(group.atoms)).tolist()
            assert member.size == tensors[member.tensor].shape[member.dim]
            assert len(places) == member.positions.total
            assert max(places) == member.positions.largest < member.size
            assert not seen.setdefault((member.tensor, member.dim), set()) & set(places)
            seen[member.tensor, member.dim] |= set(places)


class _Picks(nn.Module):
    def __init__(self, pick):
        super().__init__()
        self.one, self.two, self.pick = nn.Linear(6, 8), nn.Linear(8, 3), pick

    def forward(self, x):
        return self.pick(self, self.one(x))


@pytest.mark.parametrize(
    ("pick", "reason"),
    [
        (lambda net, x: net.two(x * torch.arange(8.0)), "fixed width: aten.mul"),
        (lambda net, x: net.two(x * torch.ones(8)), "its forward computes with a fixed width: RuntimeError"),
        (lambda net, x: net.two(x - x.mean(1, keepdim=True)), "mixed by aten.mean"),
        (lambda net, x: net.two(x.sort(1).values), "mixed by aten.sort"),
        (lambda net, x: net.two(torch.fft.fft(x).real), "aten._fft_r2c in the model, which is not understood"),
        (lambda net, x: net.two(x.as_strided((5, 8), (8, 1))), "aten.as_strided"),
        (lambda net, x: net.two(x[:, torch.randperm(8)]), "fixed width"),
        (lambda net, x: net.two(torch.cat((x[:, :3], x[:, 3:] * 2), 1)), "depends on the number of channels"),
        (lambda net, x: net.two(x * x.shape[1]), "depends on the number of channels"),
        (lambda net, x: net.two(x.view(-1, 2, 4).view(-1, 8)), "fixed width"),
        (lambda net, x: {"y": net.two(x), "x": {"z": [x]}}, "an output of the model (['x']['z'][0])"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_reason(pick, reason):
    torch.manual_seed(0)
    cut = compress(_Picks(pick), FilterPruning(), 0.5, example=torch.randn(5, 6)).cut
    assert not cut.kept
    assert reason in cut.skipped["one"]


@pytest.mark.parametrize("read", [lambda x: x[:, 1:2], lambda x: x[:, 1, None]])
def test_only_the_channels_that_are_read_by_number_stay(read):
    cut = compress(_Picks(lambda net, x: net.two(x) + read(x)), FilterPruning(), 0.9, example=torch.randn(5, 6)).cut
    removed = dict(cut.removed_slices()["one.weight"])[0]
    assert removed
    assert not {0, 1} & set(removed)


def test_a_channel_that_is_counted_from_the_end_stays_there():
    cut = compress(
        _Picks(lambda net, x: net.two(x) + x[:, -2, None]), FilterPruning(), 0.9, example=torch.randn(5, 6)
    ).cut
    removed = dict(cut.removed_slices()["one.weight"])[0]
    assert removed
    assert not {6, 7} & set(removed)


def test_a_mean_that_nobody_reads_forbids_nothing():
    def forward(net, x):
        x.mean(1)
        return net.two(x)

    assert set(compress(_Picks(forward), FilterPruning(), 0.5, example=torch.randn(5, 6)).cut.kept) == {"one"}


def test_a_global_cut_leaves_every_layer_a_channel():
    model, example = build("a padded shortcut")
    with torch.no_grad():
        model.stem.weight.mul_(1e-3)
        model.two.weight[:, :].mul_(1e-3)
    done = compress(model, FilterPruning(scope=Global(), layers=Layers.ALL), 0.95, example=example)
    assert min(p.numel() for p in done.model.parameters()) > 0


@pytest.mark.parametrize(("multiple", "left"), [(1, 3), (4, 4), (3, 3), (16, 8)])
def test_widths_are_rounded_up_to_a_multiple(multiple, left):
    model, example = build("plain")
    done = compress(model, FilterPruning(round_to=multiple), 0.6, example=example)
    assert done.model[0].out_channels == left


@pytest.mark.parametrize("bad", [0, -2, 1.5, True])
def test_a_multiple_is_a_count(bad):
    with pytest.raises(ValueError, match="round_to"):
        FilterPruning(round_to=bad)


def test_strict_names_everything_that_cannot_be_cut():
    model, example = build("layer norm")
    with pytest.raises(ValueError, match=r"2: its channels are normalised together by aten.native_layer_norm in '3'"):
        FilterPruning(strict=True).select(model, 0.5, example=example)
    model, example = build("plain")
    assert FilterPruning(strict=True).select(model, 0.5, example=example).kept


def test_an_encoder_layer_with_fewer_heads_leaves_its_fused_path():
    model, example = build("torch's encoder layer")
    cut = ALL.select(model, 0.5, example=example)
    truncated, realised = (m.eval() for m in (ALL.truncate(model, cut), ALL.realise(model, cut)))
    assert realised[0].self_attn.num_heads < 3
    with torch.no_grad():  # where torch's own layer takes its fused path
        torch.testing.assert_close(realised(example), truncated(example), rtol=1e-10, atol=1e-10)
