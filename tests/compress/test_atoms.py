from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pliant.compress import Global, PerLayer, removed_count
from pliant.compress.atoms import lowest

SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("fraction", "total", "kept"),
    [(0.8, 160, 32), (0.8, 320, 64), (0.8, 640, 128), (0.8, 10, 2), (0.9, 10, 1), (0.7, 10, 3), (0.1, 10, 9)],
)
def test_counts_round_tolerantly(fraction, total, kept):
    assert total - removed_count(fraction, total) == kept


def test_every_tenth_of_every_size_is_the_exact_count():
    for total in range(10, 2000, 10):
        for tenth in range(10):
            assert removed_count(tenth / 10, total) == tenth * total // 10


@given(SCORES, st.integers(0, 12))
def test_lowest_agrees_with_sorting(scores, count):
    count = min(count, len(scores))
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    expected = [i in order[:count] for i in range(len(scores))]
    assert lowest(torch.tensor(scores), count).tolist() == expected


def _slow_global(layers, fraction, minimum):
    """Take the smallest score of all again and again, from layers that may still lose one."""
    goal = removed_count(fraction, sum(map(len, layers)))
    gone = [set() for _ in layers]
    for _ in range(goal):
        options = [
            (score, number, i)
            for number, scores in enumerate(layers)
            for i, score in enumerate(scores)
            if i not in gone[number] and len(scores) - len(gone[number]) > minimum
        ]
        if options:
            _, number, i = min(options)
            gone[number].add(i)
    return [len(g) for g in gone]


@given(st.lists(SCORES, min_size=1, max_size=4), st.floats(0.0, 0.99), st.integers(1, 3))
def test_global_agrees_with_its_slow_twin(layers, fraction, minimum):
    masks = Global(minimum).removed([torch.tensor(scores) for scores in layers], fraction)
    assert [int(mask.sum()) for mask in masks] == _slow_global(layers, fraction, minimum)


def test_ties_never_remove_more_than_the_count():
    for scope in (PerLayer(), Global()):
        (mask,) = scope.removed([torch.ones(8)], 0.75)
        assert int(mask.sum()) == 6


@pytest.mark.parametrize("minimum", [0, -1, 1.5, True])
def test_the_minimum_is_a_positive_count(minimum):
    for scope in (PerLayer, Global):
        with pytest.raises(ValueError, match="minimum"):
            scope(minimum)
