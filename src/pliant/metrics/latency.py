"""How long one call takes, measured by torch's own benchmark timer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant.structure.example import Example, call, leaves_of
from pliant.structure.untouched import untouched


@dataclass(frozen=True)
class Timing:
    """The time of one call, and everything one has to know to measure it again.

    Args:
        median: seconds.
        iqr: interquartile range over the measured blocks of calls, in seconds.
        calls: how many were timed.
        threads: of torch, on the CPU.
        dtype: of the model's first parameter (of the example, if it has none).
        device: that the model lies on.
        shapes: of the tensors of the example, the batch first.
    """

    median: float
    iqr: float
    calls: int
    threads: int
    dtype: str
    device: str
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{1e3 * self.median:.3g} ms (IQR {1e3 * self.iqr:.2g} ms, {self.calls} calls), {threads}, {self.dtype}, "
            f"{self.device}, example {shapes}"
        )


@dataclass(frozen=True)
class Latency:
    """How to measure latency.

    Args:
        threads: of torch while measuring; None: as many as torch uses now.
        seconds: to spend at least, for each model.

    Raises:
        ValueError: if one of them is not positive.
    """

    threads: int | None = None
    seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.threads is not None and (isinstance(self.threads, bool) or self.threads < 1):
            raise ValueError(f"threads must be a count of at least 1, or None, found {self.threads!r}")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be a positive number, found {self.seconds!r}")

    def measure(self, model: nn.Module, example: Example) -> Timing:
        """Time calls in evaluation mode without gradients; the model is left as it was.

        Args:
            model: any module.
            example: what the model can be called with; its batch size counts.
        """
        from torch.utils.benchmark import Timer  # noqa: PLC0415  (takes longer to import than all of pliant)

        threads = torch.get_num_threads() if self.threads is None else self.threads
        names = {"call": call, "model": model, "example": example}
        timer = Timer("call(model, example)", globals=names, num_threads=threads)
        with untouched(model), torch.no_grad():
            found = timer.blocked_autorange(min_run_time=self.seconds)
        tensors = [leaf for leaf in leaves_of(example) if isinstance(leaf, Tensor)]
        first = next(iter([*model.parameters(), *tensors]), torch.empty(0))
        return Timing(
            median=found.median,
            iqr=found.iqr,
            calls=len(found.times) * found.number_per_run,
            threads=threads,
            dtype=str(first.dtype).removeprefix("torch."),
            device=str(first.device),
            shapes=tuple(tuple(tensor.shape) for tensor in tensors),
        )


def latency(model: nn.Module, example: Example, *, threads: int | None = None, seconds: float = 0.5) -> Timing:
    """Time one call of a model: median and interquartile range over blocks of calls.

    Args:
        model: any module; it is left as it was.
        example: what the model can be called with; its batch size counts.
        threads: of torch while measuring; None: as many as torch uses now.
        seconds: to spend at least.

    Raises:
        ValueError: if `threads` or `seconds` is not positive.

    Reference: `torch.utils.benchmark.Timer.blocked_autorange`.

    >>> timing = latency(torch.nn.Linear(8, 8), torch.randn(4, 8), threads=1, seconds=0.01)
    >>> timing.threads, timing.dtype, timing.shapes
    (1, 'float32', ((4, 8),))
    """
    return Latency(threads, seconds).measure(model, example)
