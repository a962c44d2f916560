"""Where commands write."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from pliant.suggestion import command

_WIDE = 400


def console() -> Console:
    """Return a console on the standard output of this moment; into files and pipes lines are not wrapped."""
    here = Console(highlight=False, emoji=False)  # mine:M: is a name
    return here if here.is_terminal else Console(highlight=False, emoji=False, width=_WIDE)


def suggested(*words: object) -> str:
    """Return a command of pliant, to be printed in bold."""
    return f"[bold]{escape(command(*words))}[/]"
