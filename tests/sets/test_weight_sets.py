"""Laws of all sets of weights: projection, size, tangent, descent."""

from __future__ import annotations

import itertools

import pytest
import torch

from pliant.sets import (
    BondRanks,
    EnergyShare,
    EntryBudget,
    EqualRanks,
    FilterSparseSet,
    NMSparseSet,
    Point,
    RankSet,
    SetError,
    SparseSet,
    TensorTrainSet,
)
from pliant.spec import from_spec, to_spec
from pliant.tensor_train import Paired, Reshaped, Separate, TrainError

SETS = {
    "rank": RankSet(3),
    "sparse": SparseSet(0.2),
    "sparse-count": SparseSet(7),
    "filters": FilterSparseSet(0.5),
    "2:4": NMSparseSet(2, 4),
    "1:3": NMSparseSet(1, 3),
    "train": TensorTrainSet(EqualRanks(2)),
    "train-3": TensorTrainSet(EqualRanks(3), Paired(3), sweeps=2),
    "train-separate": TensorTrainSet(EntryBudget(0.5), Separate(2, 2)),
    "train-energy": TensorTrainSet(EnergyShare(0.8), Separate(2, 1)),
    "train-warm": TensorTrainSet(EqualRanks(3), Paired(3), warm=True),
}
EXACT = ["rank", "sparse", "sparse-count", "filters", "2:4", "1:3", "train"]
SHAPES = [(8, 6), (12, 10, 3, 3), (11, 13), (5, 7, 1, 1)]


def _weight(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _padded(kind, shape):
    """Tell whether the modes are longer than the weight, so that zeros continue it."""
    return isinstance(kind, TensorTrainSet) and kind.reading.modes(shape).channels(shape) != shape[:2]


def _distance(point, weight):
    return float((point.dense - weight).norm())


each_set = pytest.mark.parametrize("kind", SETS.values(), ids=SETS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@each_set
@each_shape
def test_a_point_has_the_weights_shape_and_at_most_the_stored_size(kind, shape):
    weight = _weight(shape)
    point = kind.project(weight)
    assert point.dense.shape == weight.shape
    assert not torch.equal(point.dense, weight)
    stored = point.factors[:1] if isinstance(kind, SparseSet | FilterSparseSet | NMSparseSet) else point.factors
    assert sum(factor.numel() for factor in stored) <= kind.size(shape)


@each_set
@each_shape
def test_projecting_twice_changes_nothing(kind, shape):
    point = kind.project(_weight(shape))
    again = kind.project(point.dense, near=point)
    torch.testing.assert_close(again.dense, point.dense, rtol=0, atol=1e-10)


@each_set
@each_shape
def test_a_point_never_goes_farther_than_an_earlier_one(kind, shape):
    weight = _weight(shape)
    near = kind.project(weight)
    for step in range(1, 12):
        weight = weight + 0.1 * _weight(shape, step)
        new = kind.project(weight, near=near)
        assert _distance(new, weight) <= _distance(near, weight)
        near = new


@pytest.mark.parametrize("name", EXACT)
@each_shape
def test_no_nearby_point_of_an_exact_set_is_nearer(name, shape):
    weight = _weight(shape)
    point = SETS[name].project(weight)
    for seed in range(20):
        other = SETS[name].project(point.dense + 0.3 * _weight(shape, 100 + seed))
        if not _padded(SETS[name], shape):  # the zeros that continue a weight are part of what is approximated
            assert _distance(other, weight) >= _distance(point, weight) - 1e-12


@each_set
@each_shape
def test_the_tangent_contains_the_point_and_is_a_projection(kind, shape):
    point, residual = kind.project(_weight(shape)), _weight(shape, 5)
    inside = kind.tangent(point, residual)
    assert inside.shape == residual.shape
    assert inside.norm() <= residual.norm()
    if not _padded(kind, shape):
        torch.testing.assert_close(kind.tangent(point, point.dense), point.dense, rtol=0, atol=1e-10)
        torch.testing.assert_close(kind.tangent(point, inside), inside, rtol=0, atol=1e-10)
        assert abs(float(((residual - inside) * inside).sum())) < 1e-9


@pytest.mark.parametrize("name", ["rank", "sparse", "filters", "2:4", "train"])
def test_the_residual_of_an_exact_projection_has_no_tangent_part(name):
    weight = _weight((8, 6))
    point = SETS[name].project(weight)
    assert SETS[name].tangent(point, weight - point.dense).norm() < 1e-10


@pytest.mark.parametrize("name", ["rank", "train", "train-3"])
def test_the_tangent_is_the_derivative_of_a_curve_in_the_set(name):
    kind, shape = SETS[name], (12, 16)
    point = kind.project(_weight(shape))
    towards = kind.tangent(point, _weight(shape, 3))
    for step in (1e-3, 1e-4):
        moved = kind.project(point.dense + step * towards)
        assert _distance(moved, point.dense + step * towards) < 10 * step**2 * towards.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_set
def test_points_keep_the_type_of_the_weight(kind, dtype):
    weight = _weight((12, 10, 3, 3)).to(dtype)
    point = kind.project(weight, near=kind.project(weight))
    assert point.dense.dtype == dtype
    wide = weight.double()
    expected = kind.project(wide, near=kind.project(wide)).dense
    assert (point.dense.double() - expected).norm() < (1e-4 if dtype is torch.float32 else 0.02) * expected.norm()


@each_set
def test_sets_travel_as_plain_data(kind):
    assert from_spec(to_spec(kind)) == kind


@each_set
def test_a_weight_that_is_not_finite_is_refused(kind):
    weight = _weight((8, 6))
    weight[0, 0] = float("nan")
    with pytest.raises(SetError, match="finite"):
        kind.project(weight)
    with pytest.raises(SetError, match="matrix"):
        kind.project(torch.zeros(3))


@each_set
def test_a_zero_weight_is_projected_onto_zero(kind):
    zero = torch.zeros(8, 6, dtype=torch.float64)
    assert not kind.project(zero).dense.any()
    assert torch.isfinite(kind.tangent(kind.project(zero), _weight((8, 6)))).all()


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2, 1)])
@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_sparse_sets_find_what_trying_all_supports_finds(shape, k):
    weight = _weight(shape)
    n = weight.numel()
    flat = weight.flatten().square()
    best = max(float(flat[list(kept)].sum()) for kept in itertools.combinations(range(n), min(k, n)))
    assert float(SparseSet(k).project(weight).dense.square().sum()) == pytest.approx(best)


def test_ties_leave_exactly_k():
    weight = torch.ones(6, 4)
    assert int(SparseSet(7).project(weight).dense.count_nonzero()) == 7
    assert int(FilterSparseSet(2).project(weight).dense.count_nonzero()) == 8
    assert int(NMSparseSet(1, 4).project(weight).dense.count_nonzero()) == 6


def test_runs_go_along_the_inputs_and_the_last_may_be_short():
    weight = torch.arange(1.0, 7.0).repeat(2, 1)
    kept = NMSparseSet(1, 4).project(weight).dense != 0
    assert kept.tolist() == [[False, False, False, True, False, True]] * 2
    kernel = NMSparseSet(2, 4).project(_weight((4, 8, 3, 3))).dense != 0
    assert (kernel.unflatten(1, (2, 4)).sum(2) == 2).all()
    assert NMSparseSet(2, 4).size((4, 8, 3, 3)) == int(kernel.sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_rank_set_is_the_truncated_decomposition(shape):
    weight = _weight(shape)
    left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    expected = (left[:, :3] * values[:3]) @ right[:3]
    torch.testing.assert_close(RankSet(3).project(weight).dense.flatten(1), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999, 1.0])
def test_an_energy_share_bounds_the_error_and_an_earlier_point_keeps_its_ranks(share):
    weight = _weight((12, 16))
    kind = TensorTrainSet(EnergyShare(share), Separate(2, 2))
    point = kind.project(weight)
    assert _distance(point, weight) ** 2 <= (1 - share) * float(weight.square().sum()) + 1e-20
    later = kind.project(_weight((12, 16), 9), near=point)
    assert [core.shape for core in later.factors] == [core.shape for core in point.factors]


@pytest.mark.parametrize("reading", [Paired(), Paired(3), Separate(2, 2), Separate()])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_budget_of_entries_is_kept_and_used(reading, share):
    weight = _weight((24, 36, 3, 3))
    point = TensorTrainSet(EntryBudget(share), reading).project(weight)
    stored = sum(core.numel() for core in point.factors)
    assert stored <= share * weight.numel()
    wider = []
    for bond in range(len(point.factors) - 1):
        ranks = [core.shape[2] + (place == bond) for place, core in enumerate(point.factors[:-1])]
        wider.append(TensorTrainSet(BondRanks(tuple(ranks)), reading).project(weight))
    grown = [sum(core.numel() for core in other.factors) for other in wider]
    assert all(size > share * weight.numel() or size == stored for size in grown)


def test_more_sweeps_come_nearer():
    weight, reading = _weight((27, 64)), Paired(3)
    errors = [_distance(TensorTrainSet(EqualRanks(3), reading, n).project(weight), weight) for n in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] - 1e-6


def test_the_safeguard_is_needed():
    """Successive decompositions do go away from an earlier point; the projection does not."""
    kind, shape = TensorTrainSet(EqualRanks(2), Paired(4)), (16, 16)
    went = 0
    for seed in range(40):
        weight = _weight(shape, seed)
        near = TensorTrainSet(EqualRanks(2), Paired(4), sweeps=30).project(weight)
        went += _distance(kind.project(weight), weight) > _distance(near, weight)
        assert _distance(kind.project(weight, near), weight) <= _distance(near, weight)
    assert went > 20


@pytest.mark.parametrize("shape", [(11, 13), (59, 41)])
def test_passes_descend_although_modes_are_longer_than_the_weight(shape):
    kind, weight = TensorTrainSet(EqualRanks(3), Paired(3), warm=True), _weight(shape)
    point = kind.project(weight)
    distances = [_distance(point, weight)]
    for _ in range(20):
        point = kind.project(weight, near=point)
        distances.append(_distance(point, weight))
    assert all(after <= before for before, after in itertools.pairwise(distances))
    assert distances[-1] < distances[0] - 1e-3  # the zeros beyond the weight are not approximated any more


def test_published_shapes_have_the_published_sizes():
    """The sizes printed for the networks of the NN-BCD notebooks."""
    second = Reshaped((26, 26, 4, 4, 4, 4, 4, 2, 2, 2))
    third = Reshaped((4,) * 10)
    sizes = {40: (53_144, 31_264), 80: (142_904, 100_896), 220: (666_728, 508_576)}
    for rank, (first, other) in sizes.items():
        assert TensorTrainSet(EqualRanks(rank), second).size((1024, 5408)) == first
        assert TensorTrainSet(EqualRanks(rank), third).size((1024, 1024)) == other


BAD = [
    (lambda: RankSet(0), "rank"),
    (lambda: RankSet(True), "rank"),
    (lambda: SparseSet(0), "k must"),
    (lambda: SparseSet(1.5), "k must"),
    (lambda: FilterSparseSet(-1), "k must"),
    (lambda: NMSparseSet(5, 4), "n <= m"),
    (lambda: NMSparseSet(0, 4), "n <= m"),
    (lambda: EqualRanks(0), "rank"),
    (lambda: BondRanks((2, 0)), "ranks"),
    (lambda: EntryBudget(0.0), "entries"),
    (lambda: EnergyShare(0.0), "share"),
    (lambda: TensorTrainSet(3), "TrainRanks"),
    (lambda: TensorTrainSet(EqualRanks(3), sweeps=-1), "sweeps"),
    (lambda: TensorTrainSet(EntryBudget(2)).project(torch.ones(8, 8)), "entries must allow"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_sets_that_make_no_sense_are_refused(make, message):
    with pytest.raises(SetError, match=message):
        make()


def test_modes_and_ranks_that_do_not_fit_are_refused():
    with pytest.raises(TrainError, match="multiply"):
        TensorTrainSet(EqualRanks(2), Reshaped((4, 4))).project(torch.ones(3, 3))
    with pytest.raises(TrainError, match="ranks"):
        TensorTrainSet(BondRanks((2, 2)), Separate()).project(torch.ones(4, 4))


def test_one_atom_and_all_of_them_are_different_sets():
    assert SparseSet(1) != SparseSet(1.0)
    assert EntryBudget(1) != EntryBudget(1.0)
    weight = _weight((4, 3))
    assert torch.equal(SparseSet(1.0).project(weight).dense, weight)
    assert isinstance(SparseSet(1).project(weight), Point)


@pytest.mark.parametrize("ranks", [EqualRanks(2), BondRanks((2,)), EntryBudget(0.5)], ids=repr)
@pytest.mark.parametrize("warm", [True, False])
def test_a_point_beyond_the_bound_is_no_start(ranks, warm):
    weight = _weight((12, 10))
    bounded = TensorTrainSet(ranks, warm=warm)
    others = TensorTrainSet(EqualRanks(9)), TensorTrainSet(EqualRanks(1), Separate(2, 2)), SparseSet(0.9)
    for near in (other.project(weight) for other in others):
        point = bounded.project(weight, near=near)
        assert sum(factor.numel() for factor in point.factors) <= bounded.size(weight.shape)
        torch.testing.assert_close(point.dense, bounded.project(weight).dense)
