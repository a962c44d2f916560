"""The budget solver, against enumeration of every choice."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pliant.compress.budgets import BudgetError, ByFraction, Greedy
from pliant.compress.budgets.problem import Knob, Problem
from pliant.compress.budgets.terms import Extent, LinearTerm, Split, Weight, WeightTerm
from pliant.compress.factor import first_uses, split, split_cost
from pliant.compress.probe import Use
from pliant.regions import Axes
from pliant.structure.matricise import Scheme, axes_in

ALLOCATIONS = (Greedy(), ByFraction())


def knob(name, values, *, minimum=1, step=1):
    """Atoms of given values, of which the least leave first."""
    atoms = len(values)
    levels = [n for n in range(minimum, atoms) if n % step == 0] + [atoms]
    gone = np.concatenate([[0.0], np.cumsum(sorted(values))])
    return Knob(name, np.array(levels), np.array([gone[atoms - n] for n in levels]))


def one_each(atoms):
    """The table of a dimension in which every atom has one position."""
    return np.arange(atoms, -1, -1)


def chain(values, uses, *, step=1):
    """Convolutions in a row: the cost of each is its inputs times its outputs."""
    knobs = [knob(f"conv{i}", row, step=step) for i, row in enumerate(values)]
    sizes = [Extent(3), *(Extent(len(row), ((i, one_each(len(row))),)) for i, row in enumerate(values)), Extent(2)]
    weights = [Weight(f"conv{i}", (sizes[i + 1], sizes[i]), used) for i, used in enumerate(uses)]
    return Problem(knobs, [WeightTerm(w, 0, 1) for w in weights], 7, shares=shares_of(knobs))


def layers_with_rank(values, shapes):
    """Unconnected linear layers whose rank is chosen."""
    knobs = [knob(f"fc{i}", row) for i, row in enumerate(values)]
    weights = [
        Weight(f"fc{i}", (Extent(rows), Extent(cols)), 1, Split(i, Axes(), 1, 1))
        for i, (rows, cols) in enumerate(shapes)
    ]
    return Problem(knobs, [WeightTerm(w, 1, 0) for w in weights], shares=shares_of(knobs))


def shares_of(knobs):
    return lambda fraction: [max(1, round(int(k.levels[-1]) * (1 - fraction))) for k in knobs]


def separable(values, prices):
    knobs = [knob(f"k{i}", row) for i, row in enumerate(values)]
    return Problem(knobs, [LinearTerm(i, price) for i, price in enumerate(prices)], shares=shares_of(knobs))


def every_choice(problem):
    return [list(counts) for counts in product(*([int(n) for n in k.levels] for k in problem.knobs))]


def best_loss(problem, limit):
    return min(problem.loss(counts) for counts in every_choice(problem) if problem.cost(counts) <= limit)


def check(problem, counts, limit):
    assert problem.cost(counts) <= limit
    for index, k in enumerate(problem.knobs):
        assert counts[index] in k.levels
        above = [int(n) for n in k.levels if n > counts[index]]
        if above:
            more = [*counts[:index], above[0], *counts[index + 1 :]]
            assert problem.cost(more) > limit, (counts, more, limit)


VALUES = st.lists(st.integers(0, 50).map(float), min_size=2, max_size=5)


@st.composite
def chains(draw):
    values = draw(st.lists(VALUES, min_size=1, max_size=3))
    uses = draw(st.lists(st.integers(1, 9), min_size=len(values) + 1, max_size=len(values) + 1))
    return chain(values, uses, step=draw(st.sampled_from([1, 2])))


@st.composite
def ranked(draw):
    shapes = draw(st.lists(st.tuples(st.integers(2, 7), st.integers(2, 7)), min_size=1, max_size=3))
    values = [draw(st.lists(st.integers(0, 50).map(float), min_size=min(s), max_size=min(s))) for s in shapes]
    return layers_with_rank(values, shapes)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=60, deadline=None)
@given(problem=chains() | ranked(), share=st.floats(0.05, 1.0))
def test_the_budget_is_met_whenever_some_choice_meets_it_and_no_atom_more_would_fit(allocation, problem, share):
    limit = share * problem.cost(problem.largest)
    if any(problem.cost(counts) <= limit for counts in every_choice(problem)):
        check(problem, allocation.counts(problem, limit), limit)
    else:
        with pytest.raises(BudgetError, match="at least"):
            allocation.counts(problem, limit)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=3), share=st.floats(0.3, 1.0), data=st.data())
def test_where_costs_do_not_interact_greedy_loses_at_most_one_atom_more_than_the_best_choice(values, share, data):
    prices = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    problem = separable(values, prices)
    limit = max(share * problem.cost(problem.largest), problem.cost(problem.smallest))
    loss = problem.loss(Greedy().counts(problem, limit))
    assert loss <= best_loss(problem, limit) + max(map(max, values)) + 1e-9


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=3), share=st.floats(0.3, 1.0))
def test_where_all_atoms_cost_the_same_greedy_is_the_best_choice(values, share):
    problem = separable(values, [1] * len(values))
    limit = max(share * problem.cost(problem.largest), problem.cost(problem.smallest))
    assert problem.loss(Greedy().counts(problem, limit)) == pytest.approx(best_loss(problem, limit), abs=1e-9)


def test_on_chains_greedy_is_close_to_the_best_choice_and_beats_the_same_share_everywhere():
    generator = np.random.default_rng(0)
    ratios, uniform = [], []
    for _ in range(40):
        values = [list(generator.exponential(size=6) ** 2) for _ in range(3)]
        problem = chain([[v / sum(row) for v in row] for row in values], [16, 4, 4, 1])
        limit = 0.5 * problem.cost(problem.largest)
        best = best_loss(problem, limit)
        ratios.append(problem.loss(Greedy().counts(problem, limit)) / best)
        uniform.append(problem.loss(ByFraction().counts(problem, limit)) / best)
    assert np.median(ratios) < 1.1
    assert np.mean(ratios) < np.mean(uniform)


def test_a_rank_jumps_to_where_two_layers_pay():
    problem = layers_with_rank([[9.0, 5.0, 4.0, 3.0, 2.0, 1.0]], [(6, 6)])
    assert Greedy().counts(problem, problem.cost([6])) == [6]
    assert Greedy().counts(problem, 35) == [2]  # 3 (6 + 6) is not less than 36
    assert problem.cost([3]) == problem.cost([6]) == 36


def test_a_layer_may_lose_filters_and_rank():
    filters, rank = knob("conv", [4.0, 1.0, 0.5, 0.5]), knob("conv", [5.0, 0.2, 0.1, 0.1])
    weight = Weight("conv", (Extent(4, ((0, one_each(4)),)), Extent(20)), 10, Split(1, Axes(), 10, 10))
    problem = Problem([filters, rank], [WeightTerm(weight, 0, 1)])
    for limit in range(problem_low := int(problem.cost(problem.smallest)), int(problem.cost(problem.largest)) + 1, 7):
        assert problem_low <= limit
        check(problem, Greedy().counts(problem, limit), limit)
    few = Greedy().counts(problem, 230)
    assert few[0] < 4 or few[1] < 4


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [(nn.Conv2d, Scheme.CHANNEL), (nn.Conv2d, Scheme.SPATIAL), (nn.ConvTranspose2d, Scheme.SPATIAL)],
)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_cost_of_two_layers_is_that_of_the_decomposition(kind, scheme, groups, rank):
    layer = kind(8, 12, 3, groups=groups)
    use = Use(calls=1, inputs=50, outputs=70, between=60, ndim=4, plain=True)
    uses = use.entry_uses(layer)
    weight = Weight(
        "conv",
        tuple(map(Extent, layer.weight.shape)),
        uses,
        Split(0, axes_in(scheme, layer), first_uses(layer, use, scheme), use.outputs),
    )
    parameters, macs = split_cost(layer, rank, use, scheme)
    factors = split(layer, rank, scheme)
    reads = 60 if scheme is Scheme.SPATIAL and kind is nn.Conv2d else uses
    assert parameters == factors[0].weight.numel() + factors[1].weight.numel()
    assert macs == factors[0].weight.numel() * reads + factors[1].weight.numel() * 70
    entries = layer.weight.numel()
    pays = parameters < entries and macs < uses * entries
    assert WeightTerm(weight, 1, 0).cost([rank]) == (parameters if pays else entries)
    assert WeightTerm(weight, 0, 1).cost([rank]) == (macs if pays else uses * entries)


def test_counts_are_multiples_where_asked():
    problem = chain([[1.0] * 10, [1.0] * 12], [4, 4, 4], step=4)
    counts = Greedy().counts(problem, 0.6 * problem.cost(problem.largest))
    assert all(n % 4 == 0 or n == problem.largest[i] for i, n in enumerate(counts))


def test_large_problems_take_less_than_seconds():
    generator = np.random.default_rng(1)
    widths = [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5
    problem = chain([list(generator.exponential(size=w) / w) for w in widths], [1024] * 21)
    counts = Greedy().counts(problem, 0.5 * problem.cost(problem.largest))
    check(problem, counts, 0.5 * problem.cost(problem.largest))


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
def test_a_limit_that_the_whole_meets_leaves_it_whole_though_less_would_cost_more(allocation):
    knobs = [knob("thin layers take longer", [1.0, 2.0, 3.0])]
    problem = Problem(knobs, [LinearTerm(0, -1.0)], 10.0, shares=shares_of(knobs))
    assert problem.cost(problem.smallest) > problem.cost(problem.largest)
    assert allocation.counts(problem, problem.cost(problem.largest)) == problem.largest
