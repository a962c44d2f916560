"""The study of the language model runs from texts to rows, table and picture, on texts of its own."""

import io
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TEXT = b"To be, or not to be, that is the question. Words, words, words.\n" * 40
STUDY = """
sizes: {width: 16, layers: 1, heads: 2, context: 16, batch: 4, steps: 8}
trials:
  adamw: [{lr: 1e-3, weight_decay: 0.1}, {lr: 1e-9, weight_decay: 0.1}]
  sfw-rank: [{lr: 1e-9, k: 0.5, scale: 1.0, total: 1.0}, {lr: 1e-3, k: 0.5, scale: 3.0, total: 1.0}]
trial_seed: 0
judged_at: [0.0, 0.5]
seeds: [1, 2]
"""
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import shakespeare  # noqa: PLC0415

    return shakespeare


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "plays.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        plays = ("hamlet_gut.txt", "lear_gut.txt", "macbeth_gut.txt", "../escape_gut.txt")
        for name in (*plays, "hamlet_gut_f.txt", "sonnets_gut.txt"):
            member = tarfile.TarInfo(f"texts/{name}")
            member.size = len(TEXT)
            file.addfile(member, io.BytesIO(TEXT))
    return path


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_plays_are_read_from_the_archive_without_unpacking_it(script, archive, tmp_path):
    texts = script.read_plays(archive)
    # One of four plays to test by, one to choose by; the folio and the poems are left out.
    assert [len(part) for part in texts] == [2 * len(TEXT) + 1, len(TEXT), len(TEXT)]
    assert [path.name for path in tmp_path.iterdir()] == ["plays.tar.gz"]
    with pytest.raises(ValueError, match="at least three plays"):
        script.read_plays(tmp_path)


def test_a_study_ends_with_rows_table_and_picture_and_makes_no_run_twice(script, archive, study, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--texts", str(archive), "--study", str(study), "--out", str(out)]
    rows = script.main(arguments)
    assert rows == [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(rows[i]["method"], rows[i]["seed"]) for i in range(0, 40, 10)] == [
        ("adamw", 1),
        ("sfw-rank", 1),
        ("adamw", 2),
        ("sfw-rank", 2),
    ]
    assert all(row["settings"]["lr"] == 1e-3 for row in rows)  # the others learn nothing
    assert all(1 < row["perplexity"] < 1000 for row in rows)
    assert (out / "removed.png").stat().st_size > 1000
    table = (out / "table.md").read_text()
    assert table.count("| yes |") == 2
    assert "unigrams" in table

    lines = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    (out / "rows.jsonl").write_text("".join(lines[:30]))  # as if it had been stopped before the last run
    made, train = [], script.train
    monkeypatch.setattr(script, "train", lambda run, learn: made.append(run) or train(run, learn))
    again = script.main(arguments)
    assert [(run.method, run.seed) for run in made] == [("sfw-rank", 2)]
    assert [{**row, "cpu_seconds": 0} for row in again] == [{**row, "cpu_seconds": 0} for row in rows]
    assert (out / "table.md").read_text() == table


def test_methods_see_the_same_batches_and_begin_with_the_same_weights(script, archive, study, capsys):
    learn = script.read_plays(archive).learn
    trials = script.Study.read(study).trials
    for run in (trials[0], trials[3]):
        script.train(replace(run, sizes=replace(run.sizes, steps=1)), learn)
    losses = [line.split("loss ")[1].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 2
    assert len(set(losses)) == 1


def test_unequal_numbers_of_trials_are_refused(script, study):
    study.write_text(STUDY.replace(", {lr: 1e-9, weight_decay: 0.1}]", "]"))
    with pytest.raises(ValueError, match="equally many trials"):
        script.Study.read(study)


def test_the_published_study_can_be_read(script):
    study = script.Study.read(ROOT / "recipes" / "shakespeare" / "study.yaml")
    assert len(study.seeds) >= 3
    assert len({run.sizes for run in study.trials}) == 1


def test_counted_perplexities_are_those_of_the_counts(script):
    learn = torch.tensor([0, 1] * 500)
    found = script.counted(learn, torch.tensor([[0, 1, 0], [1, 0, 1]]))
    assert found["bigrams"] == pytest.approx(math.sqrt((627 / 500) * (626 / 500)), rel=2e-3)
    assert found["unigrams"] == pytest.approx(1128 / 501)  # of two bytes of equal frequency, and 126 that never came
