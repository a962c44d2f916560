"""Law suites for regions, regularisers, optimizers and compressors of your own: `check_...` runs them all."""

from pliant.testing.case import Case
from pliant.testing.compressor_laws import COMPRESSOR_LAWS, check_compressor
from pliant.testing.optimizer_laws import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers.case import OptimizerCase
from pliant.testing.region_laws import PENALTY_LAWS, REGION_LAWS, REGULARISER_LAWS, check_penalty, check_region
from pliant.testing.syncs import HostReads
from pliant.testing.violation import LawViolation

__all__ = [
    "COMPRESSOR_LAWS",
    "OPTIMIZER_LAWS",
    "PENALTY_LAWS",
    "REGION_LAWS",
    "REGULARISER_LAWS",
    "Case",
    "HostReads",
    "LawViolation",
    "OptimizerCase",
    "check_compressor",
    "check_optimizer",
    "check_penalty",
    "check_region",
]
