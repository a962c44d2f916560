"""How good a model is: accuracy and mean loss over batches, with the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.structure.untouched import untouched

Batches = Iterable[tuple[Tensor, Tensor]]


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Return the share of samples whose largest score is that of their label, in [0, 1].

    The model runs in evaluation mode, without gradients, and is left as it was.

    Args:
        model: called with the images; returns scores of shape (samples, classes).
        batches: pairs (inputs, labels); labels are int64 of shape (samples,), on the device of the scores.

    Raises:
        ValueError: if there are no samples.
    """
    return _mean(model, batches, lambda scores, labels: (scores.argmax(1) == labels).sum())


def evaluate_loss(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> float:
    """Return the mean loss over all samples, in evaluation mode and without gradients.

    Args:
        model: called with the inputs of each batch.
        batches: pairs (inputs, labels).
        loss: (outputs, labels) -> the mean over a batch; batches count by their number of samples.

    Raises:
        ValueError: if there are no samples.
    """
    return _mean(model, batches, lambda scores, labels: loss(scores, labels) * len(labels))


def _mean(model: nn.Module, batches: Batches, total: Callable[[Tensor, Tensor], Tensor]) -> float:
    parts: list[Tensor] = []
    samples = 0
    with untouched(model), torch.no_grad():
        for inputs, labels in batches:
            parts.append(total(model(inputs), labels).double())  # added up at the end: no wait for the device a batch
            samples += len(labels)
    if samples == 0:
        raise ValueError("batches must yield at least one sample, found none")
    return float(torch.stack(parts).sum()) / samples
