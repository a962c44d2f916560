"""Sets of compressed weights, each known by its projection: sparse, of low rank, or tensor trains."""

from pliant.sets.rank import RankSet
from pliant.sets.sparse import FilterSparseSet, NMSparseSet, SparseSet
from pliant.sets.tensor_train import TensorTrainSet
from pliant.sets.train_ranks import BondRanks, EnergyShare, EntryBudget, EqualRanks, TrainRanks
from pliant.sets.weight_set import Point, SetError, WeightSet

__all__ = [
    "BondRanks",
    "EnergyShare",
    "EntryBudget",
    "EqualRanks",
    "FilterSparseSet",
    "NMSparseSet",
    "Point",
    "RankSet",
    "SetError",
    "SparseSet",
    "TensorTrainSet",
    "TrainRanks",
    "WeightSet",
]
