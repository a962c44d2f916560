"""Two processes with half of the samples each are one process with all of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import sys
import torch
from torch import distributed as dist
sys.path.insert(0, {folder!r})
from chains import NETS
from pliant.bcd import BCDError, BlockCoordinateDescent, Course, Polish
from pliant.sets import SparseSet

rank, store, out, name = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
x, y = NETS[name].data(11)
mine = slice(0, 4) if rank == 0 else slice(4, None)
x, y = x[mine], y[mine]
bcd = BlockCoordinateDescent(NETS[name].model(), {{NETS[name].stages[0].layer: SparseSet(0.5)}})
progress = bcd.fit(x, y, sweeps=4, course=Course(tolerance=1e-9))
bcd.refit(x, y)
try:
    bcd.polish(x, y, Polish())
except BCDError as error:
    assert "found 2" in str(error)
else:
    raise AssertionError("a polish with two processes must be refused")
weights = [p.detach() for p in bcd.model.parameters()]
torch.save({{"weights": weights, "objective": progress.objective, "residual": progress.residual,
            "accuracy": bcd.accuracy(x, y)}}, out + str(rank))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptron", "images"])
def test_two_processes_are_one(tmp_path, name):
    from chains import NETS  # noqa: PLC0415

    from pliant.bcd import BlockCoordinateDescent, Course  # noqa: PLC0415
    from pliant.sets import SparseSet  # noqa: PLC0415

    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(folder=str(Path(__file__).parent)))
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    commands = [[sys.executable, str(script), str(rank), store, out, name] for rank in range(2)]
    workers = [subprocess.Popen(command) for command in commands]  # noqa: S603  (our own script)
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    found = [torch.load(out + str(rank), weights_only=True) for rank in range(2)]
    x, y = NETS[name].data(11)
    alone = BlockCoordinateDescent(NETS[name].model(), {NETS[name].stages[0].layer: SparseSet(0.5)})
    progress = alone.fit(x, y, sweeps=4, course=Course(tolerance=1e-9))
    alone.refit(x, y)
    for theirs in found:
        for one, other in zip(theirs["weights"], alone.model.parameters(), strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-8, atol=1e-9)
        assert theirs["objective"] == pytest.approx(progress.objective, rel=1e-9)
        assert theirs["accuracy"] == alone.accuracy(x, y)
        assert theirs["residual"] == pytest.approx(progress.residual, rel=1e-8)
