"""What is measured: accuracy and loss, parameters, MACs, bytes, activations and latency, distances in weight space."""

from pliant.metrics.accuracy import accuracy, evaluate_loss
from pliant.metrics.activations import ActivationMemory, activation_memory
from pliant.metrics.footprint import Footprint, LayerSize, footprint
from pliant.metrics.geometry import relative_distance
from pliant.metrics.latency import Latency, Timing, latency
from pliant.metrics.size import Size, count_macs, size
from pliant.structure.untouched import eval_mode

__all__ = [
    "ActivationMemory",
    "Footprint",
    "Latency",
    "LayerSize",
    "Size",
    "Timing",
    "accuracy",
    "activation_memory",
    "count_macs",
    "eval_mode",
    "evaluate_loss",
    "footprint",
    "latency",
    "relative_distance",
    "size",
]
