"""Layers trained as chains of factors: LoRITa and low-rank cores."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from pliant import separate_attention
from pliant.compress import LowRank, compress
from pliant.methods import Around, Chain, Conditioned, LoRITa, LowRankCores, cores
from pliant.models import create
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "wide linear": (lambda: nn.Linear(3, 9, bias=False), (3, 3)),
    "conv": (lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1), (2, 3, 8, 8)),
    "reflecting conv": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 7, 7)),
    "grouped conv": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 8, 8)),
    "conv 1d": (lambda: nn.Conv1d(3, 5, 4, bias=False), (2, 3, 9)),
    "conv 3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 5, 5)),
}
CHANGES = [LoRITa(2), LoRITa(3), LoRITa(4, last=True), LowRankCores(0.0), LowRankCores(0.4, last=True)]


def model_with(layer):
    return nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


def built(kind):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    x = torch.randn(shape, dtype=torch.float64)
    model = model_with(make()).double()
    model(x)  # the lazy layer learns its size
    return model, x


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_chain_computes_what_the_layer_computes(kind, depth):
    model, x = built(kind)
    change = LoRITa(depth, last=True)
    changed = change.apply(model)
    assert [len(m) for m in changed.modules() if isinstance(m, Chain)] == [depth, depth]
    torch.testing.assert_close(changed(x), model(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("change", CHANGES, ids=repr)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_collapsed_model_computes_what_the_trained_chain_computes(change, kind):
    model, x = built(kind)
    changed = change.apply(model)
    with torch.no_grad():  # any weights, as after training
        for p in changed.parameters():
            p.add_(0.1 * torch.randn_like(p))
    plain = change.collapse(changed)
    torch.testing.assert_close(plain(x), changed(x), rtol=0, atol=1e-10)
    assert {n: p.shape for n, p in plain.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert repr(plain) == repr(model)


@pytest.mark.parametrize("change", [LoRITa(2), LoRITa(3, first=False), LowRankCores(0.0)], ids=repr)
@pytest.mark.parametrize("name", ["cnn-4", "resnet-20", "lenet-5", "vit"])
def test_reference_models_come_back_unchanged(change, name):
    torch.manual_seed(0)
    model = small(name)
    before = copy.deepcopy(model.state_dict())
    changed = change.apply(model)
    plain = change.collapse(changed)
    assert any(isinstance(m, Chain) for m in changed.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(plain.state_dict()) == list(before)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6)


def small(name):
    args = {
        "cnn-4": {"widths": (4, 6, 6, 8)},
        "resnet-20": {"widths": (4, 4, 6)},
        "lenet-5": {},
        "vit": {"depth": 1, "dim": 16, "num_heads": 2},
    }
    return create(name, num_classes=10, in_channels=1, image_size=32, **args[name])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_chains_stand_in_torchs_own_transformer(change):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, dropout=0.0)
    model = separate_attention(nn.TransformerEncoder(layer, 2))
    x, padding = torch.randn(2, 5, 12), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    trained = change.apply(model)
    chains = [name for name, module in trained.named_modules() if isinstance(module, Chain)]
    assert {"layers.1.self_attn.q_proj", "layers.1.self_attn.out_proj", "layers.1.linear1"} <= set(chains)
    plain = change.collapse(trained)
    assert not any(isinstance(module, Chain) for module in plain.modules())
    for training, gradients in itertools.product((False, True), (False, True)):
        with torch.set_grad_enabled(gradients):
            found, expected = (m.train(training)(x, src_key_padding_mask=padding) for m in (trained, plain))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_factors_start_balanced_where_the_penalty_is_least(depth):
    model, _ = built("conv")
    (chain, *_) = [m for m in LoRITa(depth).apply(model).modules() if isinstance(m, Chain)]
    values = torch.linalg.svdvals(model[0].weight.detach().flatten(1))
    total = sum(factor.weight.square().sum() for factor in chain)
    torch.testing.assert_close(total.detach(), depth * values.pow(2 / depth).sum())
    first, second = chain[0].weight.detach().flatten(1), chain[1].weight.detach().flatten(1)
    torch.testing.assert_close(second.mT @ second, first @ first.mT)


def test_weight_decay_on_factors_thresholds_singular_values():
    """Minimising |W - A|^2 / 2 + decay / 2 (|W1|^2 + |W2|^2) is the proximal map of decay * nuclear norm."""
    torch.manual_seed(3)
    target = torch.randn(6, 5, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 2)).double()
    changed = LoRITa(2).apply(model)
    optimizer = SGD(changed[0].parameters(), lr=0.1, weight_decay=0.8)
    for _ in range(4000):
        optimizer.zero_grad()
        (0.5 * (changed[0][1].weight @ changed[0][0].weight - target).square().sum()).backward()
        optimizer.step()
    found = torch.linalg.svdvals(LoRITa(2).collapse(changed)[0].weight.detach())
    expected = (torch.linalg.svdvals(target) - 0.8).clamp_min(0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_low_rank_cores_are_the_best_approximation_and_compress_without_loss():
    torch.manual_seed(0)
    model = small("cnn-4").eval()
    change = LowRankCores(0.5)
    plain = change.collapse(change.apply(model))
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d):
            left, values, right = torch.linalg.svd(model.get_submodule(name).weight.detach().flatten(1))
            rank = len(values) // 2
            best = left[:, :rank] * values[:rank] @ right[:rank]
            torch.testing.assert_close(layer.weight.detach().flatten(1), best, rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 1, 32, 32)
    cut = compress(plain, LowRank(ignore=("classifier",)), 0.5, example=x)
    torch.testing.assert_close(cut.model(x), plain(x), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.three(self.two(self.one(x))))


def test_layers_that_share_a_weight_stay_plain():
    changed = LoRITa(2).apply(Shared())
    assert [name for name, m in changed.named_modules() if isinstance(m, Chain)] == ["three"]


def test_modes_dtypes_and_frozen_biases_are_kept():
    model, _ = built("conv")
    model.float().eval()
    model[0].bias.requires_grad_(requires_grad=False)
    changed = LoRITa(2).apply(model)
    assert not any(m.training for m in changed.modules())
    assert {p.dtype for p in changed.parameters()} == {torch.float32}
    assert not changed[0][1].bias.requires_grad
    assert not LoRITa(2).collapse(changed)[0].bias.requires_grad


def trained_cores(steps, *, condition=1.3, momentum=0.45, start=None, optimizer_state=None, data=0):
    torch.manual_seed(0)
    change = LowRankCores(0.5)
    model = change.apply(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3)))
    if start is not None:
        model.load_state_dict(start)
    maps = [Conditioned(cores(model), condition)]
    optimizer = Around(SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-3), maps)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    losses = []
    for step in range(data, data + steps):
        draws = torch.Generator().manual_seed(step)
        x = torch.randn(32, 2, 4, 4, generator=draws)
        y = (x.flatten(1)[:, :3]).argmax(1)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, optimizer, losses


@pytest.mark.parametrize("condition", [1.0, 1.1, 1.5])
def test_factors_stay_orthonormal_and_cores_well_conditioned(condition):
    model, _, losses = trained_cores(40, condition=condition)
    for core in cores(model):
        for matrices in (core.left.matrices(), core.right.matrices().mT):
            gram = matrices.mT @ matrices
            torch.testing.assert_close(gram, torch.eye(gram.shape[-1]).expand_as(gram), rtol=0, atol=1e-5)
        values = torch.linalg.svdvals(core.core.matrices())
        assert float((values[:, 0] / values[:, -1]).max()) <= condition * (1 + 1e-5)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_resumed_run_of_cores_is_the_uninterrupted_one():
    whole, _, _ = trained_cores(6)
    model, optimizer, _ = trained_cores(3)
    resumed, _, _ = trained_cores(
        3, start=model.state_dict(), optimizer_state=copy.deepcopy(optimizer.state_dict()), data=3
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_gradients_of_the_factors_become_tangent_and_scaled():
    model, optimizer, _ = trained_cores(1, momentum=0.0)
    core = cores(model)[0]
    with torch.no_grad():
        core.core.parameter.copy_(core.core.shaped(torch.diag(torch.tensor([2.0, 1.6, 1.0]))[None]))
    optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)
    grads = {target: torch.randn_like(target.parameter) for target in (core.left, core.right)}
    for target, grad in grads.items():
        target.parameter.grad = grad.clone()
    optimizer.step()
    u, g = core.left.matrices()[0], core.left.matrices(grads[core.left])[0]
    expected = 0.25 * (torch.eye(len(u)) - u @ u.mT) @ g
    torch.testing.assert_close(core.left.matrices(core.left.parameter.grad)[0], expected, rtol=1e-4, atol=1e-5)
    v, h = core.right.matrices()[0].mT, core.right.matrices(grads[core.right])[0].mT
    expected = 0.25 * (torch.eye(len(v)) - v @ v.mT) @ h
    torch.testing.assert_close(core.right.matrices(core.right.parameter.grad)[0].mT, expected, rtol=1e-4, atol=1e-5)


def test_conditioned_training_obeys_the_laws_of_optimizers():
    def model():
        return LowRankCores(0.5).apply(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
        )

    def make(model):
        return Around(SGD(model.named_parameters(), lr=0.05, momentum=0.45), [Conditioned(cores(model), 1.5)])

    left_out = {
        finite.nonfinite_gradients_touch_nothing,  # as torch's SGD
        habits.gradients_are_untouched,  # editing them is what the map is for
        habits.added_groups_are_alone,  # the map keeps to its own factors
    }
    laws = [law for law in OPTIMIZER_LAWS if law not in left_out and law.__name__ not in COUPLED]
    check_optimizer(make, model, laws=laws)


COUPLED = {
    "rate_zero_moves_nothing",  # the first retraction moves a core into its bounds
    "without_gradient_no_influence",  # a core that moves scales the gradients of its bases
}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRITa(1), "at least 2"),
        (lambda: LoRITa(2, ignore="conv"), "tuple of name patterns"),
        (lambda: LowRankCores(1.0), "0 <= fraction < 1"),
        (lambda: Conditioned((), 0.5), "at least 1"),
        (lambda: cores(nn.Linear(2, 2)), "no layer of three factors"),
    ],
)
def test_what_cannot_be_done_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
