"""Small trainings, each of which runs alike in one process and in several."""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pliant.optim import SFW, GradientScaled
from pliant.regions import Ball, Coupled, Entries, Filters, TopK
from pliant.sharding import part_of, sharded_like, whole
from pliant.structure import Constraint, Free, InitScaled, Joined, Plan, Rule

BATCH = 16
EXAMPLE = torch.zeros(1, 3, 6, 6, dtype=torch.float64)


def net(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 10, 3, padding=1),  # 10 and 7 filters: no even number of them on 4 processes
        nn.GroupNorm(2, 10),
        nn.ReLU(),
        nn.Conv2d(10, 7, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(28, 5),  # on 4 processes the last holds nothing of it
    ]
    return nn.Sequential(*layers).to(dtype)


def batch(step, dtype=torch.float64):
    draws = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(BATCH, 3, 6, 6, generator=draws, dtype=torch.float64)
    return x.to(dtype), torch.randint(5, (BATCH,), generator=draws)


POLYTOPE = [
    Rule(Constraint(TopK(0.1, math.inf), Filters, InitScaled(3.0)), modules=(nn.Conv2d,), local="weight"),
    Rule(Constraint(TopK(0.1, math.inf), Entries, InitScaled(3.0)), local="weight"),
    Rule(Free(lr=0.1, momentum=0.9)),
]
PLANS = {
    "filters": lambda model: Plan.for_filters(model, k=0.3),
    "joined": lambda model: Plan.for_filters(model, k=0.3, norms=Joined(), example=EXAMPLE.to(_dtype(model))),
    "entries": lambda model: Plan.for_unstructured(model, k=0.3),
    "rank": lambda model: Plan.for_low_rank(model, k=0.3),
    "polytope": lambda model: Plan.from_rules(model, POLYTOPE),
    "free": lambda model: Plan.from_rules(model, [Rule(Free(lr=0.1, momentum=0.9, weight_decay=1e-3))]),
}


def _dtype(model):
    return next(model.parameters()).dtype


SHARDED = {"fsdp", "hsdp"}


def spread(kind, model):
    """Shard a model, or leave it whole; return what is called in training."""
    if kind in SHARDED:
        mesh = None if kind == "fsdp" else init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        for layer in (model[0], model[3], model):
            fully_shard(layer, mesh=mesh or init_device_mesh("cpu", (dist.get_world_size(),)))
    return DistributedDataParallel(model) if kind == "ddp" else model


@dataclass
class Scene:
    model: nn.Module  # what is called
    inner: nn.Module  # whose parameters are trained
    optimizer: SFW

    def weights(self):
        return {name: whole(p).detach().clone() for name, p in self.inner.named_parameters()}

    def momenta(self):
        return [whole(self.optimizer.state[p]["momentum_buffer"]).clone() for p in self.inner.parameters()]


def scene(kind, plan, *, dtype=torch.float64, **options):
    """Return a training: of "one" process, or of several with "ddp", "fsdp" or "hsdp"."""
    model = net(dtype)
    made = PLANS[plan](model)
    called = spread(kind, model)
    if kind in SHARDED:
        made = Plan.from_json(model, made.to_json())
    made.make_feasible()
    optimizer = SFW(made, **({"lr": 0.1, "step_rule": GradientScaled()} | options))
    return Scene(called, model, optimizer)


def share(x):
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return x.chunk(world)[rank]


def train(scene, steps, start=0):
    for step in range(start, start + steps):
        scene.optimizer.step(partial(evaluated, scene, *(share(part) for part in batch(step, _dtype(scene.inner)))))
    return scene


def evaluated(scene, x, y):
    scene.optimizer.zero_grad()
    loss = nn.functional.cross_entropy(scene.model(x), y)
    loss.backward()
    return loss


def weights_after(kind, plan, steps, options):
    return train(scene(kind, plan, **options), steps).weights()


# Bare parameters under gradients of their own: every region, any placement.


def placed(x, placements, shape):
    if placements is None:
        return nn.Parameter(x)
    mesh = init_device_mesh("cpu", shape)
    return nn.Parameter(distribute_tensor(x, mesh, placements if x.ndim else [REPLICATE] * mesh.ndim))


@dataclass
class Outcome:
    weights: list
    momenta: list
    memories: list
    accounts: list


def bare(groups, shapes, steps, options, *, placements, mesh_shape, silent=(), dtype=torch.float64):
    """Train parameters on random gradients; return all that came of it, whole."""
    params = [placed(start(i, shape).to(dtype), placements, mesh_shape) for i, shape in enumerate(shapes)]
    made = [group | {"params": [params[i] for i in group["params"]]} for group in groups]
    optimizer = SFW(made, **({"lr": 0.002} | options))
    for step in range(steps):
        for i, p in enumerate(params):
            grad = gradient(step, i, shapes[i]).to(p.dtype)
            if i not in silent:
                p.grad = sharded_like(part_of(grad, p), p) if isinstance(p, DTensor) else grad
        optimizer.step()
    states = [optimizer.state[p] for p in params]
    return Outcome(
        [whole(p).detach() for p in params],
        [whole(state["momentum_buffer"]) for state in states if "momentum_buffer" in state],
        [state.get("oracle", {}) for state in states],
        [[state[key] for key in ("steps", "step_size", "kept") if key in state] for state in states],
    )


def joint_ball(k):
    return Ball(TopK(k), Coupled((Filters(), Filters())), 1.0)


def start(i, shape):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def gradient(step, i, shape):
    fixed = torch.randn(shape, generator=torch.Generator().manual_seed(7 * i + 1), dtype=torch.float64)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + i), dtype=torch.float64)
    return fixed + noise


SHARD0, SHARD1, REPLICATE = Shard(0), Shard(1), Replicate()
__all__ = ["REPLICATE", "SHARD0", "SHARD1", "bare", "scene", "train", "weights_after"]
