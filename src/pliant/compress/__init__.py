"""Cutting a trained model: select what stays, truncate, realise."""

from pliant.compress.atoms import Global, PerLayer, Scope, removed_count
from pliant.compress.both import Both
from pliant.compress.budgets import (
    Allocation,
    Budget,
    BudgetError,
    BudgetRecord,
    ByFraction,
    Greedy,
    LatencyTable,
    LatencyTarget,
    Macs,
    Params,
    measure_latencies,
)
from pliant.compress.calibrate import Inputs, recalibrate_batchnorm
from pliant.compress.closest import closest
from pliant.compress.compressed import Compressed, compress, output_difference
from pliant.compress.compressor import Compressor, compressor_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.elimination import backward_elimination
from pliant.compress.filters import FilterPruning
from pliant.compress.low_rank import LowRank
from pliant.compress.ranks import Energy, EqualError, EqualFraction, RankRule, SquaredEnergy
from pliant.compress.reconstruct import reconstruct
from pliant.compress.report import CompressionReport, LayerChange
from pliant.compress.scores import L1, L2, Channels, Folded, Given, GroupNorm, Score
from pliant.compress.store import load, read_cut, save
from pliant.compress.sweep import Row, sweep
from pliant.compress.tensor_file import StoreError
from pliant.compress.tensor_train import TensorTrain
from pliant.compress.unstructured import UnstructuredPruning
from pliant.compress.variance import match_variance
from pliant.structure.channels.kinds import Layers
from pliant.structure.matricise import Scheme

__all__ = [
    "L1",
    "L2",
    "Allocation",
    "Both",
    "Budget",
    "BudgetError",
    "BudgetRecord",
    "ByFraction",
    "Channels",
    "Compressed",
    "CompressionReport",
    "Compressor",
    "Cut",
    "CutError",
    "Energy",
    "EqualError",
    "EqualFraction",
    "FilterPruning",
    "Folded",
    "Given",
    "Global",
    "Greedy",
    "GroupNorm",
    "Inputs",
    "LatencyTable",
    "LatencyTarget",
    "LayerChange",
    "Layers",
    "LowRank",
    "Macs",
    "Params",
    "PerLayer",
    "RankRule",
    "Row",
    "Scheme",
    "Scope",
    "Score",
    "SquaredEnergy",
    "StoreError",
    "TensorTrain",
    "UnstructuredPruning",
    "backward_elimination",
    "closest",
    "compress",
    "compressor_of",
    "load",
    "match_variance",
    "measure_latencies",
    "output_difference",
    "read_cut",
    "recalibrate_batchnorm",
    "reconstruct",
    "removed_count",
    "save",
    "sweep",
]
