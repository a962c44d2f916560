"""Optional packages, imported only when a data set needs them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pliant.data.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: the dotted name, such as ``"pyarrow.parquet"``.

    Raises:
        MissingExtraError: the package is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"this data set needs {module!r}, which cannot be imported: pip install 'pliant[data]'"
        raise MissingExtraError(message) from error
