"""Checkpoints: sealed, the last good one kept, exact in the middle of an epoch."""

import io
import logging
import random
import zipfile

import pytest
import torch
from faulty_runs import assert_same, faulty, stop_after

from pliant.exclusive import InUseError, exclusive
from pliant.report.rows import MetricsRow, read_rows
from pliant.seal import SealError, check_seal, seal
from pliant.training.checkpoint import CheckpointError, previous_checkpoint
from pliant.training.experiment import resume, train
from pliant.training.folder import RunFolderError
from pliant.training.loop import DivergedError


def sealed(content=b"x" * 100, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a", content)
    return bytes(seal(buffer))


def die_after(steps):
    """Stop like a process that is killed: nothing is saved on the way out but what is saved at intervals."""
    stop = stop_after(steps)

    def die():
        if stop():
            raise MemoryError
        return False

    return die


def test_a_run_goes_on_from_the_middle_of_an_epoch(folder, whole):
    run = folder("run")
    with pytest.raises(MemoryError):
        train(faulty(), run, stop=die_after(8))
    assert torch.load(run.checkpoint, weights_only=True)["position"]["batch"] == 2
    assert torch.load(previous_checkpoint(run.checkpoint), weights_only=True)["position"]["batch"] == 0
    assert resume(run)
    assert_same(whole, run)
    assert not previous_checkpoint(run.checkpoint).exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04"], ids=["empty", "nonsense", "cut off"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(folder, whole, caplog, damage):
    run = folder("run")
    train(faulty(), run, stop=stop_after(8))
    run.checkpoint.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert resume(run)
    assert f"{run.checkpoint} cannot be read as a checkpoint" in caplog.text
    assert "going on from checkpoint.previous.pt" in caplog.text
    assert_same(whole, run)


def test_a_lost_checkpoint_is_replaced_by_the_one_before_it(folder, whole):
    run = folder("run")
    train(faulty(), run, stop=stop_after(8))
    run.checkpoint.unlink()
    assert resume(run)
    assert_same(whole, run)


def test_without_a_good_checkpoint_the_error_says_what_to_do_and_nothing_is_removed(folder):
    run = folder("run")
    train(faulty(), run, stop=stop_after(3))
    for path in (run.checkpoint, previous_checkpoint(run.checkpoint)):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum is another one"):
        resume(run)
    previous_checkpoint(run.checkpoint).unlink()
    with pytest.raises(CheckpointError, match="No other checkpoint is left: start the run again"):
        resume(run)
    assert run.checkpoint.exists()


def test_no_bit_can_change_without_notice():
    whole = sealed()
    check_seal(io.BytesIO(whole))
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(SealError):
            check_seal(io.BytesIO(damaged))


def test_no_piece_can_be_missing_or_added():
    whole, rng = sealed(), random.Random(0)  # noqa: S311
    for _ in range(200):
        place = rng.randrange(len(whole))
        for damaged in (whole[:place], whole[place + 1 :], whole + whole[place:]):
            with pytest.raises(SealError):
                check_seal(io.BytesIO(damaged))


def test_a_sealed_bomb_is_not_unpacked():
    with pytest.raises(SealError, match="is compressed"):
        check_seal(io.BytesIO(sealed(bytes(10**6), zipfile.ZIP_DEFLATED)))


def test_only_whole_archives_are_sealed_and_only_once():
    with pytest.raises(SealError, match="without a comment"):
        seal(io.BytesIO(b"no archive at all, but long enough"))
    with pytest.raises(SealError, match="without a comment"):
        seal(io.BytesIO(sealed()))


def test_torch_reads_a_sealed_file_as_any_other():
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3)}, buffer)
    assert torch.load(io.BytesIO(seal(buffer)), weights_only=True)["a"].tolist() == [0, 1, 2]


def test_a_tensor_that_claims_more_than_its_values_is_refused(folder):
    run = folder("run")
    train(faulty(), run, stop=stop_after(1))
    content = torch.load(run.checkpoint, weights_only=True)
    buffer = io.BytesIO()
    content["model"] = {name: torch.zeros(1).expand(2**40) for name in content["model"]}
    torch.save(content, buffer)
    run.checkpoint.write_bytes(seal(buffer))
    with pytest.raises(CheckpointError, match="larger than its values"):
        resume(run)


def test_the_checkpoint_of_another_model_says_so(folder):
    one, other = folder("one"), folder("other")
    train(faulty(), one, stop=stop_after(1))
    train(faulty("model.name=lenet-5"), other, stop=stop_after(1))
    one.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match="is a checkpoint of something else"):
        resume(one)


def test_a_loss_that_is_not_a_number_leaves_the_last_good_checkpoint(folder):
    run = folder("run")
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(faulty("method={type: sgd, lr: 1e20, schedule: constant}", "train.checkpoint_every=1"), run)
    content = torch.load(run.checkpoint, weights_only=True)
    assert content["position"]["loss"].isfinite()
    assert content["position"]["batch"] < 5
    assert run.read_info().status == "diverged"


def test_interrupting_a_run_that_diverged_keeps_the_last_good_checkpoint_too(folder):
    run = folder("run")
    recipe = faulty("method={type: sgd, lr: 1e20, schedule: constant}", "train.checkpoint_every=null")
    with pytest.raises(DivergedError):
        train(recipe, run, stop=stop_after(4))
    assert not run.checkpoint.exists()


def test_two_processes_cannot_train_in_one_folder(folder, whole):
    run = folder("run")
    train(faulty(), run, stop=stop_after(1))
    with exclusive(run.path):
        with pytest.raises(InUseError, match="another process is at work"):
            resume(run)
        with pytest.raises(InUseError, match="another process is at work"):
            train(faulty(), run, overwrite=True)
    assert resume(run)
    assert_same(whole, run)


def test_what_a_killed_process_left_is_no_obstacle_and_goes(folder, whole):
    run = folder("run")
    run.path.mkdir(parents=True)
    (run.path / "recipe.yaml.123.tmp").write_text("name: half")
    train(faulty(), run, stop=stop_after(3))
    (run.path / "checkpoint.pt.123.tmp").write_bytes(b"half")
    run.info.unlink()  # killed before it was written
    assert resume(run)
    assert_same(whole, run)
    assert not [path for path in run.path.iterdir() if path.suffix in (".tmp", ".old")]


def test_rows_that_are_missing_are_named(folder, caplog):
    run = folder("run")
    train(faulty(), run, stop=stop_after(7))
    run.metrics.unlink()
    with caplog.at_level(logging.WARNING):
        assert resume(run)
    assert "lacks the rows of epochs 1" in caplog.text
    assert [row.epoch for row in read_rows(run.metrics, MetricsRow)] == [2]


def test_a_damaged_run_file_says_so(folder):
    run = folder("run")
    train(faulty(), run, stop=stop_after(1))
    for damage in (
        '{"seed": 1, "status": "done"}',
        '{"seed": 1, "resumed": "x"}',
        '{"seed": 1, "reason": 2}',
        "[" * 100_000,
        "[]",
    ):
        run.info.write_text(damage)
        with pytest.raises(RunFolderError, match="no run folder that can be read"):
            resume(run)
