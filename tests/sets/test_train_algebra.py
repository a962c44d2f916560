"""Tensor trains against tensorly, against the theorem, and against trying everything."""

from __future__ import annotations

import itertools
import math

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train

from pliant.tensor_train import (
    MatrixModes,
    Paired,
    Reshaped,
    Separate,
    TrainError,
    admissible,
    contract,
    decompose,
    entries,
    full_ranks,
    spectra,
)
from pliant.tensor_train.alternate import left_bases, onto_tangent, right_bases, sweep
from pliant.tensor_train.factorise import nearly_equal

CASES = [
    ((4, 6, 5), (3, 4)),
    ((3, 4, 2, 5), (3, 6, 4)),
    ((12, 7), (3,)),
    ((2, 2, 2, 2, 2), (2, 3, 3, 2)),
    ((9, 1, 4), (3, 3)),
]
each_case = pytest.mark.parametrize(("sizes", "ranks"), CASES, ids=str)


def _tensor(sizes, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_case
def test_the_decomposition_is_that_of_tensorly(sizes, ranks):
    tensor = _tensor(sizes)
    theirs = tensorly.tt_to_tensor(tensor_train(tensor.numpy(), rank=[1, *ranks, 1]))
    torch.testing.assert_close(contract(decompose(tensor, ranks)), torch.from_numpy(theirs), rtol=0, atol=1e-10)


@each_case
def test_contracting_is_a_product_of_matrices_for_every_entry(sizes, ranks):
    cores = decompose(_tensor(sizes), ranks)
    found = contract(cores)
    for index in itertools.product(*map(range, sizes)):
        entry = torch.eye(1, dtype=torch.float64)
        for core, i in zip(cores, index, strict=True):
            entry = entry @ core[:, i]
        assert abs(float(entry) - float(found[index])) < 1e-12


@each_case
def test_full_ranks_lose_nothing_and_one_less_may(sizes, ranks):  # noqa: ARG001  (the sizes matter)
    tensor, full = _tensor(sizes), full_ranks(sizes)
    torch.testing.assert_close(contract(decompose(tensor, full)), tensor, rtol=0, atol=1e-12)
    for bond, rank in enumerate(full):
        if rank > 1:
            less = admissible(sizes, [r - (place == bond) for place, r in enumerate(full)])
            assert (contract(decompose(tensor, less)) - tensor).norm() > 1e-6


@each_case
def test_the_error_keeps_the_bounds_of_the_theorem(sizes, ranks):
    tensor = _tensor(sizes)
    error = float((contract(decompose(tensor, ranks)) - tensor).norm())
    lost = [float(values[rank:].norm()) for values, rank in zip(spectra(tensor), ranks, strict=True)]
    assert error <= math.hypot(*lost) + 1e-12
    assert error >= max(lost) - 1e-12
    best = min(_best(tensor, ranks, seed) for seed in range(4))
    assert error <= math.sqrt(len(sizes) - 1) * best + 1e-12


def _best(tensor, ranks, seed):
    """Alternate for long from a start of its own: a train at least as good as any that is known."""
    cores = decompose(tensor if seed == 0 else _tensor(tensor.shape, seed), ranks)
    for _ in range(100):
        cores = sweep(tensor, cores)
    return float((contract(cores) - tensor).norm())


@each_case
def test_cores_are_orthonormal_but_for_the_last(sizes, ranks):
    for cores in (decompose(_tensor(sizes), ranks), sweep(_tensor(sizes, 1), decompose(_tensor(sizes), ranks))):
        for core in cores[:-1]:
            matrix = core.flatten(0, 1)
            torch.testing.assert_close(matrix.mT @ matrix, torch.eye(core.shape[2], dtype=torch.float64))


@each_case
def test_a_pass_never_goes_away_and_ends_where_no_core_can_be_better(sizes, ranks):
    tensor = _tensor(sizes)
    cores = decompose(_tensor(sizes, 7), ranks)
    distance = float((contract(cores) - tensor).norm())
    for _ in range(300):
        cores = sweep(tensor, cores)
        after = float((contract(cores) - tensor).norm())
        assert after <= distance + 1e-12
        distance = after
    assert onto_tangent(cores, tensor - contract(cores)).norm() < 1e-3 * tensor.norm()


@each_case
def test_a_pass_sets_each_core_by_least_squares(sizes, ranks):
    """The last core of a pass solves the normal equations of its own linear problem."""
    tensor = _tensor(sizes)
    cores = sweep(tensor, decompose(_tensor(sizes, 3), ranks))
    basis = contract((*cores[:-1], torch.eye(ranks[-1], dtype=torch.float64)[..., None])).reshape(-1, ranks[-1])
    solved = torch.linalg.lstsq(basis, tensor.reshape(-1, sizes[-1])).solution
    torch.testing.assert_close(cores[-1][..., 0], solved, rtol=0, atol=1e-10)


@each_case
def test_the_tangent_space_is_spanned_by_varied_cores(sizes, ranks):
    cores = decompose(_tensor(sizes), ranks)
    columns = []
    for place, core in enumerate(cores):
        for entry in range(core.numel()):
            varied = torch.zeros(core.shape, dtype=core.dtype)
            varied.view(-1)[entry] = 1.0
            columns.append(contract((*cores[:place], varied, *cores[place + 1 :])).flatten())
    basis = torch.stack(columns, dim=1)
    target = _tensor(sizes, 4).flatten()
    expected = basis @ torch.linalg.lstsq(basis, target[:, None], driver="gelsd").solution
    found = onto_tangent(cores, target.reshape(sizes))
    torch.testing.assert_close(found.flatten(), expected[:, 0], rtol=0, atol=1e-9)


@each_case
def test_bases_are_orthonormal_and_span_the_unfoldings(sizes, ranks):
    cores = decompose(_tensor(sizes), ranks)
    tensor = contract(cores)
    for left, right in zip(left_bases(cores), right_bases(cores), strict=True):
        unfolding = tensor.reshape(left.shape[0], -1)
        torch.testing.assert_close(left @ (left.mT @ unfolding), unfolding, rtol=0, atol=1e-10)
        torch.testing.assert_close(unfolding @ right.mT @ right, unfolding, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 4), (2, 2, 3, 2)], ids=str)
def test_admissible_ranks_are_those_that_a_train_can_have(sizes):
    limits = [range(1, 9)] * (len(sizes) - 1)
    for ranks in itertools.product(*limits):
        found = admissible(sizes, ranks)
        core = [1, *found, 1]
        assert all(b <= a * n and a <= b * n for a, b, n in zip(core, core[1:], sizes, strict=False))
        assert admissible(sizes, found) == found
        assert all(a <= b for a, b in zip(found, ranks, strict=True))
        wider = [tuple(r + (p == place) for p, r in enumerate(found)) for place in range(len(found))]
        assert all(w[p] > ranks[p] or admissible(sizes, w) != w for p, w in enumerate(wider))


def test_entries_are_those_of_the_cores():
    for sizes, ranks in CASES:
        assert entries(sizes, ranks) == sum(core.numel() for core in decompose(_tensor(sizes), ranks))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_factors_are_the_flattest_and_padding_is_rare_and_small(count):
    for n in range(1, 200):
        factors = nearly_equal(n, count)
        padded = math.prod(factors)
        assert len(factors) == count
        assert list(factors) == sorted(factors)
        assert n <= padded <= max(n + 2, 1.2 * n)
        assert (
            sum(factors)
            == min(
                sum((*first, padded // math.prod(first)))
                for first in itertools.product(range(1, padded + 1), repeat=count - 1)
                if padded % math.prod(first) == 0
            )
            if count < 3 or n < 40
            else True
        )
    assert nearly_equal(1024, 5) == (4, 4, 4, 4, 4)
    assert math.prod(nearly_equal(59, 2)) == 60
    assert math.prod(nearly_equal(58, 1)) == 58


READINGS = [Paired(), Paired(3), Separate(), Separate(2, 2), Separate(1, 2)]


@pytest.mark.parametrize("shape", [(8, 6), (59, 41), (12, 10, 3, 3), (6, 4, 1, 1), (5, 3, 2, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_folding_loses_nothing_and_adds_zeros(reading, shape):
    weight, modes = _tensor(shape), reading.modes(shape)
    tensor = modes.fold(weight)
    assert tuple(tensor.shape) == modes.sizes
    assert torch.equal(modes.unfold(tensor, shape), weight)
    assert tensor.square().sum() == pytest.approx(float(weight.square().sum()))
    assert all(size > 1 for size in modes.sizes) or shape == (1, 1)


def test_two_paired_cores_are_a_sum_of_kronecker_products():
    weight = torch.kron(_tensor((3, 5)), _tensor((4, 2), 1)) + torch.kron(_tensor((3, 5), 2), _tensor((4, 2), 3))
    modes = MatrixModes(rows=(3, 4), columns=(5, 2))
    values = spectra(modes.fold(weight))[0]
    assert values[1] > 0.1
    assert values[2] < 1e-12 * values[0]


def test_separate_modes_bound_the_rank_of_the_matrix():
    weight = _tensor((24, 3)) @ _tensor((3, 36), 1)
    for reading in (Separate(), Separate(2, 2), Separate(2, 1)):
        modes = reading.modes((24, 36))
        middle = spectra(modes.fold(weight))[reading.rows - 1]
        assert values_above(middle) == 3


def values_above(values):
    return int((values > 1e-10 * values[0]).sum())


BAD = [
    (lambda: Paired(1), "cores"),
    (lambda: Separate(0), "rows"),
    (lambda: Separate(1, 0), "columns"),
    (lambda: Reshaped((4,)), "sizes"),
    (lambda: Reshaped((4, 0)), "sizes"),
    (lambda: MatrixModes((2, 3), (2,)), "rows and columns"),
    (lambda: MatrixModes((2, 3), (2, 2), (3, 3), 5), "place"),
    (lambda: admissible((2, 3), (0,)), "ranks"),
    (lambda: admissible((2, 3), (1, 1)), "ranks"),
    (lambda: Paired().modes((3,)), "weight"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_trains_that_make_no_sense_are_refused(make, message):
    with pytest.raises(TrainError, match=message):
        make()
