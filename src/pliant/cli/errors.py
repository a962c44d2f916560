"""What a user can do something about is one clear message; everything else keeps its traceback."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from pliant.distributed import RankError

P = ParamSpec("P")
R = TypeVar("R")

# ArithmeticError: a run that diverged. ImportError: a package or a factory of the user's that is not installed.
USER_ERRORS = (ValueError, ArithmeticError, FileNotFoundError, FileExistsError, PermissionError, ImportError)
USER_ERROR = 2
INTERRUPTED = 130
DEBUG = "PLIANT_DEBUG"


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with a message and exit code 2 on an error of the user's; PLIANT_DEBUG keeps the traceback."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except USER_ERRORS as error:
            if os.environ.get(DEBUG):
                raise
            console = Console(stderr=True, emoji=False)
            console.print(f"[bold red]Error:[/] {escape(str(error))}", style="red", highlight=False, soft_wrap=True)
            raise typer.Exit(USER_ERROR) from None
        except RankError:  # the rank that failed says why
            raise typer.Exit(USER_ERROR) from None

    return guarded
