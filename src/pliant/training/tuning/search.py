"""Search: which setting comes next, decided by the trials before it and nothing else."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from pliant.training.tuning.space import suggest, told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.samplers import BaseSampler

    from pliant.report.rows import TrialRow
    from pliant.training.tuning.task import Task

_ATTEMPTS = 100


def next_setting(task: Task, done: Sequence[TrialRow]) -> dict[str, Any]:
    """Return the overrides of the next trial: a lead that is not done, or what the sampler proposes.

    The sampler is seeded by method, round and the number of the trial, and told all trials before it, so that a search
    that was interrupted goes on as it would have. Settings that were tried are not proposed again. A run that diverged
    counts as a score of 0.

    Args:
        task: the method.
        done: its trials so far.

    Raises:
        ImportError: the package optuna is not installed; the message says how to get it.
        ValueError: nothing new was found in the space.
    """
    tried = [row.overrides for row in done]
    for lead in task.tuning.leads:
        if lead not in tried:
            return lead
    for attempt in range(_ATTEMPTS):
        proposal = _propose(task, done, attempt)
        if proposal not in tried:
            return proposal
    raise ValueError(
        f"{task.method}: no new setting was found in {_ATTEMPTS} attempts; widen the space or lower trials"
    )


def _propose(task: Task, done: Sequence[TrialRow], attempt: int) -> dict[str, Any]:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = zlib.crc32(f"{task.method} {task.round} {len(done)} {attempt}".encode())
    study = optuna.create_study(direction="maximize", sampler=_sampler(task, seed, attempt))
    for row in done:
        known = told(task.tuning.space, row.overrides)
        if known is not None:
            params, distributions = known
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=row.score or 0.0)
            )
    return suggest(study.ask(), task.tuning.space)


def _sampler(task: Task, seed: int, attempt: int) -> BaseSampler:
    samplers = _optuna().samplers
    if task.effort.sampler == "random" or attempt > _ATTEMPTS // 2:
        random: BaseSampler = samplers.RandomSampler(seed=seed)
        return random
    tpe: BaseSampler = samplers.TPESampler(seed=seed, n_startup_trials=max(3, task.effort.trials // 3))
    return tpe


def _optuna() -> Any:  # noqa: ANN401  (an optional package)
    try:
        import optuna  # noqa: PLC0415  (an optional package)
    except ImportError as error:
        raise ImportError("pliant tune needs a package: pip install 'pliant[tune]'") from error
    return optuna
