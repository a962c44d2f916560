"""Which norm layer follows which layer: the right pairs, no others, and a model left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.models import create
from pliant.structure import norm_after


def model_of(name):
    return create(name, num_classes=10, in_channels=3, image_size=32)


class Steps(nn.Module):
    """Calls `forward` on a dictionary of modules."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def conv(out=3, **options):
    return nn.Conv2d(2, out, 3, **options)


X = torch.ones(1, 2, 5, 5)


@pytest.mark.parametrize("name", ["cnn-4", "vgg-16-bn", "resnet-20", "resnet-18"])
def test_pairs_of_models_follow_the_order_of_definition(name):
    model = model_of(name)
    pairs = norm_after(model, torch.zeros(1, 3, 32, 32))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    convolutions = [n for n in layers if isinstance(model.get_submodule(n), nn.Conv2d)]
    assert {n: layers[layers.index(n) + 1] for n in convolutions} == pairs


@pytest.mark.parametrize("name", ["resnet-20", "resnet-18"])
def test_a_zero_scale_and_shift_of_the_pair_silence_exactly_that_channel(name):
    model = model_of(name).eval()
    pairs = norm_after(model, torch.zeros(1, 3, 32, 32))
    for layer, norm in list(pairs.items())[:3]:
        assert model.get_submodule(norm).num_features == model.get_submodule(layer).out_channels


def test_pre_activation_models_pair_where_no_sum_is_in_between():
    model = create("wide-resnet-28-10", num_classes=10, in_channels=3, image_size=8, depth=10, width=1)
    inside = {f"stages.{i}.0.conv1": f"stages.{i}.0.bn2" for i in range(3)}
    assert norm_after(model, torch.zeros(1, 3, 8, 8)) == {"conv": "stages.0.0.bn1", **inside}


def test_nothing_of_the_model_changes():
    torch.manual_seed(0)
    model = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Sequential(nn.ReLU()))
    model[3].eval()
    model.noise = Steps(lambda _, x: x + torch.rand_like(x))
    modes = [m.training for m in model.modules()]
    state = {n: v.clone() for n, v in model.state_dict().items()}
    random = torch.get_rng_state()
    assert norm_after(model, X) == {"0": "1"}
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_fails_is_left_as_it_was_too():
    model = nn.Sequential(conv(), nn.BatchNorm2d(3))
    with pytest.raises(RuntimeError):
        norm_after(model, torch.ones(1, 7, 5, 5))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


NONE = {
    "the norm used twice": Steps(
        lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)), a=conv(), b=conv(), norm=nn.BatchNorm2d(3)
    ),
    "the layer used twice": Steps(lambda m, x: m.norm(m.a(x)) + m.a(x), a=conv(), norm=nn.BatchNorm2d(3)),
    "one layer read by two norms": Steps(
        lambda m, x: sum(norm(y) for y in [m.a(x)] for norm in (m.one, m.two)),
        a=conv(),
        one=nn.BatchNorm2d(3),
        two=nn.BatchNorm2d(3),
    ),
    "a functional norm": Steps(lambda m, x: F.batch_norm(m.a(x), torch.zeros(3), torch.ones(3)), a=conv()),
    "a sum in between": Steps(lambda m, x: m.norm(m.a(x) + 1), a=conv(), norm=nn.BatchNorm2d(3)),
    "a write in place in between": Steps(lambda m, x: m.norm(F.relu_(m.a(x))), a=conv(), norm=nn.BatchNorm2d(3)),
    "a module in place in between": nn.Sequential(conv(), nn.ReLU(inplace=True), nn.BatchNorm2d(3)),
    "a group norm": nn.Sequential(conv(4), nn.GroupNorm(2, 4)),
    "a layer norm": nn.Sequential(conv(), nn.LayerNorm((3, 3, 3))),
    "an unused norm": Steps(lambda m, x: m.a(x), a=conv(), norm=nn.BatchNorm2d(3)),
}


@pytest.mark.parametrize("case", NONE)
def test_no_pair_where_there_is_none(case):
    assert norm_after(NONE[case], X) == {}


def test_identities_in_between_are_looked_through():
    assert norm_after(nn.Sequential(conv(), nn.Identity(), nn.BatchNorm2d(3)), X) == {"0": "2"}


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.ones(4, 2)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3, affine=True)), torch.ones(1, 2, 5)),
        (nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), X),
        (nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)), torch.ones(1, 2, 4, 4, 4)),
    ],
)
def test_other_layers_pair_as_well(model, example):
    assert norm_after(model, example) == {"0": "1"}


def test_several_arguments_are_a_sequence():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = conv(), nn.BatchNorm2d(3)

        def forward(self, x, y):
            return self.norm(self.a(x + y))

    assert norm_after(Two(), (X, X)) == {"a": "norm"}
