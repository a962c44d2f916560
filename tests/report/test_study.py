import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from pliant.report.curves import Curve, Point, Spread, curves_of
from pliant.report.gaps import gaps
from pliant.report.plots import MACS, PARAMETERS, RECALIBRATED, REMOVED, draw
from pliant.report.publish import publish_run, publish_study
from pliant.report.rows import MetricsRow, SweepRow, append_row
from pliant.report.study import read_record, study
from pliant.report.tables import Table, brief, change, dense_table, percent, run_tables, study_tables
from pliant.training.folder import RunFolder, RunFolderError, RunInfo
from pliant.training.recipe import Recipe

SGD = "name: sgd-{seed}\nmethod: {type: sgd}\n"
METRICS = MetricsRow(epoch=1, train_loss=0.5, train_accuracy=0.8, eval_accuracy=0.9, lr=0.1, seconds=1.0)
SFW = "name: filters-{seed}\nmethod: {type: sfw, plan: filters, k: 0.3}\n"


@pytest.fixture
def make_run(tmp_path):
    """Write a finished run: made-up rows, no model."""

    def make(name, *, text=SGD, overrides=(), dense=0.9, rows=(), status="finished", evaluations=None):
        folder = RunFolder(tmp_path / name)
        folder.create()
        source = tmp_path / f"{name}.yaml"
        source.write_text(text)
        recipe = Recipe.from_yaml(source, list(overrides))
        folder.recipe.write_text(recipe.to_yaml())
        folder.write_info(RunInfo(recipe.seed).ending(status, 10.0))
        append_row(folder.metrics, replace(METRICS, eval_accuracy=dense, evaluations=evaluations))
        for row in rows:
            append_row(folder.sweep, row)
        return folder.path

    return make


@pytest.fixture
def cut():
    """Make a sweep row."""

    def make(fraction, raw, recalibrated=None, compressor="filters"):
        left = round(1000 * (1 - fraction))
        return SweepRow(
            compressor=compressor,
            fraction=fraction,
            removed=fraction,
            raw=raw,
            recalibrated=recalibrated,
            parameters=left,
            macs=2 * left,
            dense_parameters=1000,
            dense_macs=2000,
            calibrate=0 if recalibrated is None else 100,
        )

    return make


def test_a_curve_is_mean_and_range_over_the_seeds(cut):
    seeds = [[cut(0.5, 0.8, 0.9), cut(0.0, 0.9, 0.9)], [cut(0.0, 0.7, 0.9), cut(0.5, 0.6, 0.7)]]
    (curve,) = curves_of("sgd", seeds)
    assert [point.fraction for point in curve.points] == [0.0, 0.5]
    assert curve.at(0.5).raw == Spread(pytest.approx(0.7), 0.6, 0.8, 2)
    assert curve.at(0.5).recalibrated.mean == pytest.approx(0.8)
    assert (curve.at(0.5).parameters, curve.at(0.5).macs) == (0.5, 0.5)
    assert curve.at(0.3) is None


def test_the_later_of_two_rows_for_one_cut_counts(cut):
    (curve,) = curves_of("sgd", [[cut(0.3, 0.1), cut(0.1 + 0.2, 0.8)]])
    assert [point.raw.mean for point in curve.points] == [0.8]


def test_recalibrated_is_there_only_if_every_seed_has_it(cut):
    (curve,) = curves_of("sgd", [[cut(0.5, 0.8, 0.9)], [cut(0.5, 0.8)]])
    assert curve.at(0.5).recalibrated is None


def test_a_later_row_without_a_repair_does_not_take_it_away(cut):
    both = replace(cut(0.5, 0.8, 0.9), reconstructed=0.95, reconstruct=64)
    (curve,) = curves_of("sgd", [[both, cut(0.5, 0.81), replace(cut(0.5, 0.82, 0.91), calibrate=7)]])
    (point,) = curve.points
    assert change(point) == "82.0 → 91.0 → 95.0"
    assert (point.calibrate, point.reconstruct) == (7, 64)


def test_a_repair_of_a_cut_that_removed_something_else_is_not_taken_over(cut):
    (curve,) = curves_of("sgd", [[cut(0.5, 0.8, 0.9), replace(cut(0.5, 0.7), parameters=400)]])
    assert change(curve.at(0.5)) == "70.0"


def test_repairs_on_different_numbers_of_images_make_no_mean(cut):
    seeds = [[cut(f, 0.8, 0.9), cut(f, 0.8, 0.9, "low-rank")] for f in (0.5, 0.5)]
    seeds[1][0] = replace(seeds[1][0], calibrate=64)
    filters, low_rank = curves_of("sgd", seeds)
    assert (change(filters.at(0.5)), filters.at(0.5).calibrate) == ("80.0 ±0.0", 0)
    assert (change(low_rank.at(0.5)), low_rank.at(0.5).calibrate) == ("80.0 ±0.0 → 90.0 ±0.0", 100)


def test_a_step_that_is_missing_in_between_is_a_dash(cut):
    (curve,) = curves_of("sgd", [[replace(cut(0.5, 0.3), reconstructed=0.8, reconstruct=64)]])
    assert change(curve.at(0.5)) == "30.0 → - → 80.0"


@pytest.fixture
def three_seeds(make_run, cut):
    """Runs of one method; the sweep of the last ended after its first row."""
    rows = [cut(0.0, 0.9, 0.9), cut(0.5, 0.8, 0.85), cut(0.7, 0.8, 0.8)]
    return [make_run(f"a{s}", overrides=[f"seed={s}"], rows=rows[: 3 if s < 2 else 2]) for s in range(3)]


def test_a_mean_over_some_of_the_seeds_says_so(three_seeds):
    entries = study([read_record(path) for path in three_seeds])
    (table,) = study_tables(entries)
    assert table.rows[0][-2:] == ("80.0 ±0.0 → 85.0 ±0.0", "80.0 ±0.0 → 80.0 ±0.0 (2 of 3)")
    (table,) = run_tables(entries[0].curves())
    assert [row[2] for row in table.rows] == ["90.0 ±0.0", "80.0 ±0.0", "80.0 ±0.0 (2 of 3)"]


def test_a_run_that_lacks_cuts_is_named(three_seeds):
    (text,) = gaps(study([read_record(path) for path in three_seeds]))
    assert text.startswith(f"sgd, filters: {three_seeds[2]} has no cut at 70 %, so means there are over fewer seeds")
    assert text.endswith(f"run: pliant sweep {three_seeds[2]}")


def test_runs_that_were_repaired_on_other_images_are_named(make_run, cut):
    paths = [
        make_run(
            f"a{s}",
            overrides=[f"seed={s}"],
            rows=[replace(cut(f, 0.8, 0.9), calibrate=count) for f in (0.3, 0.5)],
        )
        for s, count in enumerate((1024, 1024, 64))
    ]
    (text,) = gaps(study([read_record(path) for path in paths]))
    counts = f"1024 images in {paths[0]}, {paths[1]}; 64 images in {paths[2]}"
    assert text.startswith(f"sgd, filters: recalibrated at 30 %, 50 % with {counts}: left out")
    assert text.endswith("sweep the runs with the same --calibrate")


def test_runs_that_have_the_same_cuts_leave_no_gaps(make_run, cut):
    rows = [cut(0.5, 0.8, 0.9), replace(cut(0.5, 0.8, 0.9, "low-rank"), reconstructed=0.9, reconstruct=64)]
    paths = [make_run(f"a{s}", overrides=[f"seed={s}"], rows=rows) for s in (0, 1)]
    assert gaps(study([read_record(path) for path in paths])) == []


def test_tables_say_on_how_many_images_cuts_were_repaired(make_run, cut):
    rows = [replace(cut(0.5, 0.8, 0.9), calibrate=1024, reconstructed=0.9, reconstruct=64)]
    entries = study([read_record(make_run("a", rows=rows))])
    (table,) = study_tables(entries)
    assert "raw → recalibrated (1,024 images) → reconstructed (64 images)" in table.title
    (table,) = run_tables(entries[0].curves())
    assert table.title == "filters: recalibrated (1,024 images), reconstructed (64 images)"


def test_tables_say_what_went_where_that_is_not_what_was_asked_for(make_run, cut):
    def rows(more):
        by_macs = [replace(cut(f, 0.8), compressor="filters by MACs", removed=0.1, macs=left) for f, left in MACS_LEFT]
        return [cut(0.5, 0.8), replace(cut(0.7, 0.8), removed=0.75 + more), *by_macs]

    paths = [make_run("a", rows=rows(0.0)), make_run("c", text=SFW, rows=rows(0.0125))]
    atoms, macs = study_tables(study([read_record(path) for path in paths]))
    assert atoms.head[-2:] == ("50%", "70% (75.0-76.2% went)")
    assert macs.head[-2:] == ("50%", "70% (73.0% went)")


MACS_LEFT = ((0.5, 990), (0.7, 540))  # of 2000


def test_reconstructed_accuracies_are_a_third_step(cut):
    (curve,) = curves_of("sgd", [[replace(cut(0.5, 0.8, 0.9), reconstructed=found)] for found in (0.94, 0.96)])
    assert change(curve.at(0.5)) == "80.0 ±0.0 → 90.0 ±0.0 → 95.0 ±1.0"
    (table,) = run_tables([curve])
    assert table.head[3:5] == ("recalibrated", "reconstructed")
    assert table.rows[0][4] == "95.0 ±1.0"


def test_runs_that_differ_in_their_seed_alone_are_one_method(make_run):
    paths = [make_run(f"a{seed}", overrides=[f"seed={seed}"], dense=0.8 + seed / 10) for seed in (1, 0)]
    paths.append(make_run("c", text=SFW))
    sgd, filters = study([read_record(path) for path in paths])
    assert (sgd.label, sgd.seeds) == ("sgd", (0, 1))
    assert sgd.dense == Spread(pytest.approx(0.85), 0.8, 0.9, 2)
    assert (filters.label, filters.seeds) == ("filters", (0,))


@pytest.mark.parametrize(
    "override", ["train.threads=2", "data.root=elsewhere", "sweep.fractions=[0.5]", "train.device=cpu"]
)
def test_where_a_run_was_computed_makes_no_other_method(make_run, override):
    paths = [make_run("a"), make_run("b", overrides=["seed=1", override])]
    assert len(study([read_record(path) for path in paths])) == 1


@pytest.mark.parametrize("override", ["method.lr=0.1", "train.epochs=3", "data.holdout=0.1"])
def test_anything_else_does(make_run, override):
    paths = [make_run("a"), make_run("b", overrides=["seed=1", override])]
    entries = study([read_record(path) for path in paths])
    assert [entry.label for entry in entries] == ["sgd", "sgd (2)"]


def test_names_that_carry_their_seed_are_labelled_without_it(make_run):
    paths = [make_run(f"x{s}", overrides=[f"seed={s}", f"name=mine-{s}"]) for s in (0, 1)]
    (entry,) = study([read_record(path) for path in paths])
    assert entry.label == "mine"


@pytest.mark.parametrize("name", ["resnet-20", "k-3", "k-30", "total-3.0", "lr-0.10", "seed0", "sgd-0"])
def test_digits_of_a_name_that_are_no_seed_stay(make_run, name):
    (entry,) = study([read_record(make_run("a", overrides=[f"name={name}"]))])
    assert entry.label == name


def test_names_that_differ_in_their_last_digits_alone_stay_apart(make_run):
    names = ["k-3", "k-30", "k-300"]
    paths = [make_run(name, overrides=[f"name={name}", f"method.lr=0.{i + 1}"]) for i, name in enumerate(names)]
    assert [entry.label for entry in study([read_record(path) for path in paths])] == names


@pytest.mark.parametrize(
    ("name", "label"),
    [("resnet-20-{seed}", "resnet-20"), ("all/k-30/{seed}", "k-30"), ("lr-0.10 seed={seed}", "lr-0.10")],
)
def test_the_place_of_the_seed_is_taken_out_of_a_name_and_nothing_else(make_run, name, label):
    paths = [make_run(f"a{s}", overrides=[f"seed={s}", f"name={name}"]) for s in (0, 1)]
    for part in (paths, paths[:1]):
        (entry,) = study([read_record(path) for path in part])
        assert entry.label == label


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["mine-0", "mine-1"], "mine"),
        (["mine_seed0", "mine_seed1"], "mine"),
        (["resnet-20", "resnet-20"], "resnet-20"),
        (["resnet-20", "resnet-21"], "resnet-20"),
    ],
)
def test_a_written_seed_is_taken_out_where_that_makes_the_names_of_a_method_equal(make_run, names, label):
    paths = [make_run(f"a{s}", overrides=[f"seed={s}", f"name={name}"]) for s, name in enumerate(names)]
    (entry,) = study([read_record(path) for path in paths])
    assert entry.label == label


def test_one_seed_twice_is_refused(make_run):
    paths = [make_run("a"), make_run("b")]
    with pytest.raises(RunFolderError, match="seeds of their own"):
        study([read_record(path) for path in paths])


def test_an_unfinished_run_and_no_run_say_so(make_run, tmp_path):
    with pytest.raises(RunFolderError, match="--resume"):
        read_record(make_run("a", status="interrupted"))
    with pytest.raises(RunFolderError, match="holds no run: give the folder"):
        read_record(tmp_path)


def test_cells_say_mean_and_half_the_range(cut):
    assert percent(Spread(0.7, 0.6, 0.8, 2)) == "70.0 ±10.0"
    (curve,) = curves_of("sgd", [[cut(0.5, 0.8, 0.9), cut(0.3, 0.5)]])
    assert change(curve.at(0.5)) == "80.0 → 90.0"
    assert change(curve.at(0.3)) == "50.0"
    assert change(None) == "-"


def test_tables_compare_methods_for_every_compressor(make_run, cut):
    rows = [cut(f, 1 - f, 1 - f / 2, name) for name in ("filters", "low-rank") for f in (0.0, 0.3, 0.5)]
    paths = [make_run("a", rows=rows), make_run("c", text=SFW, rows=rows[:3])]
    entries = study([read_record(path) for path in paths])
    filters, low_rank = study_tables(entries)
    assert filters.head == ("method", "class", "runs a curve", "gradients", "dense", "0%", "30%", "50%")
    assert filters.rows[0][1:4] == ("any ratio", "1", "-")
    assert [row[0] for row in filters.rows] == ["sgd", "filters"]
    assert [row[0] for row in low_rank.rows] == ["sgd"]
    assert filters.rows[0][-1] == "50.0 → 75.0"
    assert brief(entries) == [0.3, 0.5]


def test_every_table_says_what_a_method_claims_and_what_it_costs(make_run, cut):
    reload = "name: again-{seed}\nmethod: {type: proximal, nuclear: {weight: 0.1}, reload: {epoch: 1}}\n"
    counted = {"rows": [cut(0.5, 0.6)], "evaluations": 1872}
    paths = [make_run("a", **counted), make_run("b", text=reload, **counted)]
    entries = study([read_record(path) for path in paths])
    any_ratio, retrained = ("any ratio", "1", "1,872"), ("retrained", "1 a ratio", "1,872")
    tables = (dense_table(entries), *study_tables(entries))
    assert all(table.head[1:4] == ("class", "runs a curve", "gradients") for table in tables)
    assert [[row[1:4] for row in table.rows] for table in tables] == [[any_ratio, retrained], [any_ratio], [retrained]]
    assert [table.title.partition(":")[0] for table in tables[1:]] == ["filters, any ratio", "filters, retrained"]


def test_a_record_can_be_had_with_some_of_its_compressors(make_run, cut):
    rows = [cut(0.5, 0.4, None, name) for name in ("filters", "low-rank", "both")]
    record = read_record(make_run("a", rows=rows))
    assert [row.compressor for row in record.only(["both", "filters"]).sweep] == ["filters", "both"]
    with pytest.raises(RunFolderError, match=r"was not swept by 'rank', only by filters, low-rank, both"):
        record.only(["filters", "rank"])


def test_markdown_tables_are_lined_up_and_escape_bars():
    lines = Table("t", ("a|b", "c"), (("x", "1"), ("yy", "22"))).to_markdown().splitlines()
    assert lines[0] == "### t"
    assert len({len(line) for line in lines[2:]}) == 1
    assert r"a\|b" in lines[2]


def test_a_study_is_written_as_tables_and_pictures(make_run, cut, tmp_path):
    rows = [cut(0.0, 0.9, 0.9), cut(0.5, 0.6, 0.8), cut(0.0, 0.9, 0.9, "unstructured")]
    paths = [make_run(f"a{s}", overrides=[f"seed={s}"], rows=rows) for s in (0, 1)]
    paths.append(make_run("c", text=SFW, rows=[cut(0.5, 0.9)]))
    publish_study(tmp_path / "out", study([read_record(path) for path in paths]), title="T")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table.txt", "table.md", "runs.jsonl", "rows.jsonl", "removed.png", "parameters.png", "macs.png"}
    assert (tmp_path / "out" / "macs.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 0, 0, 1, 1, 1, 0]
    assert len({line["method"] for line in lines}) == 2
    runs = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [run["recipe"]["seed"] for run in runs] == [0, 1, 0]
    assert "60.0 ±0.0 → 80.0 ±0.0" in (tmp_path / "out" / "table.md").read_text()


SPREAD = Spread.of([0.8, 0.9])


def drawn(tmp_path, monkeypatch, curves, **options):
    """The axes of a drawn picture that are seen."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    draw(tmp_path / "plot.png", curves, title="T", **options)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    return [axes for axes in figures[0].axes if axes.get_visible()]


def test_many_methods_have_panels_of_their_own_before_and_after_recalibration(tmp_path, monkeypatch):
    def titles(methods, recalibrated):
        points = (Point(0.5, 0.5, SPREAD, recalibrated, 0.5, 0.5),)
        curves = [Curve(f"m{i}", "filters", points) for i in range(methods)]
        return [axes.get_title(loc="left") for axes in drawn(tmp_path, monkeypatch, curves)]

    assert titles(7, SPREAD) == titles(2, SPREAD) == titles(7, None) == ["filters"]
    assert titles(8, SPREAD) == titles(30, SPREAD) == ["filters\nraw cut", "filters\nBatchNorm recalibrated"]
    assert titles(8, None) == ["filters\nraw cut"]


def test_what_is_reconstructed_has_panels_of_its_own(tmp_path, monkeypatch):
    points = (Point(0.5, 0.5, SPREAD, SPREAD, 0.5, 0.5, reconstructed=SPREAD),)
    curves = [Curve("m", "filters", points)]
    ends = ["raw cut", "BatchNorm recalibrated", "reconstructed"]
    titles = [axes.get_title(loc="left") for axes in drawn(tmp_path, monkeypatch, curves)]
    assert titles == [f"filters\n{end}" for end in ends]
    run = drawn(tmp_path, monkeypatch, curves, axes=(REMOVED, PARAMETERS, MACS))
    assert [axes.get_title(loc="left") for axes in run] == ["filters"] * 3


def test_a_curve_begins_at_the_uncut_model(tmp_path, monkeypatch):
    def begins(fractions, axis, whole=0.95):
        points = tuple(Point(f, f, SPREAD, SPREAD, 1 - f, 1 - f / 2) for f in fractions)
        (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", "filters", points, whole and Spread.of([whole]))], axes=axis)
        lines = [line.get_xydata().tolist() for line in axes.lines]
        assert len(lines) == 2
        assert lines[0] == lines[1]
        return lines[0]

    mean = pytest.approx(0.85)
    assert begins([0.5], (REMOVED,)) == [[0.0, 0.95], [0.5, mean]]
    assert begins([0.5], (MACS,)) == [[0.75, mean], [1.0, 0.95]]
    assert begins([0.0, 0.5], (REMOVED,)) == [[0.0, mean], [0.5, mean]]  # measured after the repair: not replaced
    assert begins([0.5], (REMOVED,), whole=None) == [[0.5, mean]]


def test_panels_say_when_there_is_nothing_to_see(tmp_path, monkeypatch):
    entries = Point(0.5, 0.5, SPREAD, SPREAD, 1.0, 1.0)
    filters = replace(entries, parameters=0.5, reconstructed=SPREAD)
    pairs = (("entries", entries), ("filters", filters))
    curves = [Curve(f"m{i}", name, (point,), SPREAD) for i in range(8) for name, point in pairs]
    seen = drawn(tmp_path, monkeypatch, curves, axes=(PARAMETERS,))
    texts = {axes.get_title(loc="left"): [text.get_text() for text in axes.texts] for axes in seen}
    assert texts["entries\nraw cut"] == texts["entries\nBatchNorm recalibrated"] == ["stays the same"]
    assert texts["entries\nreconstructed"] == ["not measured"]
    assert texts["filters\nreconstructed"] == []


@pytest.mark.parametrize(("worst", "bottom"), [(0.1, 0.0), (0.24, 0.0), (0.63, 0.62)])
def test_accuracy_begins_at_zero_unless_all_are_far_from_it(tmp_path, monkeypatch, worst, bottom):
    points = (Point(0.5, 0.5, Spread.of([0.9]), None, 0.5, 0.5), Point(0.7, 0.7, Spread.of([worst]), None, 0.3, 0.3))
    (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", "filters", points)])
    low, high = axes.get_ylim()
    assert low == pytest.approx(bottom)
    assert 0.9 < high < 1


def test_long_names_of_compressors_are_put_on_several_lines(tmp_path, monkeypatch):
    name = "both (score reconstruction, scheme spatial, search closest) by MACs"
    (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", name, (Point(0.5, 0.5, SPREAD, None, 0.5, 0.5),))])
    lines = axes.get_title(loc="left").split("\n")
    assert " ".join(lines) == name
    assert max(map(len, lines)) <= 44


def test_cuts_are_drawn_at_what_they_removed(tmp_path, monkeypatch):
    atoms = Point(0.7, 0.75, SPREAD, None, 0.2, 0.25)
    for point, place in ((atoms, 0.75), (replace(atoms, removed=0.4, macs=0.35, by_macs=True), 0.65)):
        (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", "filters", (point,))])
        assert axes.lines[0].get_xdata().tolist() == [pytest.approx(place)]


def test_a_point_over_some_of_the_seeds_is_hollow_and_outside_the_band(tmp_path, monkeypatch):
    whole = tuple(Point(f, f, SPREAD, None, 1 - f, 1 - f, seeds=2) for f in (0.3, 0.5))
    part = Point(0.7, 0.7, Spread.of([0.8]), None, 0.3, 0.3, seeds=2)
    (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", "filters", (*whole, part))])
    line, hollow = axes.lines
    assert line.get_xdata().tolist() == [0.3, 0.5, 0.7]
    assert (hollow.get_xdata().tolist(), hollow.get_markerfacecolor()) == ([0.7], "white")
    (band,) = axes.collections
    assert max(x for path in band.get_paths() for x, _ in path.vertices) == 0.5


def test_one_repair_can_be_drawn_alone(tmp_path, monkeypatch):
    point = Point(0.5, 0.5, SPREAD, Spread.of([0.3]), 0.5, 0.5)
    (axes,) = drawn(tmp_path, monkeypatch, [Curve("m", "filters", (point,))], repairs=(RECALIBRATED,))
    assert axes.get_title(loc="left") == "filters\nBatchNorm recalibrated"
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.3]]


def test_a_run_is_written_into_its_own_folder(make_run, cut):
    path = make_run("a", rows=[cut(0.0, 0.9), cut(0.5, 0.6)])
    (entry,) = study([read_record(path)])
    publish_run(path, entry)
    assert {"table.txt", "table.md", "plot.png"} <= {file.name for file in path.iterdir()}
    assert "| 50%   |   50.0% | 60.0 |            - |       50.0 |  50.0 |" in (path / "table.md").read_text()


def test_nothing_swept_cannot_be_drawn(make_run):
    path = make_run("a")
    with pytest.raises(ValueError, match="run pliant sweep first"):
        publish_run(path, study([read_record(path)])[0])
