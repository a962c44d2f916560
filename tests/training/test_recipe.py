from pathlib import Path

import pytest

from pliant.training.presets import PRESETS
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

TEXT = """
name: a-{seed}
data: {name: digits, batch_size: 64}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2}
method:
  type: sfw
  plan: filters
  k: 0.3
  radius: {type: fixed, radius: 5e-1}
  norms: {type: ball, ball: k-support, k: 0.1, radius: {type: init-scaled}}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    return file


def error_of(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(path, list(overrides))
    return str(caught.value)


def test_a_recipe_survives_the_way_through_yaml(path, tmp_path):
    recipe = Recipe.from_yaml(path, ["method.k=1", "train.precision=bfloat16"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(copy) == recipe


def test_left_out_sections_have_defaults_that_survive_too(path, tmp_path):
    recipe = Recipe.from_yaml(path, ["method={type: sgd}", "data=null"][:1])
    assert recipe.sweep.fractions[-1] == 0.9
    assert [spec.type for spec in recipe.sweep.compressors] == ["filters", "low-rank", "unstructured"]
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(copy) == recipe


@pytest.mark.parametrize(("text", "kind"), [("1", int), ("1.0", float), ("0.25", float), ("3", int)])
def test_k_keeps_the_difference_between_a_count_and_a_fraction(path, tmp_path, text, kind):
    recipe = Recipe.from_yaml(path, [f"method.k={text}"])
    assert type(recipe.method.k) is kind
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert type(Recipe.from_yaml(copy).method.k) is kind


@pytest.mark.parametrize("text", ["5e-1", "5E-1", "0.5", ".5", "+.5e0"])
def test_numbers_are_numbers_with_and_without_a_dot(path, text):
    assert Recipe.from_yaml(path, [f"method.radius.radius={text}"]).method.radius.radius == 0.5


def test_the_seed_is_put_into_the_name(path):
    assert Recipe.from_yaml(path, ["seed=7"]).run_name == "a-7"


def test_overrides_are_yaml_and_apply_in_order(path):
    recipe = Recipe.from_yaml(
        path,
        [
            "train.epochs=3",
            "train.epochs=4",
            "method.rest.type=free",
            "sweep.fractions=[0.1, 0.2]",
            "sweep.compressors=[low-rank, {type: filters, score: l2}]",
        ],
    )
    assert recipe.train.epochs == 4
    assert recipe.method.rest.lr == 0.05
    assert recipe.sweep.fractions == [0.1, 0.2]
    assert recipe.sweep.compressors[1].score == "l2"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("zzz=1", ["zzz: no such key", "allowed: name, seed, data"]),
        ("train.epoch=1", ["train.epoch: no such key", "did you mean epochs?"]),
        ("method.norms.bal=1", ["method.norms.bal: no such key", "did you mean ball?"]),
        ("method.type=sdg", ["method.type: must be one of sgd, sfw", "'sdg'"]),
        ("method={lr: 1}", ["method.type: must be one of sgd, sfw", "None"]),
        ("method.plan=both", ["method.plan: must be 'filters', 'low-rank', 'unstructured' or 'rules'", "'both'"]),
        ("method.step={type: shrink}", ["method.step.type: must be one of", "shrinkage", "'shrink'"]),
        ("method.k=1.5", ["method.k: k must be an int >= 1 (a count) or a float in (0, 1]", "1.5"]),
        ("method.k=0", ["method.k:", "found 0"]),
        ("method.k=true", ["method.k:", "True"]),
        ("method.lr=fast", ["method.lr: must be a valid number", "'fast'"]),
        ("method.radius.radius=0", ["method.radius.radius: must be greater than 0", "found 0"]),
        ("method.radius.radius=.inf", ["method.radius.radius: must be a finite number"]),
        ("method.norms.ball=l7", ["method.norms: ball must be one of", "k-support", "'l7'"]),
        ("method.norms.k=null", ["method.norms: the k-support ball needs k"]),
        ("method.norms.p=2.0", ["method.norms: the k-support ball does not take p"]),
        ("sweep={fractions: []}", ["sweep: fractions and macs are both empty: name at least one share"]),
        (
            "sweep={compressors: [unstructured], macs: [0.5]}",
            ["sweep: macs need a compressor that makes the model smaller"],
        ),
        ("train.epochs=0", ["train.epochs: must be greater than or equal to 1", "found 0"]),
        ("train.epochs=2.5", ["train.epochs: must be a valid integer", "found 2.5"]),
        ("data.name=mnist", ["data.name: must be one of", "fashion-mnist", "'mnist'"]),
        ("data.holdout=1.0", ["data.holdout: must be less than 1"]),
        ("data=5", ["data: must be a mapping", "found 5"]),
        ("model.name=lenet", ["model.name: must be one of", "lenet-5", "package.module:function"]),
        ("name=../up", ["name: must be a folder name", "'../up'"]),
        ("name=", ["name: must be a valid string", "None"]),
        ("sweep.fractions=[0.1, 1.0]", ["sweep.fractions.1: must be less than 1"]),
        ("sweep.compressors=[filtres]", ["sweep.compressors.0.type: must be one of filters", "'filtres'"]),
        ("sweep.compressors=[{type: filters, score: l3}]", ["sweep.compressors.0.score: must be 'l1'", "'l3'"]),
        ("sweep.compressors=['filters:l3']", ["sweep.compressors.0.score: must be 'l1'", "'l3'"]),
        ("sweep.compressors=['filters:']", ["sweep.compressors.0.score: must be 'l1'", "''"]),
        (
            "sweep.compressors=['low-rank:energy']",
            ["a score, as in filters:l2, is for filters and both: found 'energy'"],
        ),
        ("sweep.compressors=['filters:reconstruction']", ["sweep: the score reconstruction is measured on images"]),
        (
            "method={type: random-cut, compressors: ['filters:reconstruction'], inner: {type: sgd}}",
            ["method.compressors.0: the score reconstruction is measured after training"],
        ),
        (
            "probe={compressor: 'both:reconstruction', fraction: 0.5}",
            ["probe.compressor: the score reconstruction is measured after training"],
        ),
        (
            "probe={compressor: {type: both, search: closest}, fraction: 0.5}",
            ["search: the closest is found after training"],
        ),
        ("sweep.compressors=[{type: both, search: closest}]", ["sweep: search: the closest is found on images"]),
        ("sweep.compressors=[{type: both, split: 2}]", ["sweep.compressors.0.split: must be less than or equal to 1"]),
    ],
)
def test_an_error_names_the_field_what_is_allowed_and_what_was_found(path, override, parts):
    message = error_of(path, override)
    assert str(path) in message
    for part in parts:
        assert part in message


def test_every_wrong_field_is_reported_at_once(path):
    message = error_of(path, "train.epochs=0", "method.k=2.0", "data.name=x")
    assert all(field in message for field in ("train.epochs", "method.k", "data.name"))


def test_coupled_atoms_need_the_plan_for_filters_and_join_norms_themselves(path):
    assert Recipe.from_yaml(path, ["method.coupled=true"]).method.coupled
    assert "coupled: true needs plan: filters" in error_of(path, "method.coupled=true", "method.plan=low-rank")
    assert "leave out norms of type joined" in error_of(path, "method.coupled=true", "method.norms={type: joined}")


def test_joined_norms_need_the_plan_for_filters(path):
    assert Recipe.from_yaml(path, ["method.norms={type: joined}"]).method.norms.type == "joined"
    assert "plan: filters" in error_of(path, "method.norms={type: joined}", "method.plan=low-rank")


@pytest.mark.parametrize(
    ("override", "part"),
    [("train.epochs", "must look like"), ("=3", "must look like"), ("seed.x=3", "has no parts"), ("a=[", "YAML")],
)
def test_an_override_that_does_not_fit_says_so(path, override, part):
    assert part in error_of(path, "seed=0", override)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- 1\n", "must hold a mapping"),
        ("name: [a\n", "not valid YAML"),
        ("name: a\nname: b\n", "key given twice: name"),
        ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("name: a\n", "method: is missing"),
    ],
)
def test_a_file_that_is_no_recipe_says_so(tmp_path, text, part):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert part in error_of(file)


def test_a_missing_file_says_so(tmp_path):
    assert "cannot read the recipe" in error_of(tmp_path / "none.yaml")


def test_rules_and_the_numbers_of_presets_exclude_each_other(path):
    rules = "method.rules=[{treat: {type: free}}]"
    assert "plan: filters" in error_of(path, rules)
    assert "leave out" in error_of(path, "method.plan=rules", "method.k=0.5", rules)
    assert "plan: rules" in error_of(path, "method={type: sfw, plan: rules}")


def test_an_override_of_a_part_that_the_file_leaves_out_changes_its_default(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("name: short\nmethod: {type: sfw, plan: filters}\n")
    recipe = Recipe.from_yaml(path, ["method.step.total=2.5", "sweep.calibrate=7"])
    assert (recipe.method.step.type, recipe.method.step.total, recipe.sweep.calibrate) == ("shrinkage", 2.5, 7)
    assert recipe.sweep.fractions == Recipe.from_yaml(path).sweep.fractions


def test_rules_survive_the_run_folder(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("name: r\nmethod: {type: sfw, plan: rules, rules: [{treat: {type: free}}]}\n")
    recipe = Recipe.from_yaml(path)
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe


ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted(
    path
    for path in (ROOT / "recipes").rglob("*.yaml")
    if not path.stem.startswith(("tuning", "study")) and path.parent.name != "suites"
)


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: str(file.relative_to(ROOT / "recipes")))
def test_every_committed_recipe_is_valid_alone_or_with_every_preset(file):
    if "method:" in file.read_text():
        assert Recipe.from_yaml(file).run_name
    else:
        assert {Recipe.from_yaml(file, preset=preset).method.type for preset in PRESETS}


def test_committed_recipes_have_names_of_their_own():
    names = [Recipe.from_yaml(file, preset=_preset_for(file)).run_name for file in COMMITTED]
    assert sorted(set(names)) == sorted(names)


def _preset_for(file):
    return None if "method:" in file.read_text() else "filters"
