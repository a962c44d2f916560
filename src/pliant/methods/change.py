"""ModuleChange: training in another parametrisation, ending as the plain architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class ModuleChange(ABC):
    """Swaps the layers of a model for others that are trained in their place, and back.

    Neither direction touches the model that it is given; its layers are left where they are and copied. Modes (training
    or evaluation), dtypes, devices and the state of all other layers are kept. `collapse(apply(model))` has the state
    dict of `model`: same names, same shapes, and the same values up to rounding wherever the parametrisation can
    represent them.
    """

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model with changed layers, which computes what the model computes where that can be."""

    @abstractmethod
    def collapse(self, model: nn.Module) -> nn.Module:
        """Return a copy of a changed model as the plain architecture, which computes what the changed model computes.

        Args:
            model: what `apply` returned, trained or not.
        """
