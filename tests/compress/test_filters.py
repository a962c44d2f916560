from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from compressible import build
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import remove_parametrizations

from pliant.compress import (
    L1,
    L2,
    FilterPruning,
    Folded,
    Global,
    GroupNorm,
    Layers,
    LowRank,
    Score,
    compress,
)
from pliant.spec import register

ALL = FilterPruning(layers=Layers.ALL)


class Net(nn.Module):
    """Two convolutions with whatever stands between them."""

    def __init__(self, between, **layers):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3)
        self.between = between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def _reason(model, example=None, layer="first", **options):
    example = torch.randn(2, 3, 8, 8) if example is None else example
    done = compress(model, FilterPruning(**options), 0.5, example=example)
    assert done.report.relative_difference < 1e-5
    assert (done.report.parameters, done.report.macs) == (done.cut.parameters, done.cut.macs)
    assert not done.cut.left_dense
    return done.cut.skipped.get(layer)


def test_a_removed_channel_is_exactly_zero_behind_a_learnt_norm():
    model, example = build("plain")
    cut = FilterPruning().select(model, 0.5, example=example)
    truncated = FilterPruning().truncate(model, cut).eval()
    removed = sorted(set(range(10)) - set(cut.kept["0"]))
    for mode in (False, True):
        normed = truncated[:2].train(mode)(example)
        assert torch.equal(normed[:, removed], torch.zeros_like(normed[:, removed]))
        assert normed[:, list(cut.kept["0"])].abs().amin((0, 2, 3)).gt(0).any()


def test_a_norm_without_scale_is_made_silent_too():
    model, example = build("conv1d")
    cut = FilterPruning().select(model, 0.5, example=example)
    normed = FilterPruning().truncate(model, cut).eval()[:2](example)
    silent = sorted(set(range(8)) - set(cut.kept["0"]))
    assert torch.equal(normed[:, silent], torch.zeros_like(normed[:, silent]))


def test_every_layer_of_a_plain_chain_shrinks():
    model, example = build("plain")
    done = compress(model, FilterPruning(layers=Layers.ALL), 0.5, example=example)
    sizes = [tuple(m.weight.shape[:2]) for m in done.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sizes == [(5, 3), (6, 5), (5, 6), (8, 20), (5, 8)]
    assert done.model[1].num_features == 5
    assert done.model[4].out_channels == 6
    assert done.model[4].in_channels == 5
    assert done.model[11].in_features == 20
    assert not done.report.left_dense


def test_a_realised_model_learns():
    model, example = build("plain")
    realised = compress(model, FilterPruning(), 0.5, example=example).model.train()
    realised(example).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in realised.parameters())


def test_channels_that_meet_in_a_sum_go_together():
    model, example = build("residual")
    done = compress(model, FilterPruning(), 0.5, example=example)
    assert set(done.cut.kept) == {"stem", "conv1"}
    assert (done.model.stem.out_channels, done.model.conv2.out_channels, done.model.fc.in_features) == (4, 4, 4)


def test_channels_side_by_side_go_on_their_own():
    model, example = build("concat")
    done = compress(model, FilterPruning(), 0.5, example=example)
    assert set(done.cut.kept) == {"left", "right", "last"}
    assert done.model.last.in_channels == 6


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.ReLU(), None),
        (nn.Sequential(nn.BatchNorm2d(8), nn.Hardswish(), nn.Dropout2d(), nn.AvgPool2d(2)), None),
        (nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.Mish()), None),
        (nn.Sigmoid(), None),
        (nn.Softplus(), None),
        (nn.GroupNorm(2, 8), None),
        (nn.PixelShuffle(1), None),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)), None),
        (nn.PReLU(8), None),
        (nn.Conv2d(8, 8, 1, groups=2), None),
        (nn.LocalResponseNorm(3), "must be the same everywhere"),
        (nn.Softmax(1), "mixed by aten._softmax"),
        (nn.GroupNorm(1, 8), "normalised together by aten.native_group_norm"),
        (nn.LayerNorm([8, 8, 8]), "normalised together by aten.native_layer_norm in 'between'"),
        (nn.Conv2d(8, 8, 1, groups=1).requires_grad_(requires_grad=False), None),
    ],
    ids=str,
)
def test_what_mixes_channels_is_named_and_nothing_else_stops_a_cut(between, reason):
    found = _reason(Net(between))
    assert (found is None) if reason is None else reason in found


class _Flat(nn.Module):
    def __init__(self, flatten):
        super().__init__()
        self.first, self.second, self.flatten = nn.Conv2d(3, 8, 3), nn.Linear(72, 4), flatten

    def forward(self, x):
        return self.second(self.flatten(F.max_pool2d(torch.relu(self.first(x)), 2)))


@pytest.mark.parametrize(
    ("flatten", "followed"),
    [
        (lambda x: torch.flatten(x, 1), True),
        (lambda x: x.flatten(start_dim=1), True),
        (lambda x: x.view(x.size(0), -1), True),
        (lambda x: x.reshape(x.shape[0], -1), True),
        (lambda x: x.view(x.size()[0], -1), True),
        (lambda x: x.view(-1, 72), False),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), True),
        (lambda x: x.transpose(1, 2).reshape(x.size(0), -1), True),
        (lambda x: x.view(x.size(0), x.size(1) * 9), True),
        (lambda x: x.flatten(0, 1).view(x.size(0), x.size(1) * 9), True),
    ],
)
def test_flattening_is_followed_or_refused(flatten, followed):
    assert (_reason(_Flat(flatten)) is None) == followed


class _Twice(Net):
    def forward(self, x):
        x = self.between(self.first(x))
        return self.second(self.between(x))


class _ReadsWeight(Net):
    def forward(self, x):
        return super().forward(x) + self.first.weight.sum()


def test_a_layer_that_is_used_twice_loses_what_it_makes_and_what_it_reads():
    model = _Twice(nn.Conv2d(8, 8, 3, padding=1)).double()
    done = compress(model, FilterPruning(), 0.5, example=torch.randn(2, 3, 8, 8).double())
    assert done.report.relative_difference < 1e-10
    assert set(done.cut.kept) == {"first"}
    assert done.model.between.weight.shape[:2] == (4, 4)


def test_a_weight_that_is_mixed_elsewhere_stays():
    assert "mixed by aten.sum" in _reason(_ReadsWeight(nn.ReLU()))


def test_a_branch_that_looks_at_values_is_followed_where_it_goes():
    model, example = build("untraceable")
    done = compress(model, FilterPruning(), 0.5, example=example)
    assert "mixed by aten.sum" in done.report.skipped["conv1"]
    assert set(done.cut.kept) == {"conv2"}


def test_a_second_consumer_in_training_mode_is_seen():
    model, example = build("auxiliary")
    done = compress(model, FilterPruning(), 0.5, example=example)
    assert done.model.aux.in_channels == 4
    assert "aux" in done.cut.skipped


def test_pooling_over_the_features_of_a_linear_layer_is_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.MaxPool1d(2), nn.Linear(4, 3))
    assert "must be the same everywhere" in _reason(model, torch.randn(5, 6), layer="0")


def test_a_norm_over_tokens_is_no_norm_of_features():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    assert "must be the same everywhere" in _reason(model, torch.randn(4, 8, 6), layer="0")


def test_linear_layers_on_tokens_and_heads_shrink():
    model, example = build("attention")
    done = compress(model, FilterPruning(layers=Layers.LINEARS), 0.5, example=example)
    assert done.report.relative_difference < 1e-10
    assert done.model.attention.num_heads == 1
    assert done.model.attention.in_proj_weight.shape == (12, 12)
    assert "normalised together" in done.report.skipped["attention.out_proj"]


def test_a_mlp_on_tokens_is_taken_out():
    model = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    done = compress(model, FilterPruning(), 0.5, example=torch.randn(2, 7, 6))
    assert done.model[0].out_features == 5
    assert "normalised together by aten.native_layer_norm in '3'" in done.report.skipped["2"]


class _Headed(nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.body, self.head, self.tail = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), tail

    def forward(self, x):
        return self.tail(self.head(F.relu(self.body(x))))


@pytest.mark.parametrize(
    "tail",
    [
        lambda x: x,
        lambda x: F.log_softmax(x.mean((2, 3)), 1),
        lambda x: {"scores": x.flatten(1), "other": (x.sum(),)},
        lambda x: x.relu_(),
        lambda x: F.interpolate(x, scale_factor=2),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_output_layer_is_found_behind_anything(tail, frozen):
    model = _Headed(tail).requires_grad_(not frozen)
    cut = FilterPruning().select(model, 0.5, example=torch.randn(2, 3, 6, 6))
    assert cut.skipped["head"].startswith("an output of the model")
    assert set(cut.kept) == {"body"}


def test_ignored_tied_and_parametrised_layers_are_skipped_by_name():
    model = nn.ModuleDict({name: nn.Linear(6, 6) for name in "abcdfez"})
    model["b"].weight = model["a"].weight
    model["e"] = parametrizations.weight_norm(nn.Linear(6, 6))

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            for layer in self.layers.values():
                x = layer(x)
            return x

    cut = FilterPruning(ignore=("layers.c",)).select(Chain(), 0.5, example=torch.randn(2, 6))
    assert set(cut.kept) == {"layers.d"}
    assert "fixed" in cut.skipped["layers.a"]
    assert "shares its weights with layers.a" in cut.skipped["layers.b"]
    assert "ignore pattern 'layers.c'" in cut.skipped["layers.c"]
    assert "fixed" in cut.skipped["layers.f"]
    assert "parametrised" in cut.skipped["layers.e"]
    assert "output" in cut.skipped["layers.z"]


class _Strided(nn.Linear):
    """A layer of somebody's own: what it makes of its weight is not followed."""

    def forward(self, x):
        return F.linear(x, self.weight.as_strided(self.weight.shape, self.weight.stride()), self.bias)


class _Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.gate, self.own, self.two = nn.Linear(6, 8), nn.Linear(8, 1), _Strided(8, 5), nn.Linear(5, 3)
        self.unused = nn.Linear(4, 4)
        self.register_buffer("empty", torch.empty(0))

    def forward(self, x):
        x = self.one(x).relu()
        return self.two(self.own(x * self.gate(x).sigmoid()))


def test_layers_that_run_are_not_said_to_be_unused():
    skipped = ALL.select(_Gated(), 0.5, example=torch.randn(4, 6)).skipped
    assert skipped["gate"] == "it has one channel"
    assert skipped["own"] == "it feeds aten.as_strided in 'own', which is not understood"
    assert skipped["unused"].startswith("its forward is not called on the example")


def test_what_is_tied_together_is_said_to_be_with_its_norms_left_out():
    def grouped():
        return [nn.Conv2d(6, 6, 1, groups=3), nn.BatchNorm2d(6)]

    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two = nn.Conv2d(3, 6, 3), nn.Sequential(*grouped()), nn.Sequential(*grouped())
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            x = self.stem(x)
            y = self.one(x)
            y = y.view(len(y), 3, 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
            return self.head((x + self.two(y)).mean((2, 3)))

    skipped = dict(ALL.select(Shuffled(), 0.5, example=torch.randn(2, 3, 6, 6)).skipped)
    assert skipped.pop("head") == "an output of the model"
    assert skipped == dict.fromkeys(("stem", "one.0", "two.0"), "all its channels are tied together")


@pytest.mark.parametrize(
    ("compute", "undo"),
    [
        (parametrizations.weight_norm, partial(remove_parametrizations, tensor_name="weight")),
        (parametrizations.spectral_norm, partial(remove_parametrizations, tensor_name="weight")),
        (nn.utils.weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
        (partial(prune.random_unstructured, name="weight", amount=0.5), partial(prune.remove, name="weight")),
    ],
    ids=["weight norm", "spectral norm", "old weight norm", "old spectral norm", "pruning"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_computed_weight_is_left_with_a_word_on_how_to_make_it_plain(compute, undo):
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
    compute(model[0])
    with torch.no_grad():
        model(x)
    function = undo.func if isinstance(undo, partial) else undo
    for compressor in (ALL, LowRank()):
        reason = compressor.select(model, 0.5, example=x).skipped["0"]
        assert f"{function.__module__.removesuffix('.weight_norm').removesuffix('.spectral_norm')}." in reason
        assert f"{function.__name__}(layer" in reason
    undo(model[0])
    assert set(ALL.select(model, 0.5, example=x).kept) == {"0"}


@pytest.mark.parametrize(
    ("layers", "names"),
    [(Layers.AUTO, "048"), (Layers.CONVOLUTIONS, "048"), (Layers.LINEARS, {"11"}), (Layers.ALL, {"0", "4", "8", "11"})],
)
def test_the_kinds_of_layers(layers, names):
    model, example = build("plain")
    assert set(FilterPruning(layers=layers).select(model, 0.5, example=example).kept) == set(names)


def _scored(score, model, example, layer, fraction=0.5):
    return FilterPruning(score).select(model, fraction, example=example).kept[layer]


@pytest.mark.parametrize("score", [L1(), L2(), GroupNorm(), Folded()])
def test_scores_agree_with_their_slow_twins(score):
    model, example = build("plain")
    conv, norm = model[4], model[5]
    scores = []
    for i, row in enumerate(conv.weight.flatten(1).tolist()):
        l1, l2 = sum(abs(w) for w in row), sum(w * w for w in row) ** 0.5
        scale, shift = norm.weight[i].item(), norm.bias[i].item()
        w0, s0, b0 = conv.weight.norm().item(), norm.weight.norm().item(), norm.bias.norm().item()
        group = ((l2 / w0) ** 2 + (scale / s0) ** 2 + (shift / max(b0, s0)) ** 2) ** 0.5
        folded = abs(scale) / (norm.running_var[i].item() + norm.eps) ** 0.5 * l2
        scores.append({L1: l1, L2: l2, GroupNorm: group, Folded: folded}[type(score)])
    best = sorted(range(12), key=lambda i: -scores[i])[:6]
    assert _scored(score, model, example, "4") == tuple(sorted(best))


def _silence(model, layer, norm, atoms):
    """Set filters to zero, and make what is behind them loud."""
    with torch.no_grad():
        model.get_submodule(layer).weight[atoms] = 0.0
        model.get_submodule(norm).weight[atoms] = 9.0
        model.get_submodule(norm).bias[atoms] = 9.0


@pytest.mark.parametrize("score", [L1(), L2(), GroupNorm(), Folded()])
def test_filters_that_are_exactly_zero_are_what_a_cut_of_their_number_removes(score):
    model, example = build("plain")
    zero = {"0": [2, 5], "4": [1, 4, 7]}
    _silence(model, "0", "1", zero["0"])
    _silence(model, "4", "5", zero["4"])
    atoms = FilterPruning(score).select(model, 0.1, example=example).atoms
    left = {name: tuple(i for i in range(n) if i not in zero.get(name, ())) for name, n in atoms.items()}
    everywhere = FilterPruning(score, Global()).select(model, 5 / sum(atoms.values()), example=example)
    assert dict(everywhere.kept) == left
    assert FilterPruning(score).select(model, 3 / 12, example=example).kept["4"] == left["4"]


def test_a_filter_of_zeros_behind_a_norm_of_its_input_goes_first_too():
    model = Net(nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.ReLU()))
    _silence(model, "first", "between.0", [3])
    assert 3 not in _scored(Folded(), model, torch.randn(2, 3, 8, 8), "first", 1 / 8)


def test_channels_that_meet_go_first_only_where_all_their_filters_are_zero():
    model, example = build("residual")
    _silence(model, "conv2", "bn2", [3])
    with torch.no_grad():
        model.stem.weight[3] = 9.0
    assert 3 in _scored(GroupNorm(), model, example, "stem", 0.75)
    _silence(model, "stem", "bn", [3])
    assert 3 not in _scored(GroupNorm(), model, example, "stem", 1 / 8)


def test_folded_sees_what_the_norm_does_and_the_plain_norms_do_not():
    model, example = build("plain")
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(10, 3, 3, 3))
        model[0].weight.div_(model[0].weight.flatten(1).norm(dim=1)[:, None, None, None])
        model[1].weight.copy_(torch.arange(10.0))
        model[1].running_var.fill_(1.0)
    assert _scored(Folded(), model, example, "0") == (5, 6, 7, 8, 9)


def test_a_global_cut_does_not_depend_on_the_scale_of_a_layer():
    model, example = build("plain")
    before = FilterPruning(L2(), Global()).select(model, 0.6, example=example).kept
    with torch.no_grad():
        model[4].weight.mul_(1000.0)
    assert FilterPruning(L2(), Global()).select(model, 0.6, example=example).kept == before
    assert len({len(kept) / model[int(name)].out_channels for name, kept in before.items()}) > 1


def test_a_global_cut_leaves_one_filter_in_every_layer():
    model, example = build("plain")
    with torch.no_grad():
        model[4].weight[1:].mul_(1e-6)
    cut = FilterPruning(L2(), Global()).select(model, 0.9, example=example)
    assert cut.kept["4"] == (0,)
    assert min(map(len, cut.kept.values())) == 1


def test_weights_that_are_not_finite_are_refused_by_name():
    model, example = build("plain")
    with torch.no_grad():
        model[4].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="'4'"):
        FilterPruning().select(model, 0.5, example=example)


def test_requests_are_checked():
    model, example = build("plain")
    with pytest.raises(ValueError, match="Budget"):
        FilterPruning().select(model, 0.5, budget=0.5, example=example)
    with pytest.raises(ValueError, match="fraction"):
        FilterPruning().select(model, example=example)
    with pytest.raises(ValueError, match="ignore"):
        FilterPruning(ignore="stem")


def test_a_vision_transformer_loses_heads_and_hidden_units():
    model, example = build("attention")
    cut = FilterPruning().select(model, 0.5, example=example)
    assert set(cut.kept) == {"attention.in_proj_weight", "fc1"}
    assert "normalised together" in cut.skipped["patches"]


@register
@dataclass(frozen=True)
class Told(Score):
    """The scores that it is told, whatever the channels are."""

    values: tuple

    def of(self, channels):
        del channels
        return torch.tensor(self.values)


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(3)])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((2.0, -9.0, 3.0), r"the scores of '0' by Told\(.*\) must not be negative, found -9"),
        ((2.0, 1.0), r"the scores of '0' by Told\(.*\) must have shape \(3,\), one per channel, found \(2,\)"),
        (((1.0,), (2.0,), (3.0,)), r"must have shape \(3,\), one per channel, found \(3, 1\)"),
        ((2.0, float("nan"), 3.0), r"the scores of '0' by Told\(.*\) must be finite"),
    ],
)
def test_scores_that_are_no_sizes_are_refused(values, message, norm):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 3, 3)).eval()
    with pytest.raises(ValueError, match=message):
        FilterPruning(Told(values)).select(model, 0.5, example=torch.randn(2, 2, 9, 9))
