"""Times of several candidates, taken in turns, so that ratios mean something on a machine that is not quiet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch.utils import benchmark

Clock = Callable[[], float]


@dataclass(frozen=True)
class Effort:
    """How much time a measurement may take.

    Args:
        seconds: for one candidate in one round.
        rounds: how often every candidate has its turn, at least 1.
        patience: seconds; of a candidate whose call takes longer, one call after the first is the measurement.
    """

    seconds: float
    rounds: int
    patience: float


@dataclass(frozen=True)
class Timing:
    """Seconds a call.

    Args:
        rounds: the median of each round.
        median: of all samples.
        iqr: interquartile range of all samples; 0 for a single one.
        calls: how many calls were timed.
    """

    rounds: tuple[float, ...]
    median: float
    iqr: float
    calls: int

    def over(self, reference: Timing) -> float:
        """Return the ratio to another candidate: the median over the rounds that both took part in, turn by turn."""
        if len(self.rounds) != len(reference.rounds):
            return self.median / reference.median
        return median(mine / other for mine, other in zip(self.rounds, reference.rounds, strict=True))


class EventClock:
    """Seconds since the clock was made, read from CUDA events, after all work in flight is done."""

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)
        self._start.record()

    def __call__(self) -> float:
        now = torch.cuda.Event(enable_timing=True)
        now.record()
        now.synchronize()
        return self._start.elapsed_time(now) / 1000


def clock(device: torch.device) -> Clock:
    """Return what tells the time on a device: the host's clock, or CUDA events."""
    return EventClock() if device.type == "cuda" else benchmark.timer


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    effort: Effort,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time candidates in turns.

    Args:
        candidates: what to call, by name; each is called once before anything is timed.
        device: where they run.
        effort: how long to measure.
        between: called before every round, untimed: new gradients, for example.
    """
    between()
    slow = {name: _slow(call, device, effort) for name, call in candidates.items()}
    rounds: dict[str, list[benchmark.Measurement]] = {name: [] for name in candidates}
    for number in range(effort.rounds):
        between()
        for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:  # no candidate always runs in another's wake
            if slow[name] is None:
                rounds[name].append(_timer(candidates[name], device).blocked_autorange(min_run_time=effort.seconds))
    return {name: slow[name] or _merged(taken) for name, taken in rounds.items()}


def spread(samples: list[float], rounds: tuple[float, ...] = ()) -> Timing:
    """Return the timing of these samples, in seconds a call."""
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (0.0, 0.0, 0.0)
    return Timing(rounds or tuple(samples), median(samples), high - low, len(samples))


def _slow(call: Callable[[], object], device: torch.device, effort: Effort) -> Timing | None:
    """Call once or twice; return the second's time if the first took too long to be repeated."""
    now = clock(device)
    start = now()
    call()
    middle = now()
    if middle - start <= effort.patience:
        return None
    call()
    seconds = now() - middle
    return spread([seconds]) if seconds > effort.patience else None  # the first call may have set things up


def _timer(call: Callable[[], object], device: torch.device) -> benchmark.Timer:
    return benchmark.Timer("call()", timer=clock(device), globals={"call": call}, num_threads=torch.get_num_threads())


def _merged(taken: list[benchmark.Measurement]) -> Timing:
    times = [seconds for measurement in taken for seconds in measurement.times]
    merged = spread(times, tuple(median(measurement.times) for measurement in taken))
    calls = sum(len(m.raw_times) * m.number_per_run for m in taken)
    return Timing(merged.rounds, merged.median, merged.iqr, calls)
