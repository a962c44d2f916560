"""Given: the inputs that a run started with, known again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs at the start of a run.

    Args:
        x: the tensor, not copied.
        version: how often it had been changed in place.
    """

    x: Tensor
    version: int

    @classmethod
    def of(cls, x: Tensor) -> Given:
        """Return inputs as they are now."""
        return cls(x, _version(x))

    def __getstate__(self) -> tuple[Tensor, int]:
        """Return the inputs and how often they have changed since: torch counts the changes of a copy anew."""
        return self.x, _version(self.x) - self.version

    def __setstate__(self, state: tuple[Tensor, int]) -> None:
        """Take the state of a copy."""
        object.__setattr__(self, "x", state[0])
        object.__setattr__(self, "version", _version(state[0]) - state[1])

    def is_still(self, x: Tensor) -> bool:
        """Tell whether it is the very tensor, and nothing has changed it in place since."""
        return x is self.x and _version(x) == self.version


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version  # noqa: SLF001  (what autograd counts by; inference counts nothing)
