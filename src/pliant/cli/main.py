"""The command `pliant`."""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from typing import Annotated

import typer

from pliant.cli.compress import compress
from pliant.cli.demo import demo
from pliant.cli.errors import DEBUG
from pliant.cli.export import export
from pliant.cli.listing import list_names
from pliant.cli.report import report
from pliant.cli.sweep import sweep
from pliant.cli.train import train
from pliant.cli.tune import tune

app = typer.Typer(
    name="pliant",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("pliant"))
        raise typer.Exit


@app.callback()
def pliant(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of all errors (or set PLIANT_DEBUG).")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train a neural network once, compress it afterwards to any ratio, without retraining.

    Start with [bold]pliant demo[/], or: [bold]pliant train[/] a recipe, [bold]pliant sweep[/] the run,
    [bold]pliant compress[/] it where the curve says so, [bold]pliant export[/] the result,
    [bold]pliant report[/] runs side by side.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    if debug:
        os.environ[DEBUG] = "1"


app.command("train")(train)
app.command("sweep")(sweep)
app.command("compress")(compress)
app.command("export")(export)
app.command("report")(report)
app.command("demo")(demo)
app.command("tune")(tune)
app.command("list")(list_names)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
