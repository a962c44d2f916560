"""The page that says which architectures are cut how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo_check import OUTPUTS, Outcome
from zoo_models import ZOO, Architecture

_HEAD = """# Architectures

Which architectures can pliant cut, and is the cut exact? This page is written by `scripts/architectures.py`, which cuts
each of them, and slow tests check that every line is true.

**Exact** means: the model that `realise` makes smaller computes what the model does in which `truncate` puts zeros, in
evaluation mode and, dropout apart, in training mode.

- In float64 the outputs differ by at most 1e-10 of what another input changes in them, so that nothing passes because
  it hardly depends on its input. (Ranks of models above three million parameters are compared in float32 only.)
- In float32 they differ by at most 1e-5 of the largest output, or by no more than either model's own rounding where
  batch statistics of few values make that larger.
- Parameters and MACs are those that the cut predicted, to the last one, and there are fewer parameters than before.
- Weights are random, no parameter is constant, and the cut has been through JSON. Models that draw random numbers in
  training mode, other than for dropout, are compared in evaluation mode only.

Channels are removed by `FilterPruning(layers=Layers.ALL)` at the fractions 0.3 and 0.7, ranks by `LowRank()` at 0.5.
Many of the models have fewer or narrower layers than in their papers, to keep the check short.

- **yes**: exact, and every convolution and linear layer loses output channels, except those that make outputs of the
  model.
- **partly**: exact, but other layers keep all their channels, too. The column says how many, and why.
- **refused**: nothing can be removed exactly, so nothing is.

The shares are what is left of the parameters at the largest fraction. A layer is decomposed only where that lowers its
cost; half of the rank of a square matrix does not.

## Your own model

```python
import torch
from pliant import FilterPruning
from pliant.compress import Layers
from pliant.testing import check_compressor

first, second = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
model = torch.nn.Sequential(first, torch.nn.BatchNorm2d(8), torch.nn.ReLU(), second)
example = torch.randn(4, 3, 16, 16)  # put your model, and what it can be called with, in the place of these two

compressor = FilterPruning(layers=Layers.ALL)
check_compressor(compressor, model, example)  # raises if anything that this page promises does not hold
print(compressor.select(model, 0.7, example=example).skipped)  # what stays whole, and why
```

With `strict=True`, `FilterPruning` refuses a model in which any layer but the outputs has to stay whole.

## The table

"""
_COLUMNS = (
    "| architecture | from | channels exact | groups | parameters left | layers that keep all channels, and why "
    "| ranks exact | layers | parameters left |\n|---|---|---|---:|---:|---|---|---:|---:|\n"
)


def render(lines: Mapping[str, str]) -> str:
    """Return the page as Markdown.

    Args:
        lines: architecture name -> its line of the table.
    """
    cells = [line.split(" | ") for line in lines.values()]
    channels = [one[2] for one in cells]
    summary = (
        f"{len(cells)} architectures. Channels: {channels.count('yes') + channels.count('partly')} exact, "
        f"{channels.count('partly')} of them partly, {channels.count('refused')} refused. "
        f"Ranks: {sum(one[6] == 'yes' for one in cells)} exact.\n\n"
    )
    return _HEAD + summary + _COLUMNS + "".join(f"{lines[one.name]}\n" for one in ZOO if one.name in lines)


def line(architecture: Architecture, outcomes: Sequence[Outcome]) -> str:
    """Return the line of an architecture, without the line break."""
    channels, ranks = outcomes
    whole = "; ".join(f"{count} x {reason}" for reason, count in channels.whole.items())
    decomposed = "yes" if ranks.groups else "refused"
    about = (architecture.name, architecture.source, _state(channels))
    cells = (*about, *_cells(channels), whole, decomposed, *_cells(ranks))
    return f"| {' | '.join(cells)} |"


def lines_of(page: str) -> dict[str, str]:
    """Return architecture name -> its line, as a page has them."""
    rows = [row for row in page.splitlines() if row.startswith("| ") and not row.startswith("| architecture |")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def _state(found: Outcome) -> str:
    if not found.groups:
        return "refused"
    return "partly" if set(found.whole) - {OUTPUTS} else "yes"


def _cells(found: Outcome) -> tuple[str, str]:
    return (str(found.groups), f"{found.parameters:.0%}") if found.groups else ("-", "-")
