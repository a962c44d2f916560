"""The layer's name, put before what is wrong with its set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pliant.sets.weight_set import SetError
from pliant.tensor_train import TrainError


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Let every `SetError` and `TrainError` inside begin with the name of a layer, "" that of the model itself."""
    try:
        yield
    except (SetError, TrainError) as error:
        raise type(error)(f"{layer or 'the model'}: {error}") from error
