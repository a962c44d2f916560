from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.models import NAMES
from pliant.models.blueprint import Blueprint, BlueprintError, check_size, read_blueprint

FAST = ("lenet-5", "cnn-4", "vit")
GOOD = Blueprint("cnn-4", 10, 1, 8, (1, 1, 8, 8), {"widths": [4, 4, 4, 4]})


def _data(**changes):
    return json.loads(GOOD.to_json()) | changes


def test_a_blueprint_survives_json_and_builds_its_model_quietly():
    assert Blueprint.from_json(GOOD.to_json()) == GOOD
    state = torch.get_rng_state()
    assert GOOD.build()(GOOD.example()).shape == (1, 10)
    assert torch.equal(GOOD.example(), GOOD.example())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "JSON"),
        ("[" * 100000, "JSON"),
        ("[]", "object"),
        ("{}", "fields"),
        (json.dumps(_data(more=1)), "fields"),
        (json.dumps(_data(schema=2)), "schema must be 1"),
        (json.dumps(_data(schema=True)), "object with the fields"),
        (json.dumps(_data(name=["cnn-4"])), "name must be text"),
        (json.dumps(_data(args=[])), "args an object"),
        (json.dumps(_data(input=[])), "one to eight sizes"),
        (json.dumps(_data(input=[1] * 9)), "one to eight sizes"),
        (json.dumps(_data(input=[1, 10**12])), "between 1 and"),
        (json.dumps(_data(num_classes=-1)), "num_classes"),
        (json.dumps(_data(image_size=2.5)), "image_size"),
    ],
)
def test_what_is_no_blueprint_is_refused(text, part):
    with pytest.raises(BlueprintError, match=part):
        Blueprint.from_json(text)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_other_json_is_refused_with_a_named_error(value):
    with pytest.raises(BlueprintError):
        Blueprint.from_json(json.dumps(value))


def test_a_file_does_not_decide_which_code_runs(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(_data(name="os:system", args={"command": "touch hacked"})))
    with pytest.raises(BlueprintError, match="--model"):
        read_blueprint(tmp_path)
    with pytest.raises(BlueprintError, match="--model"):
        read_blueprint(tmp_path, trusted="os:getcwd")
    assert read_blueprint(tmp_path, trusted="os:system").name == "os:system"
    assert not (tmp_path / "hacked").exists()


def test_missing_and_giant_files_are_refused(tmp_path):
    with pytest.raises(BlueprintError, match="pliant compress"):
        read_blueprint(tmp_path)
    with (tmp_path / "model.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BlueprintError, match="at most"):
        read_blueprint(tmp_path)
    (tmp_path / "model.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BlueprintError, match="cannot be read"):
        read_blueprint(tmp_path)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in NAMES])
def test_every_model_can_be_measured_before_it_is_built(name):
    blueprint = Blueprint(name, 10, 3, 32, (1, 3, 32, 32))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in blueprint.build().parameters())
    check_size(blueprint, parameters)
    with pytest.raises(BlueprintError, match="as the cut says"):
        check_size(blueprint, parameters + 1)


def test_a_model_larger_than_the_machine_is_not_built():
    giant = Blueprint("lenet-300-100", 10, 1, 8, (1, 1, 8, 8), {"widths": [2**22, 2**22]})
    with torch.device("meta"):
        parameters = sum(p.numel() for p in giant.build().parameters())
    with pytest.raises(BlueprintError, match="this machine has"):
        check_size(giant, parameters)
