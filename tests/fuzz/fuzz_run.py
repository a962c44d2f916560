"""Feed mutated files to every reader: only its own errors may come out, soon, and in bounded memory."""

import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from fuzz_mutate import mutate

SECONDS = 20  # for one input, on a machine that may be busy
MEMORY = Path("/dev/shm")  # noqa: S108  (files are gone with the process)
HEADROOM = 2 * 2**30  # bytes of address space beyond those of the process before


class HangError(BaseException):
    """An input takes too long; no reader catches it."""


@dataclass(frozen=True)
class Report:
    """What became of the inputs of one reader."""

    inputs: int
    accepted: int
    seconds: float
    slowest: float
    growth: int
    failures: tuple[str, ...]

    def __str__(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-9)
        return (
            f"{self.inputs:7,} inputs, {self.accepted:6,} accepted, {rate:7.0f}/s, slowest {self.slowest:.2f} s, "
            f"memory +{self.growth / 2**20:.0f} MiB, {len(self.failures)} failures"
        )


def feed(reader, content, folder):
    """Give one input to a reader; return whether it was accepted."""
    path = Path(folder) / reader.name
    path.write_bytes(content)
    try:
        reader.read(path)
    except reader.errors:
        return False
    return True


def fuzz(reader, inputs, seed, folder, keep=None):
    """Feed a number of inputs and report; inputs that fail are written to `keep`."""
    rng, accepted, slowest, failures = random.Random(seed), 0, 0.0, []  # noqa: S311
    before, began = _memory(), time.monotonic()
    for number in range(inputs):
        content = reader.wrap(mutate(rng.choice(reader.seeds), reader.seeds, reader.words, rng))
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            accepted += feed(reader, content, folder)
        except (Exception, HangError) as error:  # noqa: BLE001  (whatever it is, it is a finding)
            failures.append(_failure(error, content, number, keep))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - start)
    growth = _memory() - before
    return Report(inputs, accepted, time.monotonic() - began, slowest, growth, tuple(failures))


def _memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _failure(error, content, number, keep):
    where = traceback.extract_tb(error.__traceback__)[-1]
    if keep is not None:
        (keep / f"{number}-{type(error).__name__}").write_bytes(content)
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error!s:.100}"


def prepare():
    """Bound time and memory of this process."""

    def too_long(_number, _frame):
        raise HangError

    signal.signal(signal.SIGALRM, too_long)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.disable()
    warnings.simplefilter("ignore")


def fuzz_apart(name, reader, inputs, seed, keep):
    """Fuzz in a process of its own, so that a crash is a finding and ends nothing; return whether all went well."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        return _fuzz_in(Path(folder), name, reader, (inputs, seed), keep)


def _fuzz_in(folder, name, reader, amount, keep):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            report = fuzz(reader, *amount, folder, keep)
            print(f"{name:22}{report}", flush=True)  # noqa: T201
            for line, times in _counted(report.failures):
                print(f"    {times} x {line}", flush=True)  # noqa: T201
            code = int(len(report.failures) > 0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        crashed = shutil.copy(folder / reader.name, keep / f"killed-by-{-code}")
        print(f"{name:22}killed by signal {-code} on {crashed}", flush=True)  # noqa: T201
    return code == 0


def _counted(lines):
    return sorted({line: lines.count(line) for line in lines}.items(), key=lambda pair: -pair[1])
