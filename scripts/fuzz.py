"""Fuzz all readers of files: python scripts/fuzz.py --inputs 100000 [--only recipe] [--seed 0] [--keep FOLDER]."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fuzz"))

from fuzz_readers import readers
from fuzz_run import fuzz_apart


def main() -> int:
    """Fuzz, print a line a reader, and return the number of readers that failed."""
    parser = argparse.ArgumentParser(description="Feed mutated files to every reader.")
    parser.add_argument("--inputs", type=int, default=10_000, help="in total, shared out equally")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name contains this")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where inputs that fail are written")
    given = parser.parse_args()
    chosen = {name: reader for name, reader in readers().items() if given.only in name}
    each, began, failed = -(-given.inputs // len(chosen)), time.monotonic(), 0
    for name, reader in chosen.items():
        keep = given.keep / name.replace(", ", "-")
        keep.mkdir(parents=True, exist_ok=True)
        failed += not fuzz_apart(name, reader, each, given.seed, keep)
    seconds = time.monotonic() - began
    print(f"{each * len(chosen):,} inputs in {seconds:.0f} s, {each * len(chosen) / seconds:.0f} a second")
    return failed


if __name__ == "__main__":
    sys.exit(main())
