"""Files are the old ones or the new ones, and what a crash leaves is told apart from what belongs there."""

import errno
import os

import pytest

from pliant import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_is_kept_under_another_name(tmp_path):
    path, keep = tmp_path / "a", tmp_path / "before"
    for content in (b"1", b"2", b"3"):
        atomic.write_bytes(path, content, keep=keep)
    assert (path.read_bytes(), keep.read_bytes()) == (b"3", b"2")
    assert names(tmp_path) == ["a", "before"]


def test_it_is_kept_where_there_are_no_hard_links_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    test_the_old_file_is_kept_under_another_name(tmp_path)


def test_two_names_of_one_file_as_a_crash_leaves_them_are_no_obstacle(tmp_path):
    path, keep = tmp_path / "a", tmp_path / "before"
    path.write_bytes(b"1")
    os.link(path, keep)
    atomic.write_bytes(path, b"2", keep=keep)
    assert (path.read_bytes(), keep.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["a", "before"]


def test_a_write_that_fails_changes_neither_of_the_two(tmp_path, monkeypatch):
    path, keep = tmp_path / "a", tmp_path / "before"
    for content in (b"1", b"2"):
        atomic.write_bytes(path, content, keep=keep)

    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        atomic.write_bytes(path, b"3", keep=keep)
    assert (path.read_bytes(), keep.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["a", "before"]


def test_only_what_a_crash_left_is_removed(tmp_path):
    for name in ("run.json", "run.json.17.tmp", "checkpoint.pt.17.old", "notes.tmp", "17.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.17.tmp").mkdir()
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["17.tmp", "folder.17.tmp", "notes.tmp", "run.json"]
