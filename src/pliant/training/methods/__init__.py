"""The methods of recipes, one a file: what the `method` section holds, and how it is built.

The union is the table: a new method is one new file and one more member.
"""

from typing import Annotated, get_args

from pydantic import Field

from pliant.training.methods.bcd import BCDMethod
from pliant.training.methods.conditioned import ConditionedMethod
from pliant.training.methods.cram import CrAMMethod
from pliant.training.methods.dual_averaging import DualAveragingMethod
from pliant.training.methods.dynamic_rank import DynamicRankMethod
from pliant.training.methods.global_momentum import GlobalMomentumMethod
from pliant.training.methods.lorita import LoRITaMethod
from pliant.training.methods.penalised import PenalisedMethod
from pliant.training.methods.proximal import ProximalMethod
from pliant.training.methods.random_cut import RandomCutMethod
from pliant.training.methods.section import MethodSection, OptimizerSection
from pliant.training.methods.sfw import SFWMethod
from pliant.training.methods.sgd import SGDMethod
from pliant.training.methods.spectral_decay import SpectralDecayMethod
from pliant.training.methods.trained_rank import TrainedRankMethod
from pliant.training.methods.trains import TrainsMethod

AnyMethod = (
    SGDMethod
    | SFWMethod
    | ProximalMethod
    | PenalisedMethod
    | ConditionedMethod
    | CrAMMethod
    | DualAveragingMethod
    | DynamicRankMethod
    | GlobalMomentumMethod
    | LoRITaMethod
    | RandomCutMethod
    | SpectralDecayMethod
    | TrainedRankMethod
    | TrainsMethod
    | BCDMethod
)
Method = Annotated[AnyMethod, Field(discriminator="type")]

METHODS: dict[str, type[MethodSection]] = {
    get_args(section.model_fields["type"].annotation)[0]: section for section in get_args(AnyMethod)
}

__all__ = [
    "METHODS",
    "AnyMethod",
    "BCDMethod",
    "ConditionedMethod",
    "CrAMMethod",
    "DualAveragingMethod",
    "DynamicRankMethod",
    "GlobalMomentumMethod",
    "LoRITaMethod",
    "Method",
    "MethodSection",
    "OptimizerSection",
    "PenalisedMethod",
    "ProximalMethod",
    "RandomCutMethod",
    "SFWMethod",
    "SGDMethod",
    "SpectralDecayMethod",
    "TrainedRankMethod",
    "TrainsMethod",
]
