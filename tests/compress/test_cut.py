from __future__ import annotations

import json

import pytest
import torch
from compressible import build

from pliant.compress import Cut, CutError, FilterPruning, Global, GroupNorm, LowRank, UnstructuredPruning, compressor_of


@pytest.fixture(scope="module")
def cut():
    model, example = build("plain")
    return FilterPruning(GroupNorm(), Global(), ignore=("4",)).select(model, 0.5, example=example)


def test_json_gives_the_same_cut_and_compressor(cut):
    again = Cut.from_json(cut.to_json())
    assert again == cut
    assert compressor_of(again) == FilterPruning(GroupNorm(), Global(), ignore=("4",))


def test_a_cut_applies_after_the_journey(cut):
    model, example = build("plain")
    first = FilterPruning().realise(model, cut).eval()
    second = FilterPruning().realise(model, Cut.from_json(cut.to_json())).eval()
    assert torch.equal(first(example), second(example))


HOSTILE = [
    "",
    "{",
    "null",
    "[]",
    "42",
    '"text"',
    "NaN",
    "{}",
    '{"schema": 2}',
    '{"schema": true}',
    "[" * 100_000,
    '{"schema": ' + "9" * 10_000 + "}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused(text):
    with pytest.raises(CutError):
        Cut.from_json(text)


@pytest.mark.parametrize("text", [None, 3, ["{}"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(CutError):
        Cut.from_json(text)


BAD_FIELDS = {
    "compressor": [None, 3, []],
    "options": [None, [], "x"],
    "fraction": ["0.5", 1.0, -0.1, True, []],
    "layers": [None, [], {"a": 3}, {"a": {}}, {"a": {"atoms": 2, "kept": 1, "links": [], "more": 1}}],
    "skipped": [None, [], {"a": 3}],
    "left_dense": [None, {"a": None}, {"unknown layer": "reason"}],
    "parameters": [None, -1, 1.5, "7", True],
    "macs": [-1],
    "dense_parameters": [{}],
    "dense_macs": [[1]],
    "surprise": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_FIELDS.items() for value in values])
def test_bad_fields_are_refused(cut, name, value):
    with pytest.raises(CutError):
        Cut.from_json(json.dumps(json.loads(cut.to_json()) | {name: value}))


@pytest.mark.parametrize("name", ["schema", *list(BAD_FIELDS)[:-1]])
def test_missing_fields_are_refused(cut, name):
    data = json.loads(cut.to_json())
    del data[name]
    with pytest.raises(CutError, match=name):
        Cut.from_json(json.dumps(data))


BAD_LAYERS = [
    {"atoms": 0, "kept": 0},
    {"atoms": 4, "kept": 0},
    {"atoms": 4, "kept": 5},
    {"atoms": 4, "kept": True},
    {"atoms": 4, "kept": []},
    {"atoms": 4, "kept": [0, 4]},
    {"atoms": 4, "kept": [1, 0]},
    {"atoms": 4, "kept": [0, 0]},
    {"atoms": 4, "kept": [-1, 0]},
    {"atoms": 4, "kept": ["0"]},
    {"atoms": 4, "kept": [0.0]},
    {"atoms": 4, "kept": 2, "links": {}},
    {"atoms": 4, "kept": 2, "links": [1]},
    {"atoms": 4, "kept": 2, "links": [{"module": "a", "role": "none", "block": 1}]},
    {"atoms": 4, "kept": 2, "links": [{"module": "a", "role": "norm", "block": 0}]},
    {"atoms": 4, "kept": 2, "links": [{"module": 1, "role": "norm", "block": 1}]},
]


@pytest.mark.parametrize("layer", BAD_LAYERS, ids=range(len(BAD_LAYERS)))
def test_bad_layers_are_refused(cut, layer):
    data = json.loads(cut.to_json())
    data["layers"] = {"layer": {"links": []} | layer}
    data["left_dense"] = {}
    with pytest.raises(CutError, match="layer"):
        Cut.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("compressor", "options"),
    [("os.system", {}), ("PerLayer", {}), ("FilterPruning", {"score": 3, "nonsense": 1}), ("LowRank", {"ignore": "x"})],
)
def test_only_registered_compressors_are_rebuilt(cut, compressor, options):
    data = json.loads(cut.to_json()) | {"compressor": compressor, "options": options}
    with pytest.raises(CutError):
        compressor_of(Cut.from_json(json.dumps(data)))


def test_a_cut_for_another_model_or_compressor_is_refused(cut):
    model, example = build("mlp")
    with pytest.raises(CutError, match="does not have"):
        FilterPruning().truncate(model, cut)
    with pytest.raises(CutError, match="made by FilterPruning"):
        LowRank().realise(build("plain")[0], cut)
    wide = UnstructuredPruning().select(model, 0.5, example=example)
    with pytest.raises(CutError):
        UnstructuredPruning().truncate(build("plain")[0], wide)


def test_a_cut_counts_what_it_removes(cut):
    assert cut.removed_fraction == 0.5
    assert sum(cut.count(name) for name in cut.kept) == sum(cut.atoms.values()) // 2
