"""Kill -9 training runs, go on with them, and compare what they end with to a run that was left alone.

    python tests/faults/killed_runs.py --kills 100       at random moments
    python tests/faults/killed_runs.py --operations      before every single operation on a file of the run

Every run is a process of its own, forked from one that has imported everything.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pliant.report.rows import MetricsRow, read_rows
from pliant.training.experiment import resume, train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe

RECIPE = """
name: killed
seed: 3
data: {name: digits, batch_size: 256}
model: {name: 'faulty_net:NoisyNet'}
train: {epochs: 3, device: cpu, threads: 1, checkpoint_every: 2}
method: {type: sfw, plan: low-rank, step: {type: shrinkage, total: 1.0}}
"""


def recipe():
    """Return the recipe of all runs: five batches an epoch, three epochs, a checkpoint every two batches."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "killed.yaml"
        file.write_text(RECIPE)
        return Recipe.from_yaml(file)


def start(folder):
    """Begin the run of a folder, or go on with it, in a new process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        go_on(folder)
        code = 0
    except BaseException:  # noqa: BLE001  (nothing of the child may get into the parent's code)
        traceback.print_exc()
    finally:
        os._exit(code)


def go_on(folder):
    """Resume the run if there is one, as its user would, otherwise begin it."""
    if folder.exists():
        resume(folder)
    else:
        train(recipe(), folder)


def is_finished(folder):
    """Tell whether a run says that it is finished."""
    return folder.info.exists() and folder.read_info().status == "finished"


def end_of(child):
    """Wait for a process; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass(frozen=True)
class Outcome:
    """All that two runs of one recipe must have in common."""

    weights: dict
    rows: list
    files: list
    status: str

    @classmethod
    def of(cls, folder):
        """Read the outcome of a finished run."""
        rows = [replace(row, seconds=0.0) for row in read_rows(folder.metrics, MetricsRow)]
        files = sorted(path.name for path in folder.path.iterdir())
        return cls(load_file(folder.weights), rows, files, folder.read_info().status)

    def check_same(self, other):
        """Raise unless the other run ended in the same way, to the last bit."""
        if (self.rows, self.status) != (other.rows, other.status):
            raise RuntimeError(f"rows or status differ: {self.rows} and {other.rows}")
        if not set(other.files) <= {*self.files, "checkpoint.pt", "checkpoint.previous.pt"}:
            raise RuntimeError(f"files differ: {self.files} and {other.files}")
        for name in self.weights.keys() | other.weights.keys():
            if not torch.equal(self.weights[name], other.weights[name]):
                raise RuntimeError(f"{name} differs")


class Victims:
    """Makes runs to be killed, beside one that is left alone.

    Args:
        base: folder of all runs.
        seed: of the moments.
    """

    def __init__(self, base, seed=0):
        self.base, self.random, self.made, self.resumed = base, random.Random(seed), 0, 0  # noqa: S311
        go_on(RunFolder(base / "warm"))  # so that nothing is left to import in a forked process
        whole = RunFolder(base / "whole")
        before = time.monotonic()
        if end_of(start(whole)) != 0:
            raise RuntimeError("the run that nobody kills failed")
        self.duration = time.monotonic() - before
        self.whole = Outcome.of(whole)

    def new(self):
        """Return the folder of a run that has not begun."""
        self.made += 1
        return RunFolder(self.base / f"run-{self.made}")

    def kill_once(self, folder):
        """Let a run go on for a random time and kill it; return whether it was still alive."""
        if is_finished(folder):  # killed between its last word and its end
            return False
        child = start(folder)
        time.sleep(self.random.uniform(0, self.duration))
        os.kill(child, signal.SIGKILL)
        return self._judge(end_of(child))

    def kill_before_operation(self, folder, number):
        """Let a run go on until just before one operation on its files; return whether it got there."""
        return self._judge(end_of(start_doomed(folder, number)))

    def finish(self, folder):
        """Go on with a run to its end and compare it with the one that was left alone."""
        if not is_finished(folder):
            self.resumed += 1
            if end_of(start(folder)) != 0:
                raise RuntimeError(f"{folder.path} could not be resumed")
        self.whole.check_same(Outcome.of(folder))

    @staticmethod
    def _judge(code):
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"a run ended with {code}")
        return code != 0


def start_doomed(folder, number):
    """Begin or resume a run that kills itself just before its operation of this number on the folder's files."""
    child = os.fork()
    if child:
        return child
    left = [number]

    def count(event, args):
        if event in OPERATIONS and any(isinstance(arg, str | os.PathLike) and inside in str(arg) for arg in args):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    inside = str(folder.path)
    sys.addaudithook(count)
    code = 1
    try:
        go_on(folder)
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(code)


OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.rmdir"})


def kill_at_random(victims, kills):
    """Kill runs until there were so many kills, some runs more than once; finish and check each."""
    done = 0
    while done < kills:
        folder = victims.new()
        while done < kills and victims.kill_once(folder):
            done += 1
            if victims.random.random() < 0.5:
                break
        victims.finish(folder)
    return done


def kill_before_operations(victims, step=1):
    """Kill a run before each `step`-th operation on a file, for every such operation; finish and check each."""
    number = 1
    while True:
        folder = victims.new()
        alive = victims.kill_before_operation(folder, number)
        victims.finish(folder)
        if not alive:
            return number - 1
        number += step


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--operations", action="store_true")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as base:
        victims = Victims(Path(base), given.seed)
        began = time.monotonic()
        done = kill_at_random(victims, given.kills) if given.kills else 0
        operations = kill_before_operations(victims, given.step) if given.operations else 0
        seconds = time.monotonic() - began
    print(  # noqa: T201
        f"{done} kills at random moments, {operations} operations, {victims.made} runs, {victims.resumed} resumed, "
        f"all as the run of {victims.duration:.2f} s that nobody killed; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
