"""Patterns of names that leave layers alone mean the same to plans, methods and compressors, and a typo is told."""

import logging

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, LowRank, TensorTrain, UnstructuredPruning
from pliant.methods import filter_targets, matrix_targets
from pliant.structure import Plan

EXAMPLE = torch.zeros(2, 3, 6, 6)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def cut_names(compressor):
    cut = compressor.select(network(), 0.5, example=EXAMPLE)
    return {name.removesuffix(".weight") for name in cut.kept}


def plan_names(plan):
    return {name.removesuffix(".weight") for group in plan.groups for name in group.names}


USES = {
    "filters": lambda ignore: cut_names(FilterPruning(ignore=ignore)),
    "low rank": lambda ignore: cut_names(LowRank(ignore=ignore)),
    "tensor train": lambda ignore: cut_names(TensorTrain(ignore=ignore)),
    "unstructured": lambda ignore: cut_names(UnstructuredPruning(ignore=ignore)),
    "filter targets": lambda ignore: {t.name for t in filter_targets(network(), ignore=ignore)},
    "matrix targets": lambda ignore: {t.name for t in matrix_targets(network(), ignore=ignore)},
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("pattern", ["2", "2.weight", "2*"])
def test_a_layer_is_named_by_itself_or_by_its_weight(use, pattern):
    assert "2" in USES[use](())
    assert "2" not in USES[use]((pattern,))


@pytest.mark.parametrize("preset", [Plan.for_filters, Plan.for_low_rank, Plan.for_unstructured])
def test_plans_understand_both_too(preset):
    def free(pattern):
        plan = preset(network(), k=0.5, ignore=[pattern])
        return str(plan)

    assert free("2") == free("2.weight") != str(preset(network(), k=0.5))


@pytest.mark.parametrize("use", USES)
def test_a_pattern_that_matches_nothing_is_told(use, caplog):
    with caplog.at_level(logging.WARNING, "pliant"):
        USES[use](("2", "clasifier"))
    assert "'clasifier' matches no layer and no tensor of the model, which has 0," in caplog.text
    assert "'2'" not in caplog.text


@pytest.mark.parametrize("preset", [Plan.for_filters, Plan.for_low_rank, Plan.for_unstructured])
def test_plans_tell_it_too(preset, caplog):
    with caplog.at_level(logging.WARNING, "pliant"):
        preset(network(), k=0.5, ignore=["clasifier"])
    assert "'clasifier' matches no layer" in caplog.text
