"""Commands that messages suggest, quoted so that they can be pasted into a shell."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """Return a command of pliant.

    >>> command("sweep", "runs/a b", "--compressor", "low-rank:spatial")
    "pliant sweep 'runs/a b' --compressor low-rank:spatial"
    """
    return shlex.join(["pliant", *map(str, words)])
