"""The script of the language model runs from texts to rows and exported files, on texts of its own."""

import io
import json
import runpy
import tarfile
from pathlib import Path

import pytest
import torch

from pliant.compress import read_cut

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "shakespeare.py"
TEXT = b"To be, or not to be, that is the question. Words, words, words.\n" * 40
SMALL = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "16", "--batch", "4", "--steps", "8"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "plays.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in ("hamlet_gut.txt", "lear_gut.txt", "hamlet_gut_f.txt", "sonnets_gut.txt", "../escape_gut.txt"):
            member = tarfile.TarInfo(f"texts/{name}")
            member.size = len(TEXT)
            file.addfile(member, io.BytesIO(TEXT))
    return path


def test_plays_are_read_from_the_archive_without_unpacking_it(script, archive, tmp_path):
    learn, judge = script["read_plays"](archive)
    assert len(judge) == len(TEXT)  # the first of three plays; the folio and the poems are left out
    assert len(learn) == 2 * len(TEXT) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["plays.tar.gz"]
    with pytest.raises(ValueError, match="at least two plays"):
        script["read_plays"](tmp_path)


@pytest.mark.parametrize("method", ["adamw", "sfw-rank", "sfw-heads"])
def test_a_method_gives_rows_and_files_that_load(script, archive, tmp_path, method):
    out = tmp_path / "out"
    rows = script["main"](["--texts", str(archive), "--out", str(out), "--methods", method, *SMALL])
    assert rows == [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    for kind in {row["removes"] for row in rows}:
        assert len([row for row in rows if row["removes"] == kind]) == 10
        assert read_cut(out / f"{method}-{kind}").removed_fraction > 0
        exported = torch.export.load(out / f"{method}-{kind}.pt2").module()
        assert exported(torch.zeros(1, 16, dtype=torch.long)).shape == (1, 16, 128)
    assert all(1 < row["raw"] < 1000 for row in rows)


def test_methods_see_the_same_batches_and_begin_with_the_same_weights(script, archive, capsys):
    learn, _ = script["read_plays"](archive)
    sizes = script["Sizes"](width=16, layers=1, heads=2, context=16, batch=4, steps=1)
    losses = []
    for method in ("adamw", "sfw-rank", "sfw-heads"):
        given = _Given(lr=1e-3, k=0.5, scale=10.0, total=1.0)
        script["train"](method, learn, sizes, given)
        losses.append(capsys.readouterr().out.split("loss ")[1].split()[0])
    assert len(set(losses)) == 1


class _Given:
    def __init__(self, **values):
        self.__dict__.update(values)
