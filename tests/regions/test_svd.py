"""Exact decompositions: what happens when they do not converge."""

import math

import pytest
import torch

from pliant.regions import nuclear_ball, svd


class Stubborn:
    """A factorisation that fails a few times before it works."""

    def __init__(self, works, failures):
        self.works, self.failures = works, failures

    def __call__(self, matrix):
        self.failures -= 1
        if self.failures >= 0:
            raise svd.LinAlgError("did not converge")
        return self.works(matrix)


@pytest.mark.parametrize("failures", [0, 1])
def test_what_does_not_converge_is_tried_again_in_float64(failures):
    m = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    factorise = Stubborn(lambda x: torch.linalg.svd(x, full_matrices=False), failures)
    left, values, right = svd._again(factorise, m, svd.LinAlgError("once"))
    assert left.dtype == torch.float32
    torch.testing.assert_close((left * values) @ right, m)


def test_what_never_converges_is_named():
    m = torch.randn(5, 7)
    with pytest.raises(svd.DecompositionError, match=r"matrices of shape \(5, 7\) have no singular value decomp"):
        svd._again(Stubborn(torch.linalg.svd, 9), m, svd.LinAlgError("once"))


def test_gradients_that_are_not_finite_have_no_exact_vertex():
    g = torch.full((4, 6), math.nan)
    with pytest.raises(
        svd.DecompositionError, match=r"no singular value decomposition; \d+ of their entries are not finite"
    ):
        nuclear_ball(1.0).lmo(g)
