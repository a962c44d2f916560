"""Coupled plans: what a ball holds together is what a cut takes out together."""

from __future__ import annotations

import copy
import io
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from channel_nets import NETS, build, chain, conv, dense_block, head, layer_norm, residual
from torch import nn

from pliant.compress import FilterPruning, Layers
from pliant.models import create
from pliant.optim import SFW
from pliant.regions import Axes, Ball, Coupled, Filters, Scaled, Slices, TopK
from pliant.structure import Constraint, Fixed, Free, InitScaled, Joined, Plan, initial_norm
from pliant.structure.channels import Role, removed_slices

MAKERS = {Role.OUTPUT, Role.BIAS, Role.SCALE, Role.SHIFT}
PICTURE = torch.zeros(2, 3, 8, 8)


def coupled(model, example, **options):
    return Plan.for_filters(model, **{"k": 0.4, "coupled": True, "example": example} | options)


def inverted_residual():
    """Expansion, depthwise convolution and projection around a residual stream, as in MobileNet v2."""

    def block():
        return chain(
            conv(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), conv(16, 16, groups=16, bias=False),
            nn.BatchNorm2d(16), nn.ReLU6(), conv(16, 8, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip

    class Mobile(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two, self.head = conv(3, 8), block(), block(), head(8)

        def forward(self, x):
            x = self.stem(x)
            x = x + self.one(x)
            return self.head(x + self.two(x))

    return Mobile()


class Columns(nn.Module):
    """A linear layer whose weight is (in, out), as in GPT-2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.2)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Decoder(nn.Module):
    """A causal block before a residual stream under LayerNorm."""

    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.c_attn, self.c_proj = Columns(dim, 3 * dim), Columns(dim, dim)
        self.c_fc, self.c_out = Columns(dim, 4 * dim), Columns(4 * dim, dim)

    def forward(self, x):
        b, n, _ = x.shape
        width = self.num_heads * self.head_dim
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(b, n, self.num_heads, self.head_dim).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, width)
        x = x + self.c_proj(y)
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class LanguageModel(nn.Module):
    """Tied embeddings around two blocks."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(20, 12), nn.Embedding(8, 12)
        self.h, self.norm, self.out = chain(Decoder(12, 3), Decoder(12, 3)), nn.LayerNorm(12), nn.Linear(12, 20)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        return self.out(self.norm(self.h(self.words(tokens) + self.places.weight[: tokens.shape[1]])))


def vision(name, size, **options):
    return lambda: create(name, num_classes=10, in_channels=3, image_size=size, **options)


REAL = {
    "resnet-20": (vision("resnet-20", 8), PICTURE, 12),
    "resnet-18": (vision("resnet-18", 8, widths=(4, 4, 6, 8)), PICTURE, 12),
    "mobile": (inverted_residual, PICTURE, 3),
    "vit": (vision("vit", 8, dim=12, depth=2, num_heads=3), PICTURE, 4),
    "gpt-2": (LanguageModel, torch.zeros(2, 6, dtype=torch.long), 4),
}


def real(name):
    factory, example, _ = REAL[name]
    torch.manual_seed(0)
    return factory(), example


def balls_of(plan):
    return [group for group in plan if isinstance(group.target, Ball) and isinstance(group.target.view, Scaled)]


def check_atoms(model, example, layers):
    """Every ball is a group of the cut, and what a vertex does not choose is what goes when its atoms stay."""
    found = FilterPruning(layers=layers).survey(model, example).groups
    balls = balls_of(coupled(model, example, k=1, layers=layers))
    assert len(balls) == len(found)
    for ball, group in zip(balls, found, strict=True):
        members = {m.tensor: m for m in group.members if m.role in MAKERS and m.tensor in ball.names}
        assert {t: m.role for t, m in members.items() if m.role is Role.OUTPUT}
        slots = {slot.name: slot.parameter.detach() for slot in ball.slots}
        assert ball.target.view.count(*[p.shape for p in slots.values()]) == group.atoms
        for k in {1, group.atoms // 2, group.atoms - 1}:
            direction = [torch.randn_like(p) for p in slots.values()]
            parts = Ball(TopK(k), ball.target.view, 2.0).vertex(direction if len(slots) > 1 else direction[0])
            vertex = {name: part.dense() for name, part in zip(slots, parts, strict=True)}
            chosen = {
                atom
                for atom in range(group.atoms)
                for t, m in members.items()
                if vertex[t].index_select(m.dim, torch.from_numpy(m.positions.of([atom]))).abs().sum() > 0
            }
            assert len(chosen) == k
            lost = removed_slices([group], {group.name: sorted(chosen)})
            for tensor, value in vertex.items():
                gone = dict(lost.get(tensor, ())).get(members[tensor].dim, ())
                rows = value.movedim(members[tensor].dim, 0)
                stays = torch.ones(len(rows), dtype=torch.bool)
                stays[list(gone)] = False
                assert torch.equal(rows.reshape(len(rows), -1).abs().sum(1) > 0, stays)


@pytest.mark.parametrize("name", NETS)
def test_a_vertex_of_k_atoms_is_what_stays_when_all_other_channels_go(name):
    check_atoms(*build(name), Layers.ALL)


@pytest.mark.parametrize("name", REAL)
def test_real_models_are_constrained_by_what_their_cut_removes(name):
    model, example = real(name)
    check_atoms(model, example, Layers.AUTO)
    assert len(balls_of(coupled(model, example))) == REAL[name][2]


@pytest.mark.parametrize("name", NETS)
def test_truncation_leaves_exactly_the_kept_atoms_of_every_ball(name):
    model, example = build(name)
    pruning = FilterPruning(layers=Layers.ALL)
    cut = pruning.select(model, 0.5, example=example)
    for ball, (group, kept) in zip(balls_of(coupled(model, example, layers=Layers.ALL)), cut.kept.items(), strict=True):
        small = dict(pruning.truncate(model, cut).named_parameters())
        norms = ball.target.view.magnitudes(*[small[t].detach() for t in ball.names])
        assert (norms > 0).nonzero().flatten().tolist() == list(kept), group


@pytest.mark.parametrize("name", NETS)
def test_every_trainable_parameter_is_there_once(name):
    model, example = build(name)
    plan = coupled(model, example, layers=Layers.ALL)
    names = [n for group in plan for n in group.names]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())


def test_the_atom_of_a_residual_stream_is_all_that_makes_its_channels():
    model, _ = build("residual", torch.float32)
    stream, inner, rest = coupled(model, PICTURE, k=3, radius=InitScaled(2.0))
    assert stream.names == (
        "stem.weight", "two.weight", "stem.bias", "two.bias", "bn.weight", "bn2.weight", "bn.bias", "bn2.bias",
    )  # fmt: skip
    assert inner.names == ("one.weight", "one.bias", "bn1.weight", "bn1.bias")
    assert isinstance(rest.target, Free)
    region = stream.target
    assert region.gauge == TopK(3)
    assert region.view.view == Coupled((Filters(),) * 8)
    n0 = [initial_norm(s.module, s.local, s.parameter) for s in stream.slots]
    assert region.view.factors == pytest.approx([1 / n for n in n0])
    assert region.radius == pytest.approx(2.0 * math.sqrt(8) * 2.0 / TopK(3).at(8).diameter(8))
    tensors = [s.parameter.detach() for s in stream.slots]
    rows = torch.stack([t.reshape(8, -1).norm(dim=1) / n for t, n in zip(tensors, n0, strict=True)])
    torch.testing.assert_close(region.value(tensors), TopK(3).value(rows.norm(dim=0)))


def test_heads_and_columns_have_views_of_their_own():
    model, example = real("gpt-2")
    balls = {group.names[0].removeprefix("h.0."): group for group in balls_of(coupled(model, example))}
    assert balls["c_attn.weight"].target.view.view.members[0] == Slices.of(
        1, [head for _ in range(3) for head in range(3) for _ in range(4)], 3
    )
    assert balls["c_fc.weight"].target.view.view.members == (Filters(Axes(out=1)), Filters())


def test_a_norm_over_a_concatenation_is_left_to_norms():
    torch.manual_seed(0)
    model = dense_block()
    found = {name: group.target for group in coupled(model, PICTURE) for name in group.names}
    assert isinstance(found["n1.weight"].view, Scaled)  # behind the stem alone
    assert found["n2.weight"].gauge == found["n3.bias"].gauge == TopK(0.05)
    free = Free(lr=0.3)
    plan = coupled(model, PICTURE, norms=free)
    found = {name: group.target for group in plan for name in group.names}
    assert isinstance(found["n1.weight"], Ball)
    assert found["n2.weight"] == found["n3.bias"] == free
    assert found["head.2.weight"] == Free(lr=0.05)


def test_channels_that_must_stay_are_left_to_rest_and_logged_with_the_reason(caplog):
    model, example = build("layer norm", torch.float32)
    with caplog.at_level(logging.INFO, logger="pliant"):
        plan = coupled(model, example, rest=Constraint(TopK(1), radius=Fixed(3.0)))
    assert [group.names[0] for group in balls_of(plan)] == ["0.weight", "4.weight"]
    assert {g.target.radius for g in plan if g.names[0] in {"2.weight", "3.weight", "6.weight"}} == {3.0}
    assert any(text.startswith("no ball holds the channels of 2: ") for text in caplog.messages)


def test_ignored_layers_take_their_whole_group_with_them():
    model, _ = build("residual", torch.float32)
    plan = coupled(model, PICTURE, ignore=["two"])
    assert [group.names[0] for group in balls_of(plan)] == ["one.weight"]
    assert {"stem.weight", "bn.weight"} <= {n for g in plan if isinstance(g.target, Free) for n in g.names}


def test_by_default_the_layers_are_those_of_the_cut():
    model, _ = build("flatten", torch.float32)
    assert [group.names[0] for group in balls_of(coupled(model, PICTURE))] == ["0.weight"]
    both = coupled(model, PICTURE, layers=Layers.ALL)
    assert [group.names[0] for group in balls_of(both)] == ["0.weight", "4.weight"]


def test_frozen_tensors_take_no_part():
    model, _ = build("residual", torch.float32)
    model.bn.weight.requires_grad_(False)
    model.one.weight.requires_grad_(False)
    (stream,) = balls_of(coupled(model, PICTURE))
    assert "bn.weight" not in stream.names
    assert "bn.bias" in stream.names


def test_contradictions_are_refused():
    model = residual()
    with pytest.raises(ValueError, match=r"coupled=True needs example="):
        Plan.for_filters(model, k=0.5, coupled=True)
    with pytest.raises(ValueError, match=r"coupled=True joins norm layers by itself"):
        coupled(model, PICTURE, norms=Joined())
    with pytest.raises(ValueError, match=r"layers=\.\.\. is for coupled=True"):
        Plan.for_filters(model, k=0.5, layers=Layers.ALL)
    with pytest.raises(ValueError, match=r"none is left to constrain: .*'stem' matches the ignore pattern '\*'"):
        coupled(model, PICTURE, ignore=["*"])
    with pytest.raises(ValueError, match=r"ignore must be a tuple of name patterns"):
        coupled(model, PICTURE, ignore="stem")
    for name in ("stem", "one", "two"):
        model.get_submodule(name).weight.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable weight makes the channels"):
        coupled(model, PICTURE)


@pytest.mark.parametrize("name", REAL)
def test_json_and_text_rebuild_the_plan(name):
    model, example = real(name)
    plan = coupled(model, example)
    again = Plan.from_json(copy.deepcopy(model), plan.to_json())
    assert [(g.names, g.target) for g in again] == [(g.names, g.target) for g in plan]
    assert str(again) == str(plan)
    assert "k-support on channels" in str(plan)


def loss_of(model, example):
    output = model(example if example.dtype == torch.long else torch.randn_like(example))
    return output.square().mean()


@pytest.mark.parametrize("name", REAL)
def test_weights_stay_feasible_after_every_step_and_state_travels(name):
    model, example = real(name)
    plan = coupled(model, example, radius=InitScaled(1.5))
    plan.scale_weights(0.9)
    plan.make_feasible()
    assert plan.make_feasible() == []
    optimizer = SFW(plan.param_groups(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, example).backward()
        optimizer.step()
        assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in optimizer.diagnostics())
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    other = SFW(Plan.from_json(twin, plan.to_json()).param_groups(), lr=0.7)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        one.grad = torch.ones_like(one)
        two.grad = torch.ones_like(two)
    optimizer.step()
    other.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_model_is_left_as_it_was():
    model, example = build("residual", torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coupled(model, example.float())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_layer_norm_streams_of_a_whole_model_name_the_reason():
    model = layer_norm()[2:4]
    with pytest.raises(ValueError, match="no channel of the model can be cut"):
        coupled(model, torch.randn(3, 10))
