"""The methods of recipes, one a file: what the `method` section holds, and how it is built.

The union is the table: a new method is one new file and one more member. A method outside the package derives from
`OptimizerSection`, or from `SGDOptions` for SGD's options, and recipes name it by `type: "package.module:Class"`. What
it needs is here: `Scene`, `Method`, `scheduled`, and `NonNegative`, `Positive`, `Momentum`, `Share` for its fields.
"""

from typing import Annotated

from pliant.training.methods.bcd import BCDMethod
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.conditioned import ConditionedMethod
from pliant.training.methods.cram import CrAMMethod
from pliant.training.methods.dual_averaging import DualAveragingMethod
from pliant.training.methods.dynamic_rank import DynamicRankMethod
from pliant.training.methods.global_momentum import GlobalMomentumMethod
from pliant.training.methods.lorita import LoRITaMethod
from pliant.training.methods.penalised import PenalisedMethod
from pliant.training.methods.proximal import ProximalMethod
from pliant.training.methods.random_cut import RandomCutMethod
from pliant.training.methods.section import MethodSection, OptimizerSection, Scene
from pliant.training.methods.sfw import SFWMethod
from pliant.training.methods.sgd import SGDMethod, SGDOptions
from pliant.training.methods.spectral_decay import SpectralDecayMethod
from pliant.training.methods.trained_rank import TrainedRankMethod
from pliant.training.methods.trains import TrainsMethod
from pliant.training.own_section import OrOwn
from pliant.training.recipe_section import Momentum, NonNegative, Positive, Section, Share, by_type

BuiltInMethod = (
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
AnyMethod = Annotated[BuiltInMethod | OptimizerSection, OrOwn(OptimizerSection)]

METHODS: dict[str, type[Section]] = by_type(BuiltInMethod)

__all__ = [
    "METHODS",
    "AnyMethod",
    "BCDMethod",
    "BuiltInMethod",
    "ConditionedMethod",
    "CrAMMethod",
    "DualAveragingMethod",
    "DynamicRankMethod",
    "GlobalMomentumMethod",
    "LoRITaMethod",
    "Method",
    "MethodSection",
    "Momentum",
    "NonNegative",
    "OptimizerSection",
    "PenalisedMethod",
    "Positive",
    "ProximalMethod",
    "RandomCutMethod",
    "SFWMethod",
    "SGDMethod",
    "SGDOptions",
    "Scene",
    "Share",
    "SpectralDecayMethod",
    "TrainedRankMethod",
    "TrainsMethod",
    "scheduled",
]
