"""Compression-aware training methods as pairings of parts: step maps around any optimizer, and module changes."""

from pliant.methods.around import Around, Step, StepMap
from pliant.methods.chain import Chain
from pliant.methods.change import ModuleChange
from pliant.methods.claim import Claim
from pliant.methods.conditioned import Conditioned, Core, LowRankCores, cores
from pliant.methods.cram import CrAM, Cramming
from pliant.methods.dynamic_rank import DynamicRank
from pliant.methods.factored import Factored
from pliant.methods.global_momentum import GlobalSparseMomentum
from pliant.methods.lorita import LoRITa
from pliant.methods.operators import Operator, operator_of
from pliant.methods.penalties import (
    Early,
    GroupLasso,
    InputLasso,
    NuclearNorm,
    Penalised,
    Subgradient,
    Term,
    penalised,
    penalised_groups,
)
from pliant.methods.random_cut import RandomCut
from pliant.methods.spectral_decay import SpectralDecay
from pliant.methods.targets import Stack, Target, filter_targets, matrix_targets, stacks
from pliant.methods.trained_rank import TrainedRank
from pliant.methods.trains import Trains

__all__ = [
    "Around",
    "Chain",
    "Claim",
    "Conditioned",
    "Core",
    "CrAM",
    "Cramming",
    "DynamicRank",
    "Early",
    "Factored",
    "GlobalSparseMomentum",
    "GroupLasso",
    "InputLasso",
    "LoRITa",
    "LowRankCores",
    "ModuleChange",
    "NuclearNorm",
    "Operator",
    "Penalised",
    "RandomCut",
    "SpectralDecay",
    "Stack",
    "Step",
    "StepMap",
    "Subgradient",
    "Target",
    "Term",
    "TrainedRank",
    "Trains",
    "cores",
    "filter_targets",
    "matrix_targets",
    "operator_of",
    "penalised",
    "penalised_groups",
    "stacks",
]
