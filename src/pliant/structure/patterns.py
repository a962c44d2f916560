"""Patterns of names: which layers and tensors a plan, a method or a compressor leaves alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

_LOG = logging.getLogger(__name__)


def check_ignore(ignore: Sequence[str]) -> None:
    """Check patterns at construction.

    Raises:
        ValueError: if `ignore` is one string, or holds anything else than strings.
    """
    if isinstance(ignore, str) or not all(isinstance(pattern, str) for pattern in ignore):
        raise ValueError(f"ignore must be a tuple of name patterns such as ('stages.0.*',), found {ignore!r}")


def ignored_by(ignore: Sequence[str], layer: str, tensor: str) -> str | None:
    """Return the first of the patterns that the name of a layer or of its tensor matches, None if there is none."""
    return next((p for p in ignore if fnmatchcase(layer, p) or fnmatchcase(tensor, p)), None)


def warn_of_unmatched(model: nn.Module, ignore: Sequence[str]) -> None:
    """Log a warning for every pattern that matches no name of the model: a typo would cut what was to stay whole."""
    if not ignore:
        return
    every = (model.named_modules, model.named_parameters, model.named_buffers)
    names = [name for found in every for name, _ in found(remove_duplicate=False) if name]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
            _LOG.warning(
                "the ignore pattern %r matches no layer and no tensor of the model, which has %s", pattern, shown
            )


_SHOWN = 12
