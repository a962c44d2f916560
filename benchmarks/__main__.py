"""Measure speed, memory and quality, and write them down.

    python -m benchmarks                        everything, about twelve minutes on two cores
    python -m benchmarks --only step,memory     some sections
    python -m benchmarks --quick                a look, about a minute
    python -m benchmarks --device cuda          the same on a GPU, timed by CUDA events
    python -m benchmarks --tables               write the tables anew from the rows that are there

Writes SECTION-DEVICE.json and table.md into the results folder and the same tables into the performance page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import levels, page
from benchmarks.bcd import Sweeps
from benchmarks.costs import Costs
from benchmarks.cut import CutModels
from benchmarks.memory import Memory
from benchmarks.oracle import Oracle
from benchmarks.overhead import Overhead
from benchmarks.quality import Quality
from benchmarks.repair import Repair
from benchmarks.section import Bench, Level, Section, measure
from benchmarks.share import Share
from benchmarks.step import Step
from benchmarks.training_cut import TrainingCut

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
SECTIONS: tuple[Section, ...] = (
    Step(),
    Costs(),
    Share(),
    Overhead(),
    TrainingCut(),
    Oracle(),
    Memory(),
    Quality(),
    Repair(),
    CutModels(),
    Sweeps(),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections that the command line asks for."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(_level(options), torch.device(options.device), options.output)
    for section in () if options.tables else SECTIONS:
        if options.only is None or section.name in options.only.split(","):
            _run(section, bench)
    page.write_tables(options.output, SECTIONS)
    if options.output.resolve() == RESULTS and PAGE.exists():
        PAGE.write_text(page.filled(PAGE, RESULTS, SECTIONS))
    if not torch.cuda.is_available():
        print("No GPU here: nothing was measured on one.")


def _run(section: Section, bench: Bench) -> None:
    start = time.perf_counter()
    result = measure(section, bench)
    result.write(bench.folder)
    print(f"## {section.title}\n\n{section.show(result.rows)}\n\n{result.machine}")
    print(f"({section.name}: {time.perf_counter() - start:.0f} s)\n", flush=True)


def _level(options: argparse.Namespace) -> Level:
    if options.toy:
        return levels.TOY
    return levels.QUICK if options.quick else levels.FULL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=_names, help="sections, separated by commas")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the tables from the rows")
    parser.add_argument("--quick", action="store_true", help="fewer networks, sizes and rounds")
    parser.add_argument("--toy", action="store_true", help="show that everything runs; the numbers mean nothing")
    parser.add_argument("--device", type=_device, default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


def _names(text: str) -> str:
    known = [section.name for section in SECTIONS]
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"sections are {', '.join(known)}, found {', '.join(unknown)}")
    return text


def _device(text: str) -> str:
    if text != "cpu" and not (text == "cuda" and torch.cuda.is_available()):
        raise argparse.ArgumentTypeError(f"must be cpu, or cuda where torch finds a GPU, found {text!r}")
    return text


if __name__ == "__main__":
    main()
