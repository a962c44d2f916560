"""What a number was measured on."""

from __future__ import annotations

import datetime as dt
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

import pliant


@dataclass(frozen=True)
class Machine:
    """Where and when.

    Args:
        cpu: model name.
        cores: that this process may use.
        threads: that torch uses.
        device: "cpu", or the name of the GPU.
        torch: version.
        pliant: version.
        date: in UTC, ISO 8601.
        load: of the machine over the last minute, before the run: 0 on a quiet one.
    """

    cpu: str
    cores: int
    threads: int
    device: str
    torch: str
    pliant: str
    date: str
    load: float

    def __str__(self) -> str:
        where = self.cpu if self.device == "cpu" else f"{self.device} ({self.cpu})"
        many = f"{self.cores} core{'s' * (self.cores > 1)}, {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{where}, {many}, torch {self.torch}, pliant {self.pliant}, {self.date}, load before {self.load:.1f}"


def describe(device: torch.device) -> Machine:
    """Return the machine that this process runs on."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        torch=torch.__version__,
        pliant=pliant.__version__,
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        load=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
