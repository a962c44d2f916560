"""Compressors of the user's own, by their import path."""

from __future__ import annotations

from pliant.compress.compressor import Compressor, options_of
from pliant.own import called, imported, needs


def own_compressor(name: str) -> Compressor:
    """Make a compressor by calling a class or a function of the user's own, without arguments.

    Args:
        name: "package.module:name".

    Raises:
        ValueError: it cannot be imported or called so, or makes no compressor that a cut can name.
    """
    make = imported(name)
    if missing := needs(make):
        raise ValueError(f"{name}: is called without arguments, but needs {', '.join(missing)}: give these defaults")
    compressor = called(name, make, {}, {})
    if not isinstance(compressor, Compressor):
        raise ValueError(f"{name}: must make a pliant.Compressor, found {type(compressor).__name__}")
    try:
        options_of(compressor)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    return compressor
