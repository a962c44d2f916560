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
    '{"schema": 1}',
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
    "budget": [0.5, [], {}, {"budget": "Macs"}],
    "layers": [
        None,
        [],
        {"a": 3},
        {"a": {}},
        {"a": {"atoms": 2, "kept": 1, "more": 1}},
        {"a": {"atoms": 2, "kept": 1, "members": []}},
    ],
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
    {"atoms": 2**25},
    {"members": {}},
    {"members": []},
    {"members": [1]},
    {"attributes": {}},
    {"attributes": [1]},
]


@pytest.mark.parametrize("layer", BAD_LAYERS, ids=range(len(BAD_LAYERS)))
def test_bad_layers_are_refused(cut, layer):
    data = json.loads(cut.to_json())
    data["layers"] = {"layer": GROUPED | layer}
    data["left_dense"] = {}
    with pytest.raises(CutError, match="layer"):
        Cut.from_json(json.dumps(data))


REGULAR = {"first": 0, "count": 4, "start": 0, "step": 1, "blocks": []}
MEMBER = {"tensor": "a.weight", "dim": 0, "size": 4, "role": "output", "positions": REGULAR}
ATTRIBUTE = {"module": "a", "name": "num_heads", "per_atom": 1}
GROUPED = {"atoms": 4, "kept": [0, 1], "members": [MEMBER], "attributes": [ATTRIBUTE]}
HOSTILE_MEMBERS = [
    {"more": 1},
    {"tensor": 3},
    {"dim": -1},
    {"dim": 99},
    {"size": 0},
    {"size": 2**40},
    {"size": 3},
    {"role": "none"},
    {"role": "bias"},
    {"positions": []},
    {"positions": {}},
    {"positions": REGULAR | {"more": 1}},
    {"positions": REGULAR | {"count": 0}},
    {"positions": REGULAR | {"count": 5}},
    {"positions": REGULAR | {"first": 1}},
    {"positions": REGULAR | {"count": 10**12}},
    {"positions": REGULAR | {"step": 0}},
    {"positions": REGULAR | {"step": 2}},
    {"positions": REGULAR | {"start": -1}},
    {"positions": REGULAR | {"start": 1}},
    {"positions": REGULAR | {"blocks": [[10**9, 1]]}},
    {"positions": REGULAR | {"blocks": [[2, 0]]}},
    {"positions": REGULAR | {"blocks": [[2, 1, 1]]}},
    {"positions": REGULAR | {"blocks": [[1, 1]] * 9}},
    {"positions": REGULAR | {"blocks": 3}},
    {"positions": {"rows": []}},
    {"positions": {"rows": [[0], [0]]}},
    {"positions": {"rows": [[4]]}},
    {"positions": {"rows": [[0], [1], [2], [3], []]}},
    {"positions": {"rows": [["0"]]}},
    {"positions": {"rows": [0]}},
]


@pytest.mark.parametrize("member", HOSTILE_MEMBERS, ids=range(len(HOSTILE_MEMBERS)))
def test_bad_members_are_refused(cut, member):
    data = json.loads(cut.to_json()) | {"layers": {"layer": GROUPED | {"members": [MEMBER | member]}}}
    with pytest.raises(CutError, match="layer"):
        Cut.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "attribute", [{"name": "__class__"}, {"name": 3}, {"module": 3}, {"per_atom": 0}, {"per_atom": True}, {"more": 1}]
)
def test_only_known_numbers_of_modules_are_written(cut, attribute):
    data = json.loads(cut.to_json()) | {"layers": {"layer": GROUPED | {"attributes": [ATTRIBUTE | attribute]}}}
    with pytest.raises(CutError, match="layer"):
        Cut.from_json(json.dumps(data))


@pytest.mark.parametrize("field", ["members", "attributes"])
def test_nothing_is_named_twice(cut, field):
    data = json.loads(cut.to_json()) | {"layers": {"layer": GROUPED | {field: GROUPED[field] * 2}}}
    with pytest.raises(CutError, match="twice"):
        Cut.from_json(json.dumps(data))


def _edited(cut, **changes):
    data = json.loads(cut.to_json())
    data["layers"]["0"]["members"][0] |= changes
    return Cut.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tensor": "no.such"}, "does not exist"),
        ({"dim": 3}, "size"),
        ({"tensor": "11.weight", "dim": 1, "size": 40}, "two atoms"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused_before_anything_is_built(cut, changes, match):
    with pytest.raises(CutError, match=match):
        FilterPruning().realise(build("plain")[0], _edited(cut, **changes))


def test_numbers_that_a_module_does_not_have_are_refused(cut):
    data = json.loads(cut.to_json())
    data["layers"]["0"]["attributes"] = [{"module": "1", "name": "num_heads", "per_atom": 1}]
    with pytest.raises(CutError, match="num_heads"):
        FilterPruning().realise(build("plain")[0], Cut.from_json(json.dumps(data)))


def test_the_removed_slices_are_what_realise_takes_out(cut):
    model, _ = build("plain")
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    smaller = FilterPruning().realise(model, cut)
    after = {**dict(smaller.named_parameters()), **dict(smaller.named_buffers())}
    slices = cut.removed_slices()
    assert set(slices) == {name for name in before if before[name].shape != after[name].shape}
    for name, tensor in before.items():
        for dim, removed in slices.get(name, ()):
            keep = [i for i in range(tensor.shape[dim]) if i not in removed]
            tensor = tensor.index_select(dim, torch.tensor(keep))  # noqa: PLW2901  (slice after slice)
        assert torch.equal(tensor, after[name])


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
    with pytest.raises(CutError, match="does not exist"):
        FilterPruning().truncate(model, cut)
    with pytest.raises(CutError, match="made by FilterPruning"):
        LowRank().realise(build("plain")[0], cut)
    wide = UnstructuredPruning().select(model, 0.5, example=example)
    with pytest.raises(CutError):
        UnstructuredPruning().truncate(build("plain")[0], wide)


def test_a_cut_counts_what_it_removes(cut):
    assert cut.removed_fraction == 0.5
    assert sum(cut.count(name) for name in cut.kept) == sum(cut.atoms.values()) // 2
