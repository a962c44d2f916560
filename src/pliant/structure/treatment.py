"""What a plan can say about a parameter: constrained, free, or joined to its filter's atom."""

from __future__ import annotations

from dataclasses import dataclass, field

from pliant.regions.gauges import Gauge
from pliant.regions.views import Entries, Filters, Singular
from pliant.spec import register
from pliant.structure.radius import InitScaled, RadiusRule


@dataclass(frozen=True)
class Constraint:
    """A ball whose axes and radius are still to be read from the parameter.

    Args:
        gauge: the norm on magnitudes.
        view: `Entries`, `Filters` or `Singular`: the class, since the axes come from the layer.
        radius: the radius rule.
    """

    gauge: Gauge
    view: type[Entries | Filters | Singular] = Entries
    radius: RadiusRule = field(default_factory=InitScaled)


@register
@dataclass(frozen=True)
class Free:
    """No constraint: a plain SGD step inside the same optimizer, with its own hyper-parameters.

    Args:
        lr: learning rate, at least 0; its own, it neither follows nor disturbs that of the constrained groups.
        momentum: heavy-ball momentum in [0, 1).
        weight_decay: at least 0.
    """

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"lr must be at least 0, found {self.lr!r}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), found {self.momentum!r}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"weight_decay must be at least 0, found {self.weight_decay!r}")


@dataclass(frozen=True)
class Joined:
    """A norm layer's scale and shift become part of the atom of the filter that they follow.

    Atom i is (filter i, its bias, scale i, shift i), each tensor divided by its initial norm: one ball for all of them.
    A norm layer that follows no constrained layer is treated as `otherwise`.

    Args:
        otherwise: the treatment of norm layers that cannot be joined.
    """

    otherwise: Constraint | Free = field(default_factory=Free)


Treatment = Constraint | Free
