"""Small reference models, one architecture a file."""

from pliant.models.registry import NAMES, create

__all__ = ["NAMES", "create"]
