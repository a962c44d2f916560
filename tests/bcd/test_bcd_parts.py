"""Activations, losses, operators and moments, each against a slow or a written-out twin."""

import math

import pytest
import torch
from chains import NETS
from hypothesis import given
from hypothesis import strategies as st

from pliant.bcd import BCDError, CrossEntropy, Hinge, SingularSystemError, Squared
from pliant.bcd.activations import Identity, Rectifier
from pliant.bcd.extract import chain_of
from pliant.bcd.moments import Moments, gram, solve
from pliant.conjugate import conjugate_gradients

ACTIVATIONS = [Identity(), Rectifier(), Rectifier(0.01), Rectifier(0.5)]
number = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@given(a=number, b=number, g=st.sampled_from([0.01, 0.3, 1.0, 7.0, 101.0]))
def test_no_value_beats_the_prox_of_an_activation(activation, a, b, g):
    a, b = tensor(a), tensor(b)
    cost = lambda u: (activation.apply(u) - a) ** 2 + g * (u - b) ** 2  # noqa: E731
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    assert float(cost(activation.prox(a, b, g))) <= float(cost(grid).min()) + 1e-12


@given(a=number, b=number, g=st.sampled_from([0.01, 0.3, 1.0, 7.0, 101.0]))
def test_the_prox_of_relu_is_its_closed_form(a, b, g):
    bound = -a * (math.sqrt(g * (g + 1)) - g)
    if a + g * b < 0:
        expected = min(b, 0.0)
    elif b >= 0 or g * b > bound:
        expected = (a + g * b) / (1 + g)
    else:
        expected = b
    found = float(Rectifier().prox(tensor(a), tensor(b), g))
    tie = b < 0 and g * b == pytest.approx(bound)
    assert found == pytest.approx(expected, abs=1e-9) or tie


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_the_prox_of_an_activation_is_stationary(activation):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    a[:100], b[100:200] = 0.0, 0.0
    for g in (0.1, 1.0, 10.0):
        u = activation.prox(a, b, g)
        torch.testing.assert_close(
            activation.stationarity(u, a, g * (u - b), 1.0), torch.zeros_like(u), atol=1e-12, rtol=0
        )


def test_the_least_subgradient_at_the_kink_of_relu():
    zero = torch.zeros(4, dtype=torch.float64)
    found = Rectifier().stationarity(zero, tensor(2.0, 2.0, -1.0, -1.0), tensor(3.0, 0.5, -0.4, 0.3), 1.0)
    # v > 0: {s, s - v}, the nearer to zero; v < 0: the interval from s to s - v
    torch.testing.assert_close(found, tensor(1.0, 0.5, 0.0, 0.3))


@pytest.mark.parametrize("c", [1e-3, 0.05, 0.5, 3.0, 200.0])
@pytest.mark.parametrize("loss", [Squared(), Hinge(), CrossEntropy()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_prox_of_a_loss_is_stationary(loss, c, dtype):
    generator = torch.Generator().manual_seed(0)
    m = (5 * torch.randn(300, 7, generator=generator, dtype=torch.float64)).to(dtype)
    target = loss.encode(torch.randint(7, (300,), generator=generator), 7, dtype)
    v = loss.prox(m, target, c)
    slack = 200 * torch.finfo(dtype).eps * (1 + c) * 20
    assert float(loss.stationarity(v, target, c * (v - m)).abs().max()) < slack


def test_the_prox_of_hinge_at_its_three_pieces():
    target = tensor(1.0, 1.0, 1.0, -1.0)
    found = Hinge().prox(tensor(2.0, -3.0, 0.9, 0.0), target, 2.0)
    torch.testing.assert_close(found, tensor(2.0, -2.5, 1.0, -0.5))


def test_labels_become_targets():
    y = torch.tensor([1, 0])
    torch.testing.assert_close(Squared().encode(y, 2, torch.float64), tensor(0, 1, 1, 0).view(2, 2))
    torch.testing.assert_close(Hinge().encode(y, 2, torch.float64), tensor(-1, 1, 1, -1).view(2, 2))
    given_targets = torch.tensor([[0.5, 2.0]])
    assert torch.equal(Squared().encode(given_targets, 2, torch.float32), given_targets)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (Squared(), torch.tensor([2])),
        (Squared(), torch.zeros(3, 3)),
        (Hinge(), torch.zeros(3)),
        (CrossEntropy(), torch.tensor([-1])),
        (CrossEntropy(), torch.tensor([[1]])),
    ],
)
def test_labels_that_make_no_sense_are_refused(loss, y):
    with pytest.raises(BCDError, match="must"):
        loss.encode(y, 2, torch.float32)


@pytest.mark.parametrize("name", NETS)
def test_operators_have_adjoints_and_features(name):
    net = NETS[name]
    chain = chain_of(net.model(), conjugate_steps=1)
    x, _ = net.data(5)
    activations = [x]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for index, block in enumerate(chain.blocks):
            v, operator = activations[index], block.operator
            reached = operator.apply(v, block.weight, None)
            r = torch.randn(reached.shape, generator=generator, dtype=torch.float64)
            pulled = operator.adjoint(r, block.weight, v.shape[1:])
            assert float((reached * r).sum()) == pytest.approx(float((v * pulled).sum()), rel=1e-10)
            by_features = operator.features(v) @ block.weight.flatten(1).mT
            torch.testing.assert_close(operator.rows(reached), by_features)
            activations.append(block.activation.apply(chain.linear(index, activations)))
        torch.testing.assert_close(activations[-1], net.model()(x))


@pytest.mark.parametrize("p", [3, 256, 300])
def test_moments_are_sums_over_rows(p):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, p, generator=generator, dtype=torch.float64)
    residual = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    moments = Moments.empty(features.new_zeros(2, p), features.new_zeros(2), None)
    for f, r in zip(features.split(7), residual.split(7), strict=True):
        moments.add(f, r)
    with_ones = torch.cat((features, torch.ones(40, 1)), 1)
    finished = moments.finish()
    torch.testing.assert_close(finished.gram, with_ones.mT @ with_ones)
    torch.testing.assert_close(finished.cross, residual.mT @ with_ones)
    torch.testing.assert_close(gram(features), features.mT @ features)


def test_a_system_beyond_its_own_precision_is_solved_in_the_next():
    values = torch.logspace(0, -9, 20, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    matrix = ((basis * values) @ basis.mT).float()
    matrix = 0.5 * (matrix + matrix.mT) + 3e-8 * torch.eye(20)
    right = matrix @ torch.ones(20, 1)
    found = solve(matrix, right, "test")
    assert float((matrix.double() @ found.double() - right.double()).abs().max()) < 1e-4


def test_a_system_without_a_factor_is_named():
    with pytest.raises(SingularSystemError, match="layer seven"):
        solve(-torch.eye(3), torch.ones(3, 1), "layer seven")


def test_conjugate_gradients_end_at_the_solution_and_never_mix_samples():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)
    matrices = root @ root.mT + torch.eye(6, dtype=torch.float64)
    right = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    right[2] = 0.0
    system = lambda v: (matrices @ v[..., None])[..., 0]  # noqa: E731
    found = conjugate_gradients(system, right, 30)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, right), rtol=1e-8, atol=1e-10)
    alone = conjugate_gradients(lambda v: v @ matrices[1], right[1:2], 3)
    torch.testing.assert_close(conjugate_gradients(system, right, 3)[1:2], alone)
