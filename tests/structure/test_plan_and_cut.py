"""What a ready-made plan constrains is what its compressor cuts, whatever layers share."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pliant.compress import FilterPruning, LowRank, UnstructuredPruning
from pliant.regions import Region
from pliant.structure import Free, Plan


class Language(nn.Module):
    """Embedding, two hidden layers and a decoder with the embedding's table; `last` registers the embedding last."""

    def __init__(self, *, last=False, tied=True):
        super().__init__()
        table = nn.Embedding(10, 6)
        if not last:
            self.encoder = table
        self.hidden, self.other, self.decoder = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 10)
        self.encoder = table
        if tied:
            self.decoder.weight = table.weight

    def forward(self, x):
        return self.decoder(self.other(self.hidden(self.encoder(x)).relu()).relu())


class Linears(nn.Module):
    """Four linear layers of which two may share a weight."""

    def __init__(self, first="", second=""):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        if first:
            getattr(self, second).weight = getattr(self, first).weight

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())


class Convolutions(nn.Module):
    """A convolution, one in groups, a transposed one, and two that may be one."""

    def __init__(self, *, twin=False):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up, self.norm = nn.ConvTranspose2d(8, 6, 2), nn.BatchNorm2d(6)
        self.one = nn.Conv2d(6, 6, 3, padding=1)
        self.two = self.one if twin else nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        x = self.norm(self.up(self.grouped(self.first(x).relu()).relu())).relu()
        return self.out(self.two(self.one(x).relu()).relu().mean((2, 3)))


def parametrized():
    model = Linears()
    parametrizations.weight_norm(model.b)
    return model


TOKENS, VECTORS, IMAGES = torch.arange(8).view(2, 4), torch.ones(2, 8), torch.ones(2, 3, 6, 6)
CASES = {
    "untied": (lambda: Language(tied=False), TOKENS, ()),
    "decoder tied to the embedding": (Language, TOKENS, ()),
    "the same, embedding last": (lambda: Language(last=True), TOKENS, ()),
    "nothing but the tied decoder": (Language, TOKENS, ("hidden", "other")),
    "linear layers": (Linears, VECTORS, ()),
    "two share": (lambda: Linears("a", "b"), VECTORS, ()),
    "two share, the first ignored": (lambda: Linears("a", "b"), VECTORS, ("a",)),
    "two share, the second ignored": (lambda: Linears("a", "b"), VECTORS, ("b",)),
    "two share, by the name of the second's tensor": (lambda: Linears("a", "b"), VECTORS, ("b.weight",)),
    "shared with the output layer": (lambda: Linears("b", "d"), VECTORS, ()),
    "nothing but what is shared and ignored": (lambda: Linears("a", "b"), VECTORS, ("a", "c", "d")),
    "convolutions": (Convolutions, IMAGES, ()),
    "one module under two names": (lambda: Convolutions(twin=True), IMAGES, ()),
    "the same, the second name ignored": (lambda: Convolutions(twin=True), IMAGES, ("two",)),
    "parametrized": (parametrized, VECTORS, ("b",)),
}


def constrained(plan, model, **options):
    """Return the matrices that a plan holds in regions, by identity; none where it refuses."""
    try:
        groups = list(plan(model, k=0.5, norms=Free(), **options))
    except ValueError as error:
        if "left to constrain" not in str(error):
            raise
        return set()
    held = [slot.parameter for group in groups if isinstance(group.target, Region) for slot in group.slots]
    assert held
    return {id(p) for p in held if p.ndim > 1}


def tensors(model, names):
    found = dict(model.named_parameters(remove_duplicate=False))
    return {id(found[name]) for name in names}


@pytest.mark.parametrize("case", CASES)
def test_unstructured(case):
    make, example, ignore = CASES[case]
    model = make()
    cut = UnstructuredPruning(ignore=ignore).select(model, 0.5, example=example)
    atoms = [name for name in cut.atoms if "parametrizations" not in name]  # no ball holds what a weight is made from
    assert constrained(Plan.for_unstructured, model, ignore=ignore) == tensors(model, atoms)


@pytest.mark.parametrize("case", CASES)
def test_low_rank(case):
    make, example, ignore = CASES[case]
    model = make()
    cut = LowRank(ignore=ignore).select(model, 0.5, example=example)
    expected = tensors(model, [f"{name}.weight" for name in cut.atoms])
    assert constrained(Plan.for_low_rank, model, ignore=ignore) == expected


@pytest.mark.parametrize("case", CASES)
def test_coupled_filters(case):
    make, example, ignore = CASES[case]
    model = make()
    cut = FilterPruning(ignore=ignore).select(model, 0.5, example=example)
    makers = [
        member.tensor for group in cut.groups.values() for member in group.members if member.role.name == "OUTPUT"
    ]
    held = constrained(Plan.for_filters, model, ignore=ignore, coupled=True, example=example)
    assert held == tensors(model, makers)


@pytest.mark.parametrize("case", CASES)
def test_filters_of_single_layers_hold_nothing_that_must_stay(case):
    """They hold more than is cut (layers whose channels must stay for another's sake), but nothing that is left out."""
    make, _, ignore = CASES[case]
    model = make()
    held = constrained(Plan.for_filters, model, ignore=ignore)
    kept = [module for name, module in model.named_modules() if isinstance(module, nn.Embedding) or name in ignore]
    kept.append([module for module in model.modules() if isinstance(module, nn.Linear)][-1])
    assert not held & {id(p) for module in kept for p in module.parameters()}


def test_what_is_shared_is_named_where_nothing_is_left_and_logged_where_something_is(caplog):
    with pytest.raises(ValueError, match=r"no layer is left .* \(decoder: its weight is that of encoder.weight too\)"):
        Plan.for_unstructured(Language(), k=0.5, ignore=["hidden", "other"])
    with pytest.raises(ValueError, match=r"a: shares its weights with b; b: shares its weights with a\)"):
        Plan.for_low_rank(Linears("a", "b"), k=0.5, ignore=["c"])
    with caplog.at_level(logging.INFO):
        Plan.for_low_rank(Linears("a", "b"), k=0.5)
    assert "no ball holds the weight of a: shares its weights with b" in caplog.text
