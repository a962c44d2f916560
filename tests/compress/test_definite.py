"""Systems that are positive but for rounding, against those without rounding."""

from __future__ import annotations

import pytest
import torch

from pliant.compress.definite import root, solved

LEAST = torch.full((2,), 1e-6, dtype=torch.float64)


def _systems(*, lowest):
    """Two symmetric matrices whose smallest eigenvalue is given."""
    basis = torch.linalg.qr(torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    values = torch.tensor([lowest, 0.5, 1.0, 2.0, 30.0], dtype=torch.float64)
    return (basis * values) @ basis.mT


@pytest.mark.parametrize("lowest", [0.1, 0.0, -1e-9])
def test_solutions_are_those_of_the_matrix_with_rounding_replaced(lowest):
    system, exact = _systems(lowest=lowest), _systems(lowest=lowest if lowest > 0.0 else 1e-6)
    right = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if lowest == 0.0:  # whichever way rounding goes
        system = system - 1e-12 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(solved(right, system, LEAST) @ exact, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lowest", [0.1, -1e-9])
def test_roots_come_with_their_inverses(lowest):
    exact = _systems(lowest=lowest if lowest > 0.0 else 1e-6)
    factor, inverse = root(_systems(lowest=lowest), LEAST)
    torch.testing.assert_close(factor @ factor.mT, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse @ factor, torch.eye(5, dtype=torch.float64).expand(2, 5, 5), rtol=0.0, atol=1e-8)
