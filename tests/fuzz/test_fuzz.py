"""Hostile and damaged files: every reader raises its own errors or reads them, whatever the bytes."""

import json
import random
from pathlib import Path

import pytest
import yaml
from fuzz_mutate import mutate
from fuzz_readers import RECIPES, Reader, readers
from fuzz_run import feed, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.compress import Cut, CutError
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

NAMES = (
    "recipe",
    "override",
    "cut",
    "blueprint",
    "rows",
    "run",
    "tensors",
    "checkpoint, damaged",
    "checkpoint, hostile",
    "idx",
    "idx.gz, damaged",
    "idx.gz, hostile",
    "parquet",
    "pickle",
    "image",
)
CORPUS = Path(__file__).with_name("corpus")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def table():
    return readers()


def test_every_reader_is_fuzzed(table):
    assert tuple(table) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(table, tmp_path, name):
    reader = table[name]
    assert all(feed(reader, reader.wrap(seed), tmp_path) for seed in reader.seeds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_changed_files_are_read_or_refused_by_name(table, tmp_path, name):
    report = fuzz(table[name], 60, seed=1, folder=tmp_path)
    assert report.failures == ()
    assert report.slowest < 20


def test_no_changed_checkpoint_is_ever_read(table, tmp_path):
    assert fuzz(table["checkpoint, damaged"], 100, seed=2, folder=tmp_path).accepted == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_many_changed_files_are_read_or_refused_by_name(table, tmp_path, name):
    assert fuzz(table[name], 2000, seed=3, folder=tmp_path).failures == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_went_wrong_or_is_built_to_is_refused_by_name(table, tmp_path, path):
    assert not feed(table[path.parent.name], path.read_bytes(), tmp_path)


@QUICK
@given(content=st.binary(max_size=300), name=st.sampled_from([n for n in NAMES if "hostile" not in n]))
@pytest.mark.filterwarnings("ignore")
def test_no_bytes_at_all_break_a_reader(table, tmp_path, content, name):
    feed(table[name], content, tmp_path)


WORDS = st.sampled_from(["sfw", "../x", "2026-01-01"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), WORDS)
KEYS = st.text(max_size=3) | st.integers()
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=3))


def places(data, path=()):
    """Return where the values of nested mappings and lists are."""
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, part in parts for place in places(part, (*path, key))]


def replaced(data, path, value):
    """Return nested data with one value replaced."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


@QUICK
@given(draw=st.data(), seed=st.sampled_from(RECIPES))
def test_any_value_anywhere_in_a_recipe_is_read_or_refused(tmp_path, draw, seed):
    data = yaml.safe_load(seed)
    changed = replaced(data, draw.draw(st.sampled_from(places(data))), draw.draw(VALUES))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    try:
        recipe = Recipe.from_yaml(path)
    except RecipeError:
        return
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_yaml(path) == recipe


@QUICK
@given(draw=st.data())
def test_any_value_anywhere_in_a_cut_is_read_or_refused(table, draw):
    text = draw.draw(st.sampled_from(table["cut"].seeds)).decode()
    data = json.loads(text)["cut"]
    changed = replaced(data, draw.draw(st.sampled_from(places(data))), draw.draw(VALUES))
    try:
        cut = Cut.from_json(json.dumps(changed))
    except CutError:
        return
    assert Cut.from_json(cut.to_json()) == cut


def test_the_fuzzer_finds_what_is_there_to_find(tmp_path):
    """A fuzzer that reports nothing about a reader that fails would be worth nothing."""

    def careless(path):
        return path.read_bytes()[40]

    report = fuzz(Reader(careless, (ValueError,), [b"x" * 50]), 300, seed=0, folder=tmp_path, keep=tmp_path)
    assert any("IndexError" in failure for failure in report.failures)
    assert list(tmp_path.glob("*-IndexError"))


def test_mutations_change_something_and_follow_the_seed():
    whole = b'{"a": 1}'
    one, other = (_mutants(whole, random.Random(0)) for _ in range(2))  # noqa: S311
    assert one == other
    assert whole not in one
    assert len(set(one)) > 30


def _mutants(whole, rng):
    return [mutate(whole, [whole], [b"x"], rng) for _ in range(50)]
