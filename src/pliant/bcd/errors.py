"""What can be wrong with a problem before it is solved, or with a linear system while it is."""

from __future__ import annotations


class BCDError(ValueError):
    """A penalty, a set or the samples do not fit block coordinate descent."""


class ChainError(BCDError):
    """A model is not a chain of layers whose blocks have solutions."""


class SingularSystemError(ArithmeticError):
    """A linear system has no Cholesky factor: its matrix is not finite, or not positive definite."""
