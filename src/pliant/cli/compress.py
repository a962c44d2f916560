"""pliant compress: one cut of a trained model, physically smaller where that is possible."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pliant.cli.console import console
from pliant.cli.errors import user_errors
from pliant.cli.options import DataRootOption
from pliant.cli.sweep import RunArgument
from pliant.compress import compress as cut_model
from pliant.compress import save
from pliant.metrics import accuracy
from pliant.training import atomic
from pliant.training.compressors import build_compressor, label_of
from pliant.training.experiment import Run, load_run
from pliant.training.folder import RunFolder
from pliant.training.recipe_file import from_mapping
from pliant.training.recipe_sweep import CompressorSpec, SweepSection

FILES = ("model.safetensors", "cut.json", "report.json", "recipe.yaml")


@user_errors
def compress(
    run: RunArgument,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the cut model goes.")],
    compressor: Annotated[
        str, typer.Option("--compressor", "-c", metavar="NAME", help="filters, low-rank or unstructured.")
    ] = "filters",
    fraction: Annotated[float, typer.Option(metavar="SHARE", help="Of the atoms, removed; in [0, 1).")] = 0.5,
    calibrate: Annotated[
        int | None, typer.Option(min=0, metavar="IMAGES", help="Training images for BatchNorm recalibration; 0: none.")
    ] = None,
    data_root: DataRootOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Cut a trained model once and write it, physically smaller where that is possible.

    The folder gets model.safetensors, cut.json (what stays), report.json (what it costs) and the run's recipe.yaml.

    Options of the compressor are those that the recipe's `sweep` section gives it.

    For example:

      pliant compress runs/fashion-filters --compressor low-rank --fraction 0.5 -o small
    """
    taken = [name for name in FILES if (output / name).exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{output} holds {', '.join(taken)} already; --overwrite replaces them")
    loaded = load_run(RunFolder(run), data_root)
    section = loaded.recipe.sweep
    images = section.calibrate if calibrate is None else calibrate
    report = _compress(loaded, _spec(section, compressor), fraction, min(images, len(loaded.data.learn)), output)
    out = console()
    out.print(
        f"[green]Done[/]: {report['accuracy']:.2%} of the {loaded.data.judged_on} "
        f"(dense {report['dense_accuracy']:.2%}), "
        f"{report['parameters']:,} of {report['dense_parameters']:,} parameters, "
        f"{report['macs']:,} of {report['dense_macs']:,} MACs"
    )
    for name, reason in {**report["skipped"], **report["left_dense"]}.items():
        out.print(f"  {name} keeps its size: {reason}")
    out.print(f"Written: {output}/{', '.join(FILES)}")
    out.print(f"Load it in Python: [bold]pliant.load({str(output)!r}, factory)[/], factory() making the uncut model")


def _spec(section: SweepSection, name: str) -> CompressorSpec:
    for spec in section.compressors:
        if spec.type == name:
            return spec
    return from_mapping(SweepSection, {"compressors": [name]}, source="--compressor").compressors[0]


def _compress(run: Run, spec: CompressorSpec, fraction: float, images: int, output: Path) -> dict[str, Any]:
    calibrate = run.data.calibration(images, run.recipe.data.batch_size, run.recipe.seed) if images else None
    done = cut_model(run.model, build_compressor(spec), fraction, example=run.data.example(), calibrate=calibrate)
    report = {
        "run": str(run.folder.path),
        "label": label_of(spec),
        "evaluated_on": run.data.judged_on,
        "accuracy": accuracy(done.model, run.data.eval_batches()),
        "dense_accuracy": accuracy(run.model, run.data.eval_batches()),
        "calibrate": images,
        **asdict(done.report),
    }
    save(done, output, overwrite=True)
    atomic.write_text(output / "recipe.yaml", run.recipe.to_yaml())
    atomic.write_text(output / "report.json", json.dumps(report, indent=2) + "\n")
    return report
