"""What is measured: accuracy and loss, parameters and MACs, distances in weight space."""

from pliant.metrics.accuracy import accuracy, eval_mode, evaluate_loss
from pliant.metrics.geometry import relative_distance
from pliant.metrics.size import Size, count_macs, size

__all__ = ["Size", "accuracy", "count_macs", "eval_mode", "evaluate_loss", "relative_distance", "size"]
