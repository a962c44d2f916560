"""Models that cannot be looked at, and forwards that were set on single layers."""

from __future__ import annotations

import copy
import functools
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.compress import Both, FilterPruning, LowRank, TensorTrain, UnstructuredPruning, compress
from pliant.compress.compressor import compressor_of
from pliant.structure.channels.kinds import Layers

COMPRESSORS = {
    "filters": FilterPruning(layers=Layers.ALL),
    "rank": LowRank(),
    "trains": TensorTrain(),
    "both": Both(FilterPruning(layers=Layers.ALL)),
    "weights": UnstructuredPruning(),
}
REPLACING = ["rank", "trains"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).double().eval()


def example():
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).double()


def by_method(layer):
    layer.forward = types.MethodType(lambda self, x: 3 * F.linear(x, self.weight, self.bias), layer)


def by_accelerate(layer):
    hooks = pytest.importorskip("accelerate.hooks")

    class Larger(hooks.ModelHook):
        def post_forward(self, module, output):  # noqa: ARG002  (the interface)
            return 3 * output

    hooks.add_hook_to_module(layer, Larger())


def under_autocast(layer):
    """As accelerate does for mixed precision."""
    layer.forward = types.MethodType(torch.autocast("cpu", enabled=False)(type(layer).forward), layer)


FOLLOWING = {"a method": by_method, "accelerate": by_accelerate, "autocast": under_autocast}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("patch", FOLLOWING)
def test_a_forward_that_follows_copies_is_kept(patch, name):
    model, compressor = net(), COMPRESSORS[name]
    FOLLOWING[patch](model[2])
    done = compress(model, compressor, 0.6, example=example())
    assert done.report.removed > 0
    assert done.report.relative_difference < 1e-10
    before = copy.deepcopy(done.model)
    with torch.no_grad():
        model[2].weight.zero_()
    assert torch.equal(done.model(example()), before(example()))


@pytest.mark.parametrize("name", REPLACING)
def test_a_layer_whose_own_forward_a_replacement_would_lose_stays_by_name(name):
    model = net()
    by_method(model[2])
    cut = compress(model, COMPRESSORS[name], 0.6, example=example()).cut
    assert "its forward was set on the layer itself" in cut.skipped["2"]
    assert list(cut.atoms) == ["0"]


def by_closure(layer):
    old = layer.forward
    layer.forward = lambda x: 3 * old(x)


def by_default(layer):
    layer.forward = lambda x, old=layer.forward: 3 * old(x)


def by_decorator(layer):
    layer.forward = torch.no_grad()(layer.forward)


def by_nested_closure(layer):
    parts = {"old": [functools.partial(layer.forward)]}
    layer.forward = types.MethodType(lambda _, x: next(part(x) for part in parts["old"]), layer)


_GLOBAL = {}


def by_global(layer):
    _GLOBAL["old"] = layer.forward
    layer.forward = lambda x: 3 * _GLOBAL["old"](x)


HOLDING = [by_closure, by_default, by_decorator, by_nested_closure, by_global]


@pytest.mark.parametrize("patch", HOLDING)
def test_a_forward_that_holds_on_to_the_original_is_refused(patch):
    for compressor in COMPRESSORS.values():
        model = net()
        patch(model[2])
        with pytest.raises(ValueError, match="the forward that was set on '2' must follow copies"):
            compress(model, compressor, 0.6, example=example())


def test_a_function_without_any_tensor_may_be_set():
    model = net()
    scale = 2.0
    model[3].forward = lambda x: F.relu(x) * scale
    assert compress(model, COMPRESSORS["filters"], 0.5, example=example()).report.relative_difference < 1e-10


def test_a_function_may_read_a_variable_that_has_no_value_yet():
    model = net()
    model[3].forward = lambda x: F.relu(x) if x.ndim else later
    assert compress(model, COMPRESSORS["filters"], 0.5, example=example()).report.relative_difference < 1e-10
    later = None  # set after the call, so that the variable is empty before


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
                 "register_full_backward_pre_hook", "register_state_dict_post_hook"]
)  # fmt: skip
@pytest.mark.parametrize("name", REPLACING)
def test_a_layer_with_hooks_stays_by_name(register, name):
    model = net()
    getattr(model[2], register)(lambda *_: None)
    cut = compress(model, COMPRESSORS[name], 0.6, example=example()).cut
    assert "it has hooks" in cut.skipped["2"]
    assert compressor_of(cut) == COMPRESSORS[name]
    assert list(cut.atoms) == ["0"]


def on_meta():
    return net().to("meta")


def exported():
    return torch.export.export(net(), (example(),)).module()


@pytest.mark.parametrize(
    ("make", "message"),
    [(on_meta, r"'0\.weight' must have values, found it on the meta device: .*to_empty"),
     (exported, r"the model must not be what torch\.export made")],
)  # fmt: skip
def test_models_without_values_or_modes_are_refused(make, message):
    for compressor in COMPRESSORS.values():
        with pytest.raises(ValueError, match=message):
            compress(make(), compressor, 0.6, example=example())
