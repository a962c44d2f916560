"""Tensor trains: reading weights as tensors, decomposing them, and layers that compute with the cores."""

from pliant.tensor_train.contraction import Contraction, cheapest
from pliant.tensor_train.errors import TrainError
from pliant.tensor_train.form import Form
from pliant.tensor_train.layers import TTConv2d, TTLinear
from pliant.tensor_train.modes import MatrixModes, Modes, RowMajor
from pliant.tensor_train.readings import Paired, Reading, Reshaped, Separate
from pliant.tensor_train.substitute import as_train, blank_train, check_layer
from pliant.tensor_train.train import Cores, admissible, contract, decompose, entries, full_ranks, spectra

__all__ = [
    "Contraction",
    "Cores",
    "Form",
    "MatrixModes",
    "Modes",
    "Paired",
    "Reading",
    "Reshaped",
    "RowMajor",
    "Separate",
    "TTConv2d",
    "TTLinear",
    "TrainError",
    "admissible",
    "as_train",
    "blank_train",
    "cheapest",
    "check_layer",
    "contract",
    "decompose",
    "entries",
    "full_ranks",
    "spectra",
]
