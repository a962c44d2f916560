import logging
from dataclasses import replace

import pytest

from pliant.report.rows import MetricsRow, RowError, SweepRow, append_row, read_rows, repair, write_rows

METRICS = MetricsRow(epoch=1, train_loss=0.5, train_accuracy=0.8, eval_accuracy=0.75, lr=0.1, seconds=1.5)
SWEEP = SweepRow(
    compressor="filters",
    fraction=0.5,
    removed=0.48,
    raw=0.9,
    recalibrated=None,
    parameters=50,
    macs=500,
    dense_parameters=100,
    dense_macs=1000,
)


@pytest.mark.parametrize("row", [METRICS, SWEEP, replace(METRICS, shrinkage=3.0, kept=0.05)])
def test_rows_come_back_as_they_were(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    append_row(path, row)
    append_row(path, row)
    assert read_rows(path, type(row)) == [row, row]
    write_rows(path, [row])
    assert read_rows(path, type(row)) == [row]


def test_a_missing_file_holds_no_rows(tmp_path):
    assert read_rows(tmp_path / "none", SweepRow) == []


def test_a_last_line_that_was_cut_off_is_reported_and_left_out(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    append_row(path, SWEEP)
    whole = path.read_bytes()
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:length])
        with caplog.at_level(logging.WARNING):
            assert read_rows(path, SweepRow) == [SWEEP]
        assert "cut off" in caplog.text
        caplog.clear()


def test_after_a_repair_rows_can_be_appended_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, SWEEP)
    with path.open("a") as file:
        file.write('{"compr')
    assert repair(path, SweepRow) == [SWEEP]
    append_row(path, SWEEP)
    assert read_rows(path, SweepRow) == [SWEEP, SWEEP]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"epoch": 1}'])
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    append_row(path, METRICS)
    path.write_text(f"{line}\n" + path.read_text())
    with pytest.raises(RowError, match="line 1 is not a MetricsRow"):
        read_rows(path, MetricsRow)


def test_keys_of_a_later_version_are_ignored(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, METRICS)
    path.write_text(path.read_text().replace("{", '{"new": 1, '))
    assert read_rows(path, MetricsRow) == [METRICS]


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_row(tmp_path / "rows.jsonl", replace(METRICS, train_loss=float("nan")))
