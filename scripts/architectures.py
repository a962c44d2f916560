"""Cut the architectures of the tests' zoo and write docs/architectures.md: all of them, or those that are named."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architectures.md"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "zoo")]

from zoo_check import FRACTIONS, build, check  # noqa: E402  (as above)
from zoo_models import ZOO  # noqa: E402  (as above)
from zoo_table import line, lines_of, render  # noqa: E402  (as above)

from torchvision_operators import define_operators  # noqa: E402  (found through the path just set)


def main() -> None:
    """Write the page after every architecture, so that a run that is broken off has not run in vain."""
    operators = define_operators()
    wanted = set(sys.argv[1:]) or {architecture.name for architecture in ZOO}
    for architecture in ZOO:
        if architecture.name in wanted:
            subject = build(architecture)
            new = line(architecture, [check(subject, compressor) for compressor in FRACTIONS])
            print(new, flush=True)
            lines = lines_of(PAGE.read_text(encoding="utf-8")) | {architecture.name: new}
            PAGE.write_text(render({one.name: lines[one.name] for one in ZOO if one.name in lines}), encoding="utf-8")
    del operators  # they had to live until here


if __name__ == "__main__":
    main()
