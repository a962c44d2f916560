"""The benchmarks run, and what they write and show is one and the same."""

import json

import pytest
import torch
from benchmarks.__main__ import PAGE, RESULTS, SECTIONS, main
from benchmarks.page import filled
from benchmarks.section import read, text_of
from benchmarks.targets import TARGETS, table

from benchmarks import tables

NAMES = [section.name for section in SECTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("results")
    main(["--toy", "--threads", "1", "-o", str(out)])
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_every_section_writes_finite_rows_and_where_they_were_measured(section, folder):
    result = read(folder, section.name, gpu=False)
    assert result is not None
    assert result.rows
    assert (result.level, result.machine.device, result.machine.threads) == ("toy", "cpu", 1)
    numbers = [value for row in result.rows for value in row.values() if isinstance(value, float)]
    assert numbers
    assert torch.tensor(numbers, dtype=torch.float64).isfinite().all()


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_no_column_of_a_table_is_empty(section, folder):
    lines = [line.split(" | ") for line in text_of(section, folder).splitlines() if line.startswith("| ")]
    for head, *cells in zip(*lines, strict=True):
        assert any(cell.strip("| ") != "-" for cell in cells), head


def test_a_run_of_some_sections_leaves_the_rows_of_the_others_alone(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    main(["--toy", "--only", "memory", "-o", str(tmp_path)])
    for name in set(NAMES) - {"memory"}:
        assert (tmp_path / f"{name}-cpu.json").read_bytes() == (folder / f"{name}-cpu.json").read_bytes()
    assert (tmp_path / "table.md").read_text().count("toy run") == len(NAMES)


def test_the_performance_page_says_what_the_rows_say():
    assert PAGE.read_text() == filled(PAGE, RESULTS, SECTIONS), "run: python -m benchmarks --tables"


def test_the_page_follows_the_rows_and_its_links_lead_to_the_results(folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    text = filled(page, folder, SECTIONS)
    assert "toy run" in text
    assert all(path.exists() for path in [tmp_path / link for link in _links(text) if "quality" in link])
    data = json.loads((folder / "memory-cpu.json").read_text())
    data["rows"][0]["state"] = 123.0
    (tmp_path / "memory-cpu.json").write_text(json.dumps(data))
    assert "123x" in filled(page, tmp_path, SECTIONS)


def test_tables_are_written_anew_from_the_rows_without_measuring(folder, tmp_path):
    (tmp_path / "memory-cpu.json").write_bytes((folder / "memory-cpu.json").read_bytes())
    main(["--tables", "-o", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory-cpu.json", "table.md"]
    assert text_of(SECTIONS[NAMES.index("memory")], folder) in (tmp_path / "table.md").read_text()


def test_every_block_of_the_page_has_a_section():
    assert sorted(tables.blocks(PAGE.read_text())) == sorted(["targets", *NAMES])


def test_a_page_without_the_block_is_refused():
    with pytest.raises(ValueError, match="one block bench:step, found 0"):
        tables.fill("text", "step", "body")


def test_targets_are_judged_by_full_runs_alone(folder, tmp_path):
    assert "yes" not in table(folder)
    for path in folder.glob("*.json"):
        data = json.loads(path.read_text()) | {"level": "full"}
        rows = [row | ({"net": "resnet-18"} if "net" in row else {}) for row in data["rows"]]
        (tmp_path / path.name).write_text(json.dumps(data | {"rows": rows}))
    assert all({"found", "met"} <= set(target.row(tmp_path)) for target in TARGETS)


def test_a_target_is_met_at_its_bound_and_missed_beyond_it(tmp_path):
    machine = {"cpu": "", "cores": 1, "threads": 1, "device": "cpu", "torch": "", "pliant": "", "date": "", "load": 0.0}
    for value, met in [(2.5, "yes"), (2.51, "**no**")]:
        rows = [{"net": "resnet-18", "optimizer": "SFW filters", "over_sgd": value}]
        data = {"section": "step", "level": "full", "machine": machine, "rows": rows}
        (tmp_path / "step-cpu.json").write_text(json.dumps(data))
        assert TARGETS[0].row(tmp_path)["met"] == met


@pytest.mark.parametrize("arguments", [["--only", "speed"], ["--device", "tpu"]])
def test_the_command_line_names_what_is_allowed(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "found" in capsys.readouterr().err


def _links(text):
    return [part.partition(")")[0] for part in text.split("](")[1:]]
