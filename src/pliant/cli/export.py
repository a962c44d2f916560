"""pliant export: a compressed model for other runtimes, compared with the model on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from torch import Tensor, nn

from pliant.cli.console import console
from pliant.cli.errors import user_errors
from pliant.compress import load, read_cut
from pliant.export import ExportCheck, to_onnx, to_torch_export
from pliant.models.blueprint import FILE as BLUEPRINT_FILE
from pliant.models.blueprint import check_size, read_blueprint
from pliant.own import imported
from pliant.training.own_compressor import own_compressor


@dataclass(frozen=True)
class Format:
    """A format by its name on the command line: how it is written, and into which file by default."""

    write: Callable[..., ExportCheck]
    file: str


FORMATS = {"onnx": Format(to_onnx, "model.onnx"), "torch-export": Format(to_torch_export, "model.pt2")}


@user_errors
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What pliant compress wrote.")],
    *,
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help="onnx or torch-export.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: model.onnx or model.pt2 in FOLDER.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FUNCTION",
            help="Makes the uncut model; only if it is your own. Another one than model.json names is refused.",
        ),
    ] = None,
    compressor: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:NAME", help="Made the cut; only if it is your own. Its module is imported."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", metavar="1x3x32x32", help="Of an example; only for folders without model.json."),
    ] = None,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Only for the example's batch size.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Export a compressed model, and compare the file with the model before it gets its name.

    For example:

      pliant export small --format onnx

      pliant export small --format torch-export -o small.pt2
    """
    if format_name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, found {format_name!r}")
    chosen = FORMATS[format_name]
    path = folder / chosen.file if output is None else output
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; --overwrite replaces it")
    if compressor is not None:
        own_compressor(compressor)  # whose import makes the classes that the cut names known
    loaded, example = _load(folder, model, shape)
    check = chosen.write(loaded, example, path, dynamic_batch=not fixed_batch)
    console().print(f"[green]Done[/]: {escape(str(check))}", soft_wrap=True)


def _load(folder: Path, model: str | None, shape: str | None) -> tuple[nn.Module, Tensor]:
    described = (folder / BLUEPRINT_FILE).exists()
    if shape is not None and described:
        raise ValueError(
            f"{folder / BLUEPRINT_FILE} says model and input: leave --input out, or remove that file first"
        )
    if shape is not None:
        if model is None:
            raise ValueError("--input is for folders without model.json and needs --model package.module:function")
        return load(folder, imported(model)), torch.randn(_shape(shape))
    cut = read_cut(folder)
    if model is not None and not described:
        raise ValueError(
            f"{folder} has no {BLUEPRINT_FILE}: give the shape of an example too, such as --input 1x3x32x32"
        )
    blueprint = read_blueprint(folder, trusted=model)
    if model not in (None, blueprint.name):
        raise ValueError(
            f"{folder / BLUEPRINT_FILE} names the model {blueprint.name}, found --model {model}: leave it out"
        )
    check_size(blueprint, cut.dense_parameters)
    return load(folder, blueprint.build), blueprint.example()


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"input must look like 1x3x32x32, found {text!r}")
    return tuple(map(int, parts))
