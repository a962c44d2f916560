"""Block coordinate descent against gradients, at the same number of parameters and the same wall-clock.

    python scripts/bcd_study.py digits fashion-mnist [--seeds 3] [--network mlp-5] [--runs runs] [-o results/bcd]
    python scripts/bcd_study.py digits --quick        # a few sweeps each: does all of it run?

For every network and every share of the weights' entries: a descent into tensor trains (and one into a tenth of the
entries), and SGD on layers of the same trains, with as many epochs as fit into the seconds that the descent took. A
pace is measured first, by a run of one epoch. On the first network SGD, SFW for low rank and Alvarez and Salzmann train
once for as long, and are then cut to the same number of parameters. Finished runs are not run again, so that the
command can be interrupted and repeated. Writes rows.jsonl and table.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from torch import nn

from pliant import atomic
from pliant.compress import Compressor, LowRank, Params, TensorTrain, compress
from pliant.metrics import accuracy
from pliant.report.rows import MetricsRow, read_rows
from pliant.sets import WeightSet
from pliant.tensor_train import Paired
from pliant.training.experiment import Run, complete, load_run
from pliant.training.folder import RunFolder
from pliant.training.methods import BCDMethod, TrainsMethod
from pliant.training.methods.weight_sets import chosen
from pliant.training.recipe import Recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "bcd" / "study"
SHARES = (0.5, 0.25, 0.15, 0.05)
MAIN = 0.1  # the share whose descent says how long dense training may take
LONG = 0.25  # the share for what is tried once: many sweeps, and the options
POLISH = "{epochs: 1, lr: 0.003, project_every: 20}"
OPTIONS: Mapping[str, tuple[str, ...]] = {  # one change each, at `LONG` of the entries
    "constant tau": ("method.growth=null", "method.tau=1.0"),
    "hard mode": ("method.growth=null", "method.tau=1.0", "method.mode=hard"),
    "hard last": ("method.hard_last=10",),
    "synchronised": ("method.synchronise_every=5",),
    "no refit": ("method.refit=null",),
    "polished": (f"method.polish={POLISH}",),
}
CUT = ("sgd", "sfw-low-rank", "alvarez-salzmann")
CUTTERS: Mapping[str, Compressor] = {"low rank": LowRank(), "tensor trains": TensorTrain(reading=Paired())}


@dataclass(frozen=True)
class Network:
    """A model of the study.

    Args:
        name: in rows and folders.
        model: the section of the recipe, as YAML.
        shares: of the entries that trains may have, beside `MAIN`.
        seeds: how many of the seeds run; the first `whole` of them with everything, all others with `MAIN` alone.
        whole: see there.
        more: whether everything includes a sparse set, a polish, and the methods that are cut afterwards.
        longer: everything includes a descent to `LONG` of the entries in so many times the sweeps, over which tau
            grows by as much as over the usual ones; 0 for none.
        options: everything includes a descent for each of `OPTIONS`.
    """

    name: str
    model: str
    shares: tuple[float, ...] = ()
    seeds: int = 3
    whole: int = 1
    more: bool = False
    longer: int = 0
    options: bool = False


def perceptron(*widths: int) -> str:
    """Return a model of linear layers."""
    return f"{{name: perceptron, args: {{widths: {list(widths)}}}}}"


def convolutional(channels: Sequence[int], widths: Sequence[int]) -> str:
    """Return a model of convolutions, which stay dense, and linear layers."""
    return f"{{name: cnn-strided, args: {{channels: {list(channels)}, widths: {list(widths)}}}}}"


STUDIES: Mapping[str, tuple[Network, ...]] = {
    "digits": (
        Network("mlp-4", perceptron(128, 128, 128, 64), SHARES, whole=3, more=True, longer=20, options=True),
        Network("mlp-5", perceptron(128, 128, 128, 64, 64), (0.25,), whole=3),
        Network("cnn", convolutional((8, 16), (128, 64)), (0.25,), whole=3),
    ),
    "fashion-mnist": (
        Network("mlp-4", perceptron(256, 256, 256, 128), SHARES, more=True),
        Network("mlp-5", perceptron(256, 256, 256, 128, 128), seeds=1),
        Network("cnn", convolutional((8, 16), (256, 128)), seeds=1),
    ),
    # The sizes of the published experiments: an hour of one core and more for each of the four runs.
    "fashion-mnist-published": (
        Network("mlp-4-1024", perceptron(1024, 1024, 1024, 512), seeds=1),
        Network("mlp-5-1024", perceptron(1024, 1024, 1024, 512, 512), seeds=1),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A compressed model. `seconds` are those of its whole run; `cut` is how it was compressed if training did not."""

    data: str
    network: str
    method: str
    share: float
    seed: int
    accuracy: float
    parameters: int
    dense_parameters: int
    seconds: float
    epochs: int
    cut: str | None = None

    @property
    def run(self) -> tuple[str, str, str, float, int]:
        """What tells it from the rows of other runs."""
        return self.data, self.network, self.method, self.share, self.seed


@dataclass(frozen=True)
class Task:
    """A training run: a recipe of the study, what it is called, and what is changed in it."""

    network: Network
    method: str
    seed: int
    label: str
    given: tuple[str, ...] = ()

    def lasting(self, epochs: int, label: str | None = None) -> Task:
        """Return the task with another number of epochs."""
        return replace(self, label=label or self.label, given=(*self.given, f"train.epochs={epochs}"))


@dataclass
class Study:
    """Runs the tasks of a data set and collects their rows."""

    data: str
    runs: Path
    given: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def run(self, network: Network, seed: int) -> None:
        """Run everything of one network and one seed."""
        main = self.pair(network, MAIN, seed)
        if seed >= network.whole:
            return
        for share in network.shares:
            self.pair(network, share, seed)
        if network.more:
            self.descend(network, "bcd-sparse", MAIN, seed, f"{{type: sparse, k: {MAIN}}}")
            self.descend(network, "bcd-polish", MAIN, seed, trains(MAIN), f"method.polish={POLISH}")
            if network.longer:
                self.descend(network, f"bcd-{network.longer}x", LONG, seed, trains(LONG), *self.slower(network.longer))
            for name, given in OPTIONS.items() if network.options else ():
                self.descend(network, f"bcd-{name.replace(' ', '-')}", LONG, seed, trains(LONG), *given)
            for method in CUT:
                self.cut(Task(network, method, seed, f"{method}-{seed}"), main.seconds)

    def pair(self, network: Network, share: float, seed: int) -> Row:
        """Run a descent, and SGD on the same trains for as long."""
        row = self.descend(network, "bcd", share, seed, trains(share))
        task = Task(network, "sgd-trains", seed, f"sgd-trains-{share}-{seed}", (sets(trains(share)),))
        self.note(self.fit(task.lasting(self.epochs(task, row.seconds))), task, "sgd-trains", share)
        return row

    def slower(self, times: int) -> list[str]:
        """Return the overrides of a descent with so many times the sweeps."""
        recipe = Recipe.from_yaml(RECIPES / f"{self.data}-bcd.yaml", list(self.given))
        growth, epochs = recipe.method.growth, times * recipe.train.epochs
        return [
            f"train.epochs={epochs}",
            f"method.growth={{tau: {growth.tau ** (1 / times)}, every: {growth.every}, times: {times * growth.times}}}",
        ]

    def descend(self, network: Network, name: str, share: float, seed: int, kind: str, *given: str) -> Row:
        """Run a descent."""
        task = Task(network, "bcd", seed, f"{name}-{share}-{seed}", (sets(kind), *self.given, *given))
        return self.note(self.fit(task), task, name, share)

    def cut(self, task: Task, seconds: float) -> None:
        """Train densely for so long, and cut to the parameters of every share."""
        run = self.fit(task.lasting(self.epochs(task, seconds)))
        dense = self.note(run, task, task.method, 1.0, "none")
        budgets = {
            row.share: row.parameters for row in self.rows if row.method == "bcd" and row.network == dense.network
        }
        for share, budget in budgets.items():
            for name, compressor in CUTTERS.items():
                model = compress(run.model, compressor, budget=Params(budget), example=run.data.example()).model
                reached = accuracy(model, run.data.eval_batches())
                self.rows.append(replace(dense, share=share, cut=name, accuracy=reached, parameters=parameters(model)))

    def epochs(self, task: Task, seconds: float) -> int:
        """Return how many epochs of a task take so many seconds, by a run of two."""
        label = task.label.rpartition("-")[0]
        pace = self.fit(replace(task, seed=0).lasting(2, f"pace-{label}"))
        first, second = (row.seconds for row in read_rows(pace.folder.metrics, MetricsRow))
        return max(1, 1 + round((seconds - first) / (second - first)))

    def fit(self, task: Task) -> Run:
        """Train by a recipe, go on with a run that was interrupted, or load the one that is there."""
        data, name = self.data.removesuffix("-published"), f"bcd-study/{self.data}/{task.network.name}/{task.label}"
        given = [f"name={name}", f"seed={task.seed}", f"model={task.network.model}", *task.given]
        recipe, folder = Recipe.from_yaml(RECIPES / f"{data}-{task.method}.yaml", given), RunFolder(self.runs / name)
        complete(recipe, folder)
        return load_run(folder)

    def note(self, run: Run, task: Task, method: str, share: float, cut: str | None = None) -> Row:
        """Add the row of a run as it is."""
        section = run.recipe.method
        kept = chosen(section.sets, run.model) if isinstance(section, BCDMethod | TrainsMethod) else {}
        row = Row(
            data=self.data,
            network=task.network.name,
            method=method,
            share=share,
            seed=task.seed,
            accuracy=read_rows(run.folder.metrics, MetricsRow)[-1].eval_accuracy,
            parameters=parameters(run.model, kept),
            dense_parameters=parameters(run.model),
            seconds=run.folder.read_info().seconds,
            epochs=run.recipe.train.epochs,
            cut=cut,
        )
        self.rows.append(row)
        return row


def trains(share: float) -> str:
    """Return the set of trains with a share of the entries, as recipes have it."""
    return f"{{type: tensor-train, entries: {share}}}"


def sets(kind: str) -> str:
    """Return the override that gives a set to all hidden linear layers."""
    return f"method.sets=[{{layers: 'hidden.*', set: {kind}}}, {{layers: '*', set: null}}]"


def parameters(model: nn.Module, kept: Mapping[str, WeightSet] | None = None) -> int:
    """Return the numbers that a model stores, weights with a set as that set's points."""
    total = sum(parameter.numel() for parameter in model.parameters())
    for name, one in (kept or {}).items():
        shape = model.get_submodule(name).get_parameter("weight").shape
        total += one.size(shape) - shape.numel()
    return total


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table for each network, as Markdown: test accuracy, mean and half the range over the seeds."""
    for data, network in dict.fromkeys((row.data, row.network) for row in rows):
        mine = [row for row in rows if (row.data, row.network) == (data, network)]
        shares = sorted({row.share for row in mine}, reverse=True)
        yield f"### {data}, {network}\n"
        yield f"| method | cut | seconds | {' | '.join(column(mine, share) for share in shares)} |"
        yield "|---|---|---|" + "---|" * len(shares)
        for method, cut in dict.fromkeys((row.method, row.cut) for row in mine):
            line = [row for row in mine if (row.method, row.cut) == (method, cut)]
            cells = [cell([100 * row.accuracy for row in line if row.share == share]) for share in shares]
            seconds = fmean(row.seconds for row in line)
            yield f"| {method} | {cut or ''} | {seconds:.0f} | {' | '.join(cells)} |"
        yield ""


def column(rows: Sequence[Row], share: float) -> str:
    """Return the head of a share: how many of the model's parameters are left."""
    found = [row.parameters / row.dense_parameters for row in rows if row.share == share and row.method != "bcd-sparse"]
    return f"{share:.0%} of entries, {max(found):.1%} of parameters" if share < 1.0 else "dense"


def cell(values: Sequence[float]) -> str:
    """Return mean and half the range."""
    if not values:
        return ""
    spread = f" ±{(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and write rows and table after every network and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3, help="at most so many")
    parser.add_argument("--network", action="append", help="only this one; can be repeated")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("-o", "--output", type=Path, default=Path("results/bcd"))
    parser.add_argument("--quick", action="store_true", help="four sweeps a descent")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    given = ("train.epochs=4",) if options.quick else ()
    studies = [Study(data, options.runs, given) for data in options.data]
    for study in studies:
        for seed in range(options.seeds):
            for network in STUDIES[study.data]:
                if seed < network.seeds and network.name in (options.network or [network.name]):
                    study.run(network, seed)
                    write(options.output, [row for one in studies for row in one.rows])


def write(output: Path, rows: Sequence[Row]) -> None:
    """Write rows and table; rows of other runs that are there already stay."""
    file = output / "rows.jsonl"
    old = [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    now = {row.run for row in rows}
    kept = [row for row in old if row.run not in now]
    every = [*kept, *rows]
    atomic.write_text(file, "".join(json.dumps(asdict(row)) + "\n" for row in every))
    atomic.write_text(output / "table.md", "\n".join(table(every)) + "\n")


if __name__ == "__main__":
    main()
