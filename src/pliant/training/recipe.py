"""Recipe: everything that decides a run, typed. Its sections are the sections of the YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pliant.data import NAMES as DATASETS
from pliant.models import NAMES as MODELS
from pliant.training.methods import AnyMethod
from pliant.training.methods.section import check_fit
from pliant.training.presets import PRESET, PRESETS, with_preset
from pliant.training.recipe_file import dump, from_mapping, overridden, read_mapping
from pliant.training.recipe_section import Section, Share
from pliant.training.recipe_sweep import ProbeSection, SweepSection
from pliant.training.tuning.section import TuneSection

SEED = "{seed}"  # in a name, stands for the run's seed


def _dataset(name: str) -> str:
    return _known(name, DATASETS)


def _model(name: str) -> str:
    return _known(name, MODELS)


def _known(name: str, names: Iterable[str]) -> str:
    if name not in names and ":" not in name:
        raise ValueError(f"must be one of {', '.join(sorted(names))}, or 'package.module:function', found {name!r}")
    return name


def _loader_args(args: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted({"name", "root"} & set(args)):
        raise ValueError(f"must not hold {' and '.join(taken)}: these are data.name and data.root, beside data.args")
    return args


def _folder_name(name: str) -> str:
    if PRESET in name:
        raise ValueError(f"has a place for a preset, give one: {', '.join(PRESETS)} (--preset NAME)")
    parts = name.replace(SEED, "0").split("/")
    if any(not part or part.startswith(".") or set(part) & set('\\:*?"<>|{}') for part in parts):
        raise ValueError(f"must be a folder name (slashes between parts are fine), found {name!r}")
    return name


class DataSection(Section):
    """What is learnt from: a name of `pliant list`, or `package.module:function`, and the arguments that it takes.

    Such a function of your own returns a `pliant.data.Dataset`. It gets all of `args`, and as `root`, if it takes that,
    the folder of `root` (`--data-root`) or else of `PLIANT_DATA`.

    `holdout` > 0 sets that share of the training set aside and evaluates on it instead of the test set: for tuning.
    """

    name: Annotated[str, AfterValidator(_dataset)] = "digits"
    root: str | None = None
    batch_size: int = Field(default=128, ge=1)
    augment: bool = True
    holdout: Share = 0.0
    args: Annotated[dict[str, Any], AfterValidator(_loader_args)] = Field(default_factory=dict)


class ModelSection(Section):
    """What is trained: a name of `pliant list`, or `package.module:function`, and the arguments that it takes."""

    name: Annotated[str, AfterValidator(_model)] = "cnn-4"
    args: dict[str, Any] = Field(default_factory=dict)


class TrainSection(Section):
    """How long and on what. `threads` null leaves torch's own choice.

    There is a checkpoint after every epoch, and after every `checkpoint_every` batches of one if that is given. For
    `method.type: bcd` epochs are sweeps, and `checkpoint_every` counts them. `compile` sends the forward and backward
    passes of training through `torch.compile`, which pays on GPUs.
    """

    epochs: int = Field(default=10, ge=1)
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False


class Recipe(Section):
    """A run: data, model, budget, method, what is swept afterwards, and what `pliant tune` may choose."""

    name: Annotated[str, AfterValidator(_folder_name)]
    seed: int = Field(default=0, ge=0)
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    method: AnyMethod
    sweep: SweepSection = SweepSection()
    probe: ProbeSection | None = None
    tune: TuneSection | None = None

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        check_fit(self.method, self.data, self.train)
        return self

    @classmethod
    def from_yaml(
        cls, path: str | Path | None, overrides: list[str] | None = None, *, preset: str | None = None
    ) -> Self:
        """Read a recipe file.

        Args:
            path: a YAML file; None, with a preset: the preset alone, cnn-4 on digits.
            overrides: "a.b=c" each, applied in this order; values are read as YAML.
            preset: such as "filters", "low-rank" or "both": the method of a recipe that says none.

        Raises:
            RecipeError: the file, an override or a value is not what a recipe can hold; the message names each field.
        """
        data = {} if path is None else read_mapping(Path(path))
        data = data if preset is None else with_preset(preset, data)
        return from_mapping(cls, overridden(data, overrides or [], cls), source=str(path or f"preset {preset}"))

    def to_yaml(self) -> str:
        """Return the recipe as YAML text that `from_yaml` reads back to an equal recipe."""
        return dump(self.model_dump(exclude_none=True))

    def anywhere(self) -> Self:
        """Return the recipe without what is a matter of the machine: where the data is, device and threads."""
        data = self.data.model_copy(update={"root": None})
        train = self.train.model_copy(update={"device": "auto", "threads": None})
        return self.model_copy(update={"data": data, "train": train})

    def identity(self) -> dict[str, Any]:
        """Return what decides how runs train, apart from their seed, as JSON has it; what is swept does not."""
        return self.anywhere().model_dump(mode="json", exclude={"name", "seed", "sweep", "tune"})

    @property
    def run_name(self) -> str:
        """The folder of the run inside the folder of runs: the name, with the seed where it asks for it."""
        return self.name.replace(SEED, str(self.seed))
