"""Full disks, read-only folders, files that may not grow: clear errors, nothing lost, and the run can go on."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest
from failing_disk import failing
from faulty_runs import assert_same, faulty, stop_after
from typer.testing import CliRunner

from pliant import atomic
from pliant.cli.main import app
from pliant.training.experiment import resume, train
from pliant.training.folder import RunFolderError


@contextmanager
def files_of_at_most(size):
    """Let the system refuse larger files, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_leftovers(run):
    return not [path for path in run.path.iterdir() if atomic.is_leftover(path)]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_the_run_can_go_on(folder, whole):
    run = folder("run")
    train(faulty(), run, stop=stop_after(3))
    before = run.checkpoint.read_bytes()
    with files_of_at_most(len(before) // 2), pytest.raises(RunFolderError, match="make room or set the permissions"):
        resume(run)
    assert run.checkpoint.read_bytes() == before
    assert no_leftovers(run)
    assert resume(run)
    assert_same(whole, run)


def test_appending_adds_all_or_nothing(tmp_path):
    path = tmp_path / "rows"
    atomic.append_text(path, "a whole row\n")
    with files_of_at_most(20), pytest.raises(OSError, match="large"):
        atomic.append_text(path, "another row\n")
    assert path.read_text() == "a whole row\n"
    atomic.append_text(path, "another row\n")
    assert path.read_text() == "a whole row\nanother row\n"


def survives_a_full_disk(run, whole, after):
    """Run on a disk that is full from an operation on; return whether it was asked for that many."""
    with failing(run.path, errno.ENOSPC, after=after) as count:
        if count_of(run, count) <= after:
            return False
    resume_or_train(run)
    assert_same(whole, run)
    return True


def count_of(run, count):
    with suppress(RunFolderError):
        resume_or_train(run)
        return 0
    return count[0]


def resume_or_train(run):
    return resume(run) if run.exists() else train(faulty(), run)


@pytest.mark.parametrize("after", [0, 1, 3, 8, 20])
def test_a_disk_that_fills_up_costs_nothing_but_time(folder, whole, after):
    assert survives_a_full_disk(folder("run"), whole, after)


@pytest.mark.slow
def test_at_whatever_operation_it_fills_up(folder, whole):
    after = 0
    while survives_a_full_disk(folder(f"run-{after}"), whole, after):
        after += 1
    assert after > 30


def test_a_folder_that_may_not_be_written_says_so(folder):
    run = folder("run")
    with failing(run.path.parent, errno.EACCES), pytest.raises(RunFolderError, match="Permission denied"):
        train(faulty(), run)
    assert not run.path.exists()


def test_the_command_ends_with_the_message_and_no_traceback(folder, tmp_path):
    run, file = folder("faulty"), tmp_path / "recipe.yaml"
    file.write_text(faulty().to_yaml())
    with failing(run.path, errno.ENOSPC, after=6):
        ended = CliRunner().invoke(app, ["train", str(file), "--runs", str(run.path.parent)])
    assert ended.exit_code == 2
    assert "No space left on device" in ended.stderr
    assert f"pliant train {run.path} --resume" in " ".join(ended.stderr.split())


FULL = """
import sys
from faulty_runs import faulty, stop_after
from pathlib import Path
from pliant.training.experiment import train, resume
from pliant.training.folder import RunFolder, RunFolderError
run = RunFolder(Path(sys.argv[1]) / "run")
train(faulty(), run, stop=stop_after(3))
filler = Path(sys.argv[1]) / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
try:
    resume(run)
except RunFolderError as error:
    assert "No space left" in str(error), error
else:
    raise AssertionError("the disk was not full")
filler.unlink()
assert resume(run)
print("fine")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small file system")
def test_a_real_disk_that_is_really_full(tmp_path):
    mount = f"mount -t tmpfs -o size=24m none {tmp_path} 2>/dev/null || exit 77; exec {sys.executable} - {tmp_path}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(  # noqa: S603
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],  # noqa: S607
        input=FULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if ended.returncode != 0 and "Traceback" not in ended.stderr:
        pytest.skip("this system does not let users mount")
    assert ended.stdout == "fine\n", ended.stderr
