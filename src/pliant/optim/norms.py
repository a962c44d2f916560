"""Euclidean norms of tensors of which every process has a part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pliant.sharding import groups_between, is_sharded


class Question:
    """Norms that a step rule asks for: heard first, for all points, and answered when it asks again.

    So that one collective answers all points, every rule is asked twice, the first time to hear what it wants to know.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        self.asked: list[Sequence[Tensor]] = []
        self.answers: list[Sequence[Tensor]] | None = None

    def __call__(self, norms: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return norms of the whole tensors for those of their parts; the first time these."""
        if self.answers is None:
            self.asked.append(norms)
            return norms
        return self.answers.pop(0)


def answer(questions: Sequence[Question]) -> None:
    """Answer all questions. Collective; one for tensors of one kind that are cut over the same processes."""
    items = [(norm, p) for q in questions for norms in q.asked for norm, p in zip(norms, q.params, strict=True)]
    found = iter(_whole_norms(items))
    for question in questions:
        question.answers = [[next(found) for _ in norms] for norms in question.asked]


def _whole_norms(items: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    kinds: dict[tuple[object, ...], list[int]] = {}
    for i, (norm, p) in enumerate(items):
        kinds.setdefault((norm.dtype, *(groups_between(p) if is_sharded(p) else ())), []).append(i)
    result = [norm for norm, _ in items]
    for members in kinds.values():
        p = items[members[0]][1]
        stacked = torch.stack([items[i][0] for i in members])
        if is_sharded(p):
            for group in groups_between(p):
                stacked = norm_over(stacked, group, torch.device(p.device_mesh.device_type))
        for i, norm in zip(members, stacked.unbind(), strict=True):
            result[i] = norm
    return result


def norm_over(norms: Tensor, group: dist.ProcessGroup, device: torch.device) -> Tensor:
    """Return Euclidean norms of tensors of which every process of a group gives the norm of its part. Collective.

    Norms travel, not their squares, whose sums depend on the order that a library adds them in.

    Args:
        norms: of this process's parts, any shape.
        group: the processes.
        device: where the group can send from.
    """
    everyone = torch.zeros((dist.get_world_size(group), *norms.shape), dtype=norms.dtype, device=device)
    everyone[dist.get_rank(group)] = norms
    dist.all_reduce(everyone, group=group)  # sums with zeros: a gathering, and exact
    return torch.linalg.vector_norm(everyone, dim=0).to(norms.device)
