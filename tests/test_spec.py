import dataclasses
import json
import math
from enum import Enum

import pytest

from pliant.regions import (
    CATALOGUE,
    Axes,
    Ball,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Penalty,
    Scaled,
    Singular,
    TopK,
    group_lasso_ball,
)
from pliant.spec import from_spec, register, to_spec

VIEWS = [
    Entries(),
    Entries(2),
    Filters(),
    Filters(Axes(1, 2), 1),
    Singular(Axes(groups=3)),
    Joint((Entries(), Filters(), Joint((Singular(),)))),
    Coupled((Filters(), Filters(Axes(out=1)))),
    Scaled(Coupled((Filters(), Filters())), (0.1, 3.0)),
]
GAUGES = [TopK(1), TopK(1.0), TopK(0.3, math.inf), TopK(7, 2), Lp(1.0), Lp(1.5), Lp(math.inf), Lp(2)]


def through_json(value):
    return from_spec(json.loads(json.dumps(to_spec(value), allow_nan=False)))


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("gauge", GAUGES, ids=str)
def test_every_region_and_penalty_survives_json(gauge, view):
    for value in (Ball(gauge, view, 0.1), Penalty(gauge, view, 0.0)):
        again = through_json(value)
        assert again == value
        assert repr(again) == repr(value)
        assert hash(again) == hash(value)


@pytest.mark.parametrize("title", CATALOGUE)
def test_every_name_of_the_catalogue_survives_json(title):
    arguments = {"lp-ball": (1.5,)}.get(title, (3,) if "-k-" in f"-{title}" else ())
    ball = CATALOGUE[title](*arguments, radius=2.0)
    assert through_json(ball) == ball


def test_one_atom_does_not_come_back_as_all_of_them():
    for k in (1, 1.0):
        again = through_json(TopK(k))
        assert type(again.k) is type(k)
        assert again.at(5).k == TopK(k).at(5).k


@pytest.mark.parametrize("value", [None, True, 3, 0.25, "text", (), (1, (2.0, None)), math.inf, -math.inf])
def test_plain_data_survives_json(value):
    again = through_json(value)
    assert again == value
    assert type(again) is type(value)


def test_nan_survives_json():
    assert math.isnan(through_json(math.nan))


HOSTILE = [
    {"type": "os.system", "command": "true"},
    {"type": "Path", "name": "x"},
    {"type": "builtins.eval"},
    {"type": None},
    {"type": ["Ball"]},
    {"type": 3},
    {"type": {"type": "float", "name": "inf"}},
    {},
    {"gauge": 1},
    {"type": "float"},
    {"type": "float", "name": "1e5"},
    {"type": "float", "name": ["inf"]},
    {"type": "float", "name": None},
    {"type": "Ball"},
    {"type": "Ball", "gauge": 1, "view": 2, "radius": 1.0},
    {"type": "Ball", "gauge": {"type": "Entries"}, "view": {"type": "Entries"}, "radius": 1.0},
    {"type": "Ball", "gauge": {"type": "TopK", "k": 1}, "view": {"type": "Entries"}, "radius": "1"},
    {"type": "Ball", "gauge": {"type": "TopK", "k": 1}, "view": {"type": "Entries"}, "radius": -1.0},
    {"type": "Ball", "gauge": {"type": "TopK", "k": 1}, "view": {"type": "Entries"}, "radius": None},
    {"type": "TopK", "k": 1.5},
    {"type": "TopK", "k": 1, "counted": False},
    {"type": "TopK", "k": [1]},
    {"type": "TopK", "k": 1, "p": "2"},
    {"type": "TopK", "k": 1, "p": [2.0]},
    {"type": "Lp", "p": "2"},
    {"type": "Lp", "p": None},
    {"type": "Lp"},
    {"type": "Entries", "arity": 2},
    {"type": "Entries", "batch": -1},
    {"type": "Entries", "batch": 0.5},
    {"type": "Filters", "axes": 3},
    {"type": "Axes", "out": "0"},
    {"type": "Axes", "groups": 1.5},
    {"type": "Joint", "members": [1]},
    {"type": "Joint", "members": 1},
    {"type": "Joint", "members": []},
    {"type": "Coupled", "members": [{"type": "Entries"}]},
    {"type": "Coupled", "members": None},
    {"type": "Scaled", "view": 1, "factors": [1.0]},
    {"type": "Scaled", "view": {"type": "Entries"}, "factors": 1.0},
    {"type": "Scaled", "view": {"type": "Entries"}, "factors": ["1"]},
    {"type": "Entries", "__class__": "Filters"},
    {"type": "Entries", 1: 2},
]


@pytest.mark.parametrize("spec", HOSTILE, ids=str)
def test_a_hostile_specification_is_a_value_error_and_builds_nothing(spec):
    with pytest.raises(ValueError, match=r"\w"):
        from_spec(spec)


def test_an_unknown_class_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'Sphere'; known: .*Ball"):
        from_spec({"type": "Sphere"})


def test_from_spec_does_not_change_the_specification():
    spec = to_spec(group_lasso_ball(1.0))
    before = json.dumps(spec)
    from_spec(spec)
    assert json.dumps(spec) == before


def test_objects_that_are_not_registered_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int = 0

    for value in (Local(), object(), {1: 2}, {1, 2}, b"x", lambda: None, Ball(TopK(1), Entries(), 1.0).lmo):
        with pytest.raises(TypeError, match=r"registered"):
            to_spec(value)


def test_two_classes_may_not_share_a_name():
    class Ball:
        pass

    with pytest.raises(ValueError, match=r"named Ball is registered already, by pliant\.regions\.ball"):
        register(Ball)


def test_enums_survive_and_unknown_members_are_refused():
    @register
    class Season(Enum):
        WINTER = 1

    assert through_json(Season.WINTER) is Season.WINTER
    for name in ("SUMMER", None, ["WINTER"], 1, "__class__"):
        with pytest.raises(ValueError, match="must be one of WINTER"):
            from_spec({"type": "Season", "name": name})
