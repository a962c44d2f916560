"""pliant compress: one cut of a trained model, physically smaller where that is possible."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pliant import atomic
from pliant.cli.console import console, suggested
from pliant.cli.errors import user_errors
from pliant.cli.options import COMPRESSOR_NAMES, DataRootOption, check_one, target_of
from pliant.cli.sweep import RunArgument
from pliant.compress import Compressed, CompressionReport, Scheme, save
from pliant.compress import compress as cut_model
from pliant.compress.budgets import Budget, LatencyTarget, Macs, Params, measure_latencies
from pliant.metrics import accuracy
from pliant.models.blueprint import FILE as BLUEPRINT_FILE
from pliant.models.blueprint import Blueprint
from pliant.training.compressors import candidates_of, label_of
from pliant.training.experiment import Run, load_run
from pliant.training.folder import RunFolder
from pliant.training.recipe_file import from_mapping
from pliant.training.recipe_sweep import CompressorSpec, SweepSection, scheme_of, short_name
from pliant.training.sweeping import chosen, measured, repair_batches

FILES = ("model.safetensors", "cut.json", BLUEPRINT_FILE, "report.json", "report.png", "recipe.yaml")


@user_errors
def compress(
    run: RunArgument,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the cut model goes.")],
    compressor: Annotated[
        str,
        typer.Option(
            "--compressor",
            "-c",
            metavar="NAME",
            help=COMPRESSOR_NAMES,
        ),
    ] = "filters",
    fraction: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the atoms, removed; in [0, 1). Default: 0.5.")
    ] = None,
    macs: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Instead: the MACs that may stay, 50% or a number.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Instead: the parameters that may stay, 50% or a number.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Instead: the time of a call that may stay, 50% or microseconds."),
    ] = None,
    calibrate: Annotated[
        int | None, typer.Option(min=0, metavar="IMAGES", help="Training images for BatchNorm recalibration; 0: none.")
    ] = None,
    reconstruct: Annotated[
        int | None, typer.Option(min=0, metavar="IMAGES", help="Training images to fit the cut layers with; 0: none.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time of a call, before and after.")] = False,
    data_root: DataRootOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Cut a trained model once and write it, physically smaller where that is possible.

    The folder gets model.safetensors, cut.json (what stays), model.json (how to build the uncut model), report.json and
    report.png (what it costs), and the run's recipe.yaml.

    Options of the compressor are those that the recipe's `sweep` section gives it.

    For example:

      pliant compress runs/fashion-filters --compressor low-rank --fraction 0.5 -o small

      pliant compress runs/fashion-filters --macs 50% -o half

    A limit on time is met by tables of single layers, measured here and now; `--latency` checks the result.
    """
    taken = [name for name in FILES if (output / name).exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{output} holds {', '.join(taken)} already; --overwrite replaces them")
    limits = {"macs": target_of(macs, "macs"), "params": target_of(params, "params"), "time": target_of(time, "time")}
    check_one({"fraction": fraction, **limits})
    loaded = load_run(RunFolder(run), data_root)
    section = loaded.recipe.sweep
    asked = (
        section.calibrate if calibrate is None else calibrate,
        section.reconstruct if reconstruct is None else reconstruct,
    )
    images, fitted = (min(count, len(loaded.data.learn)) for count in asked)
    spec = _spec(section, compressor, fitted)
    example, budget = loaded.data.example(), _budget(loaded, limits, Scheme(scheme_of(spec) or Scheme.CHANNEL))
    candidates = candidates_of(spec, partial(measured, loaded, fitted))
    if budget is None and fraction is None:
        fraction = 0.5
    done = cut_model(
        loaded.model,
        chosen(loaded, candidates, fitted, budget),
        fraction,
        budget=budget,
        example=example,
        calibrate=repair_batches(loaded, images),
        reconstruct=repair_batches(loaded, fitted),
        latency=latency,
    )
    facts = {
        "run": str(run),
        "label": label_of(spec),
        "evaluated_on": loaded.data.judged_on,
        "accuracy": accuracy(done.model, loaded.data.eval_batches()),
        "dense_accuracy": accuracy(loaded.model, loaded.data.eval_batches()),
        "calibrate": images,
        "reconstruct": fitted,
    }
    _write(output, loaded, done, facts)
    _tell(console(), output, done, facts)


def _budget(run: Run, limits: dict[str, float | int | None], scheme: Scheme) -> Budget | None:
    if limits["macs"] is not None:
        return Macs(limits["macs"])
    if limits["params"] is not None:
        return Params(limits["params"])
    if limits["time"] is not None:
        return LatencyTarget(limits["time"], measure_latencies(run.model, run.data.example(), scheme=scheme))
    return None


def _write(output: Path, run: Run, done: Compressed, facts: dict[str, Any]) -> None:
    save(done, output, overwrite=True)
    atomic.write_text(output / "recipe.yaml", run.recipe.to_yaml())
    atomic.write_text(output / BLUEPRINT_FILE, _blueprint(run).to_json() + "\n")
    atomic.write_text(output / "report.json", json.dumps(facts | done.report.to_dict(), indent=2) + "\n")


def _tell(out: Console, output: Path, done: Compressed, facts: dict[str, Any]) -> None:
    _draw(out, done.report, output / "report.png")
    out.print(str(done.report), markup=False, soft_wrap=True)
    right, before = f"{facts['accuracy']:.2%} right", f"dense {facts['dense_accuracy']:.2%}"
    out.print(f"[green]Done[/]: {right} on the {facts['evaluated_on']} ({before})")
    out.print(f"Written: {output}/{', '.join(name for name in FILES if (output / name).exists())}", soft_wrap=True)
    out.print(f"Load it in Python: [bold]pliant.load({str(output)!r}, factory)[/], factory() making the uncut model")
    out.print(f"Next: {suggested('export', output, '--format', 'onnx')}")


def _blueprint(run: Run) -> Blueprint:
    data = run.data.dataset
    return Blueprint(
        name=run.recipe.model.name,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=data.image_size,
        input=tuple(run.data.example().shape),
        args=run.recipe.model.args,
    )


def _draw(out: Console, report: CompressionReport, path: Path) -> None:
    path.unlink(missing_ok=True)  # of an earlier cut
    try:
        report.plot(path)
    except ImportError as error:
        out.print(f"[yellow]No picture[/]: {escape(str(error))}")


def _spec(section: SweepSection, name: str, images: int) -> CompressorSpec:
    """Return the compressor of the recipe's sweep that has this name, or what the name alone says."""
    given = {"compressors": [name], "reconstruct": images}
    asked = from_mapping(SweepSection, given, source="--compressor").compressors[0]
    known = [one for one in section.compressors if one.type == asked.type]
    same = [one for one in known if short_name(one) == short_name(asked)]
    return next(iter(same or (known if name == asked.type else [])), asked)
