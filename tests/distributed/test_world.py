"""Launches, shares of batches, work on one rank and work spread over ranks."""

import copy
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_ranks import on_ranks
from torch import nn

from pliant.distributed import Launch, LaunchError, RankError, World, joined, share

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_a_launch_is_read_from_the_environment():
    assert Launch.found(COMPLETE) == Launch(1, 2, 1)
    assert Launch.found({"PATH": "x"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "2"}, "from 0 to WORLD_SIZE - 1, found 2 of 2"),
        ({"RANK": "one"}, "RANK must be a number, found 'one'"),
        ({"MASTER_PORT": None}, "not MASTER_PORT"),
        ({"RANK": None, "LOCAL_RANK": None}, "not RANK, LOCAL_RANK"),
    ],
)
def test_half_a_launch_is_refused(change, message):
    known = {name: value for name, value in (COMPLETE | change).items() if value is not None}
    with pytest.raises(LaunchError, match=message):
        Launch.found(known)


def test_alone_everything_is_done_here_and_now():
    world = World()
    model = nn.Linear(2, 2)
    with joined() as found:
        assert found == world
    assert world.is_main
    assert world.wrap(model) is model
    assert world.spread([3, 1, 2], lambda x: 2 * x) == [6, 2, 4]
    assert world.on_main(lambda: "done") == "done"
    assert world.any(True)
    assert not world.any(False)
    assert torch.equal(world.total(torch.ones(2)), torch.ones(2))
    with pytest.raises(ZeroDivisionError):
        world.on_main(lambda: 1 / 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_shares_are_the_batch_in_order_and_average_to_its_mean_loss(batch, size):
    x, y = torch.arange(batch), torch.arange(batch) + 100
    shares = [share(x, y, rank=rank, size=size) for rank in range(size)]
    assert torch.equal(torch.cat([part.x[: part.count] for part in shares]), x)
    assert torch.equal(torch.cat([part.y[: part.count] for part in shares]), y)
    assert all(len(part.x) >= 1 for part in shares)
    losses = torch.rand(batch, dtype=torch.float64)
    average = sum(part.weight * losses[part.x].mean() for part in shares) / size
    torch.testing.assert_close(average, losses.mean())


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1, found 2"):
        share(torch.ones(3), torch.ones(3), rank=2, size=2)
    with pytest.raises(ValueError, match="found 0 and 0"):
        share(torch.ones(0), torch.ones(0), rank=0, size=2)


def outcome_of(action):
    try:
        return action()
    except (RankError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def together(folder):
    world = World.current()
    told = Path(folder) / "told"
    first = world.on_main(lambda: told.write_text(f"by {world.rank}"))
    failed = outcome_of(lambda: world.on_main(lambda: {}["no folder"]))
    spread = world.spread(list(range(5)), lambda i: (i, world.rank))
    broken = outcome_of(lambda: world.spread([0, 1, 2], lambda i: {0: "fine", 2: "fine"}[i]))
    stop = (world.any(world.rank == 1), world.any(False))
    total = world.total(torch.tensor([1.0, world.rank]))
    return first, failed, spread, broken, stop, total.tolist(), told.read_text()


def test_ranks_do_things_once_and_know_of_each_others_failures(tmp_path):
    results = on_ranks(2, together, str(tmp_path))
    for rank, (first, failed, spread, broken, stop, total, told) in enumerate(results):
        assert first == len("by 0")
        assert told == "by 0"
        assert failed == (
            "KeyError: 'no folder'" if rank == 0 else "RankError: rank 0 failed with KeyError: 'no folder'"
        )
        assert spread == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
        assert broken == ("KeyError: 1" if rank == 1 else "RankError: rank 1 failed with KeyError: 1")
        assert stop == (True, False)
        assert total == [2.0, 1.0]


def uneven(batch):
    """Return the gradient of a batch of a size that the ranks cannot share evenly."""
    world = World.current()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    called = world.wrap(model)
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(batch, 3, generator=draws, dtype=torch.float64), torch.randint(2, (batch,), generator=draws)
    part = world.share(x, y)
    (part.weight * nn.functional.cross_entropy(called(part.x), part.y)).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_uneven_shares_have_the_gradient_of_the_whole_batch(batch):
    expected = copy.deepcopy(uneven(batch))
    for found in on_ranks(3, uneven, batch):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)


SCRIPT = """
import sys, torch
from pliant.distributed import joined
with joined() as world:
    print("rank", world.rank, "of", world.size, "sum", int(world.total(torch.ones(()))), flush=True)
    if "fail" in sys.argv:
        world.on_main(lambda: 1 / 0)
assert not torch.distributed.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize("fail", [False, True])
def test_torchrun_starts_a_world_and_a_failing_rank_ends_it(tmp_path, fail):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    started = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k not in COMPLETE} | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(  # noqa: S603  (our own script)
        [*command, *(["fail"] if fail else [])],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    assert (result.returncode != 0) == fail, result.stderr
    assert "rank 0 of 2 sum 2" in result.stdout
    assert "rank 1 of 2 sum 2" in result.stdout
    assert "ZeroDivisionError" in result.stderr or not fail
    assert time.monotonic() - started < 200


def test_a_rank_whose_launcher_is_gone_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr("pliant.distributed.launch.MEETING", timedelta(seconds=1))
    for name, value in (COMPLETE | {"MASTER_PORT": str(_unused_port())}).items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?i)timed? ?out|connect"), joined():
        pass
    assert time.monotonic() - started < 60
    assert not dist.is_initialized()


def _unused_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def test_a_process_group_of_the_callers_is_used_and_left(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with joined() as world:
            assert world == World(0, 1, 0)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
