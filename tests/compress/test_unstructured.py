from __future__ import annotations

import pytest
import torch
from compressible import build
from torch import nn

from pliant.compress import Global, PerLayer, UnstructuredPruning, compress


def _zeros(model, names):
    return sum(int((model.get_parameter(name) == 0).sum()) for name in names)


@pytest.mark.parametrize("scope", [Global(), PerLayer()])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_exactly_the_asked_number_goes(scope, fraction):
    model, example = build("mlp")
    done = compress(model, UnstructuredPruning(scope), fraction, example=example)
    total = sum(done.cut.atoms.values())
    expected = [int(fraction * n + 0.5) for n in done.cut.atoms.values()]
    assert _zeros(done.model, done.cut.atoms) == (
        sum(expected) if isinstance(scope, PerLayer) else int(fraction * total + 0.5)
    )
    assert done.report.nonzero == sum(int(p.count_nonzero()) for p in done.model.parameters())


def test_equal_magnitudes_go_by_index_not_by_threshold():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    for parameter in model.parameters():
        nn.init.constant_(parameter, -0.5)
    done = compress(model, UnstructuredPruning(), 0.25, example=torch.randn(1, 8))
    assert _zeros(done.model, done.cut.atoms) == 24


def test_the_smallest_of_all_layers_go():
    model, example = build("plain")
    cut = UnstructuredPruning().select(model, 0.6, example=example)
    truncated = UnstructuredPruning().truncate(model, cut)
    pairs = [(model.get_parameter(n).abs(), truncated.get_parameter(n) == 0) for n in cut.atoms]
    gone = torch.cat([values[mask] for values, mask in pairs])
    stayed = torch.cat([values[~mask] for values, mask in pairs])
    assert gone.max() <= stayed.min()


def test_norms_biases_embeddings_and_tokens_take_no_part():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm, self.out = nn.Embedding(9, 6), nn.LayerNorm((4, 6)), nn.Linear(6, 3)
            self.token = nn.Parameter(torch.zeros(1, 1, 6))

        def forward(self, x):
            return self.out(self.norm(self.words(x) + self.token))

    cut = UnstructuredPruning().select(Text(), 0.5, example=torch.randint(9, (2, 4)))
    assert set(cut.atoms) == {"out.weight"}
    assert set(cut.skipped) == {"words.weight", "norm.weight", "norm.bias", "token"}


def test_tied_weights_go_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    done = compress(model, UnstructuredPruning(PerLayer()), 0.5, example=torch.randn(1, 6))
    assert done.model[1].weight is done.model[0].weight
    assert int((done.model[0].weight == 0).sum()) == 18
    assert done.report.skipped == {"1.weight": "the same tensor as 0.weight"}


class Tied(nn.Module):
    """An embedding and a linear layer of one weight, in either order, and another linear layer."""

    def __init__(self, *, embedding_first):
        super().__init__()
        words, out = nn.Embedding(6, 6), nn.Linear(6, 6)
        words.weight = out.weight
        self.first, self.second = (words, out) if embedding_first else (out, words)
        self.last, self.embedding_first = nn.Linear(6, 6), embedding_first

    def forward(self, x):
        words, out = (self.first, self.second) if self.embedding_first else (self.second, self.first)
        return self.last(out(words(x)))


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_weight_stays_whole_if_one_of_its_names_must(embedding_first):
    words, out = ("first.weight", "second.weight") if embedding_first else ("second.weight", "first.weight")
    cut = UnstructuredPruning().select(Tied(embedding_first=embedding_first), 0.5, example=torch.arange(6))
    assert set(cut.atoms) == {"last.weight"}
    assert cut.skipped == {words: "a parameter of Embedding", out: f"the same tensor as {words}"}


@pytest.mark.parametrize("ignored", ["0", "1", "0.weight", "1.weight"])
def test_ignoring_one_of_the_layers_that_share_a_weight_leaves_it_whole(ignored):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    cut = UnstructuredPruning(ignore=(ignored,)).select(model, 0.5, example=torch.randn(1, 6))
    assert set(cut.atoms) == {"2.weight"}


def test_attention_projections_take_part():
    model, example = build("attention")
    cut = UnstructuredPruning(ignore=("head.*",)).select(model, 0.5, example=example)
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= set(cut.atoms)
    assert "head.weight" not in cut.atoms


def test_it_says_that_nothing_gets_smaller():
    model, example = build("mlp")
    report = compress(model, UnstructuredPruning(), 0.5, example=example).report
    assert report.parameters == report.dense_parameters
    assert report.macs == report.dense_macs
    assert set(report.left_dense.values()) == {"single zeros stay in a dense tensor"}
