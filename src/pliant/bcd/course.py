"""Course: how a run goes on from sweep to sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

from pliant.bcd.errors import BCDError
from pliant.bcd.modes import HardMode, Mode
from pliant.bcd.penalties import Constant, Schedule


@dataclass(frozen=True)
class Course:
    """Options of a run; by default nothing but sweeps.

    Args:
        schedule: of the penalties.
        synchronise_every: sweeps after which U and V are set to a forward pass through G; 0 for never. The objective
            may rise there.
        hard_last: so many of the last sweeps are in `HardMode`, which closes the gap of W and G.
        measure_every: sweeps between measurements of objective and gap, and of accuracies where asked; 0 for never.
        tolerance: the run ends where the residual is at most this share of its first measurement; 0 measures none.

    Raises:
        BCDError: if a number is out of its range.
    """

    schedule: Schedule = field(default_factory=Constant)
    synchronise_every: int = 0
    hard_last: int = 0
    measure_every: int = 1
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("synchronise_every", "hard_last", "measure_every", "tolerance"):
            if not getattr(self, name) >= 0:
                raise BCDError(f"{name} must be at least 0, found {getattr(self, name)!r}")
        if self.tolerance and not self.measure_every:
            raise BCDError("a tolerance needs measurements: measure_every must be at least 1")

    def mode(self, sweep: int, sweeps: int, mode: Mode) -> Mode:
        """Return the mode of a sweep, counted from 0, of a run of so many."""
        return HardMode() if sweep >= sweeps - self.hard_last else mode

    def measures(self, done: int, sweeps: int) -> bool:
        """Tell whether there is a measurement after so many sweeps: every so often, and after the last."""
        return self.measure_every > 0 and (done % self.measure_every == 0 or done == sweeps)

    def synchronises(self, done: int, sweeps: int) -> bool:
        """Tell whether U and V are reset after so many sweeps; never after the last."""
        return self.synchronise_every > 0 and done % self.synchronise_every == 0 and done < sweeps
