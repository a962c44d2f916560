"""SparseGroupLasso against its definition, an independent solver, and the identities of proximal maps."""

import math
from dataclasses import dataclass, field

import cvxpy
import numpy as np
import pytest
import torch

from pliant.regions import Axes, Filters, SparseGroupLasso
from pliant.spec import from_spec, to_spec
from pliant.testing import LawViolation, check_penalty

CASES = [(0.0, (4, 6)), (0.3, (4, 6)), (1.0, (4, 6)), (0.3, (4, 2, 3, 3)), (0.6, (5,))]


def point(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(x, weight, alpha):
    """The definition, filter by filter."""
    filters = x.reshape(len(x), -1)
    groups = sum(math.sqrt(len(w)) * math.sqrt(sum(float(v) ** 2 for v in w)) for w in filters)
    return weight * ((1 - alpha) * groups + alpha * sum(abs(float(v)) for v in filters.flatten()))


@pytest.mark.parametrize(("alpha", "shape"), CASES)
def test_the_value_is_the_definition(alpha, shape):
    x = point(shape)
    assert float(SparseGroupLasso(0.7, alpha).value(x)) == pytest.approx(twin(x, 0.7, alpha))


@pytest.mark.parametrize(("alpha", "shape"), CASES)
@pytest.mark.parametrize("step", [0.05, 0.4])
def test_no_independent_solver_finds_a_better_point_than_the_proximal_map(alpha, shape, step):
    x = point(shape).reshape(shape[0], -1)
    z = cvxpy.Variable(tuple(x.shape))
    groups = math.sqrt(x.shape[1]) * cvxpy.sum(cvxpy.norm(z, 2, axis=1))
    penalty = 0.7 * ((1 - alpha) * groups + alpha * cvxpy.sum(cvxpy.abs(z)))
    objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(z - x.numpy()) + step * penalty)
    best = cvxpy.Problem(objective).solve(solver=cvxpy.CLARABEL)
    solved = z.value
    z.value = SparseGroupLasso(0.7, alpha).prox(point(shape), step).reshape(shape[0], -1).numpy()
    gap = 1e-8 * (1 + best)  # the solver's own
    assert objective.value <= best + gap
    np.testing.assert_allclose(z.value, solved, atol=math.sqrt(2 * gap))  # the objective is 1-strongly convex


@pytest.mark.parametrize(("alpha", "shape"), CASES)
def test_moreau_the_rest_is_the_projection_onto_the_dual_ball(alpha, shape):
    """x - prox(x) = p is in the subdifferential: <p, y> <= value(y) for all y, and <p, z> = value(z)."""
    penalty = SparseGroupLasso(0.7, alpha)
    x = point(shape)
    z = penalty.prox(x, 1.0)
    p = x - z
    assert float((p * z).sum()) == pytest.approx(float(penalty.value(z)), abs=1e-9)
    for seed in range(1, 20):
        y = point(shape, seed)
        assert float((p * y).sum()) <= float(penalty.value(y)) + 1e-9


def test_filters_become_exactly_zero_and_so_do_weights_inside_the_others():
    x = torch.cat([0.05 * point((2, 9)), point((2, 9), 1)]).float()
    z = SparseGroupLasso(0.2, 0.5).prox(x, 2.0)
    assert torch.equal(z[:2], torch.zeros(2, 9))
    assert 0 < int((z[2:] == 0).sum()) < 18
    assert z.dtype == torch.float32


def test_axes_say_what_a_filter_is():
    x = point((3, 4, 2, 2))
    turned = SparseGroupLasso(0.5, 0.2, Filters(Axes(out=1)))
    expected = SparseGroupLasso(0.5, 0.2).prox(x.transpose(0, 1).contiguous(), 0.3).transpose(0, 1)
    torch.testing.assert_close(turned.prox(x, 0.3), expected)


def test_numbers_out_of_range_are_refused_and_the_object_travels():
    with pytest.raises(ValueError, match="weight must be at least 0 and finite, found -1"):
        SparseGroupLasso(-1.0)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], found 2.0"):
        SparseGroupLasso(1.0, 2.0)
    penalty = SparseGroupLasso(0.5, 0.2, Filters(Axes(out=1)))
    assert from_spec(to_spec(penalty)) == penalty


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_obeys_the_laws_of_regularisers(alpha, dtype):
    check_penalty(SparseGroupLasso(0.1, alpha), (4, 5), dtype=dtype)
    check_penalty(SparseGroupLasso(0.7, alpha, Filters(Axes(out=1))), (4, 3, 2, 2), dtype=dtype)


@dataclass(frozen=True)
class Broken:
    """A sparse group lasso whose map or value is another one's."""

    fault: str
    view: Filters = field(default_factory=Filters)

    def value(self, x):
        return SparseGroupLasso(0.1, 0.5).value(x) / (x.sum() * 0.0 if self.fault == "nan" else 1.0)

    def prox(self, x, step):
        if self.fault == "swapped":  # filters first, then single weights
            return SparseGroupLasso(0.05, 1.0).prox(SparseGroupLasso(0.05, 0.0).prox(x, step), step)
        if self.fault == "in place":
            return x.copy_(SparseGroupLasso(0.1, 0.5).prox(x, step))
        if self.fault == "hard":
            return torch.where(x.abs() > step, x, 0.0)
        if self.fault == "floor":
            return SparseGroupLasso(0.1, 0.5).prox(x, step + 0.01)
        factor = {"weak": 0.98, "strong": 1.02}.get(self.fault, 1.0)
        return SparseGroupLasso(0.1, 0.5).prox(x, step * factor)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("weak", r"prox\(x, step\) minimises"),
        ("strong", r"prox\(x, step\) minimises"),
        ("swapped", r"prox\(x, step\) minimises"),
        ("hard", "minimises|nonexpansive"),
        ("floor", r"minimises|prox\(x, 0\) = x"),
        ("nan", "is finite"),
        ("in place", "minimises|untouched"),
    ],
)
def test_a_regulariser_with_a_fault_breaks_a_law_and_is_named(fault, message):
    check_penalty(Broken("none"), (4, 5), dtype=torch.float64)
    with pytest.raises(LawViolation, match=message) as found:
        check_penalty(Broken(fault), (4, 5), dtype=torch.float64)
    assert f"Broken(fault='{fault}'" in str(found.value)


def test_what_has_no_proximal_map_is_no_regulariser():
    with pytest.raises(TypeError, match="with view, value and prox, found Filters"):
        check_penalty(Filters(), (4, 5))
