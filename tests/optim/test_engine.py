"""The fast engine of SFW: batches beside the loop, warm beside exact, host reads, 16 bits, compiled steps."""

import copy
import io
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pliant.optim import (
    SFW,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    Master,
    NonFinite,
    Raw,
    Shrinkage,
    StochasticRounding,
)
from pliant.regions import (
    CATALOGUE,
    Ball,
    Coupled,
    Filters,
    Lp,
    Region,
    TopK,
    k_support_ball,
    l2_ball,
    spectral_k_support_ball,
)
from pliant.spec import register
from pliant.testing import HostReads
from pliant.testing.optimizer_laws import check_optimizer

RULES = [GradientScaled(), FastGradientScaled(), DiameterScaled(), Raw(), Shrinkage(1.0, 20)]


def every(radius):
    for name, make in CATALOGUE.items():
        options = {"k": 0.3} if "-k-" in f"-{name}" else {"p": 3.0} if name == "lp-ball" else {}
        yield name, make(radius=radius, **options)


REGIONS = dict(every(2.0))
SHAPES = [(8, 3, 3, 3), (8,), (6, 5), (8, 3, 3, 3), (8,), (), (5, 6), (8,), (300, 150)]


def params(shapes=SHAPES, dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter((0.1 * torch.randn(shape, generator=draws)).to(dtype)) for shape in shapes]


def inside(region, shapes=SHAPES):
    everyone = params(shapes)
    with torch.no_grad():
        for p in everyone:
            p.copy_(region.scale_into(p))
    return everyone


def run(optimizer, steps=6, silent=(), seed=1, scale=1.0):
    draws = torch.Generator().manual_seed(seed)
    every_one = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(steps):
        for i, p in enumerate(every_one):
            grad = scale * torch.randn(p.shape, generator=draws)
            p.grad = None if i in silent else grad.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in every_one]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("name", REGIONS)
def test_batches_and_the_loop_agree(name, rule):
    found = {}
    for foreach in (None, True, False):
        optimizer = SFW([{"params": params(), "region": REGIONS[name]}], lr=0.1, step_rule=rule, foreach=foreach)
        found[foreach] = run(optimizer, silent={3})
    for choice in (None, True):
        for a, b in zip(found[choice], found[False], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_large_matrices_agree_in_batches_and_alone():
    shapes = [(256, 300)] * 2
    region = spectral_k_support_ball(0.1, 2.0)
    found = [
        run(SFW([{"params": params(shapes), "region": region}], lr=0.1, foreach=foreach), steps=4)
        for foreach in (True, False)
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_points_of_other_radii_rates_and_dtypes_keep_their_own():
    def groups():
        a, b, c, d, e, f = params([(6, 5)] * 6)
        d = nn.Parameter(d.detach().double())
        joint = Ball(Lp(2.0), Coupled((Filters(), Filters())), 1.0)
        return [
            {"params": [a], "region": spectral_k_support_ball(2, 1.0)},
            {"params": [b], "region": spectral_k_support_ball(2, 3.0), "lr": 0.2},
            {"params": [c], "region": spectral_k_support_ball(2, 1.0), "lr": torch.tensor(0.05)},
            {"params": [d], "region": spectral_k_support_ball(2, 1.0), "momentum": 0.5, "dampening": 0.5},
            {"params": [e, f], "region": joint},
        ]

    together, alone = SFW(groups(), lr=0.1, foreach=True), [SFW([g], lr=0.1, foreach=False) for g in groups()]
    for step in range(5):
        separate = [p for optimizer in alone for g in optimizer.param_groups for p in g["params"]]
        for i, (p, q) in enumerate(zip([p for g in together.param_groups for p in g["params"]], separate, strict=True)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i)).to(p.dtype)
            q.grad = p.grad.clone()
        together.step()
        for optimizer in alone:
            optimizer.step()
    for p, q in zip([p for g in together.param_groups for p in g["params"]], separate, strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("policy", [NonFinite.IGNORE, NonFinite.SKIP, NonFinite.RAISE])
@pytest.mark.parametrize("name", REGIONS)
def test_a_step_never_waits_for_the_device(name, policy, foreach):
    groups = [{"params": params(), "region": REGIONS[name]}, {"params": params([(3, 3)]), "region": None}]
    for rule in (GradientScaled(), Shrinkage(1.0, 20)):
        optimizer = SFW(copy.deepcopy(groups), lr=0.1, step_rule=rule, nonfinite=policy, foreach=foreach)
        for _ in range(2):
            with HostReads() as seen:
                run_once = [p for group in optimizer.param_groups for p in group["params"]]
                for p in run_once:
                    p.grad = torch.ones_like(p)
                optimizer.step()
            allowed = 1 if policy is NonFinite.RAISE else 0  # whether to raise is for the host to know
            assert seen.reads.count("_local_scalar_dense") == allowed
            # The Schatten and l_p balls aside, nothing is factorised exactly.
            assert seen.factorisations == 0


@pytest.mark.parametrize("name", REGIONS)
def test_a_skipped_step_leaves_no_trace_and_the_run_goes_on(name):
    def fresh():
        groups = [{"params": params(), "region": REGIONS[name]}, {"params": params([(3, 3)]), "region": None}]
        return SFW(groups, lr=0.1, nonfinite=NonFinite.SKIP)

    skipping, other = fresh(), fresh()
    run(skipping, 2)
    run(other, 2)
    state = copy.deepcopy(skipping.state_dict()["state"])
    everyone = [p for group in skipping.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in everyone]
    everyone[2].grad[0] = float("inf")
    skipping.step()
    assert all(torch.equal(a, b) for a, b in zip(before, everyone, strict=True))
    for old, new in zip(state.values(), skipping.state.values(), strict=True):
        for key, value in old.items():
            pairs = value.items() if isinstance(value, dict) else [(None, value)]
            assert all(torch.equal(v, new[key] if k is None else new[key][k]) for k, v in pairs)
    for a, b in zip(run(skipping, 2, seed=5), run(other, 2, seed=5), strict=True):
        assert torch.equal(a, b)


def test_exact_oracles_are_todays_and_warm_ones_are_near():
    found = {}
    region = spectral_k_support_ball(0.3, 2.0)
    for exact in (True, False):
        optimizer = SFW(
            [{"params": inside(region), "region": region}],
            lr=0.5,
            step_rule=Shrinkage(1.0, 40),
            exact=exact,
        )
        run(optimizer, 20)
        found[exact] = optimizer.diagnostics()
    assert all(seen.quality == pytest.approx(1.0, abs=1e-5) for seen in found[True])
    assert all(0.95 < seen.quality <= 1.0 + 1e-5 for seen in found[False])
    assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in found[False])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_every_way_to_step_obeys_the_laws(exact, foreach):
    def make(model):
        groups = [{"params": list(model.named_parameters()), "region": spectral_k_support_ball(2, 1.0)}]
        return SFW(groups, lr=0.05, exact=exact, foreach=foreach)

    check_optimizer(make)


def test_checkpoints_from_before_an_option_existed_load():
    region = spectral_k_support_ball(2, 1.0)
    optimizer = SFW([{"params": inside(region), "region": region}], lr=0.1)
    run(optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for key in ("precision", "exact", "foreach"):
            del group[key]
    for state in saved["state"].values():
        state.pop("oracle", None)
    other = SFW([{"params": inside(region), "region": l2_ball(1.0)}], lr=0.5)
    other.load_state_dict(saved)
    assert other.param_groups[0]["precision"] == Master()
    run(other, 2)
    assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in other.diagnostics())


def test_the_state_is_one_buffer_and_a_narrow_subspace():
    p = params([(200, 400)])
    optimizer = SFW([{"params": p, "region": spectral_k_support_ball(0.05, 2.0)}], lr=0.1)
    run(optimizer, 2)
    state = optimizer.state[p[0]]
    tensors = [x for value in state.values() for x in (value.values() if isinstance(value, dict) else [value])]
    assert sum(x.numel() for x in tensors) <= p[0].numel() + 400 * (10 + 8) + 4


HALVES = [(torch.bfloat16, Master()), (torch.float16, Master()), (torch.bfloat16, StochasticRounding(3))]


@pytest.mark.parametrize(("dtype", "precision"), HALVES, ids=str)
@pytest.mark.parametrize("foreach", [True, False])
def test_weights_of_16_bits_shrink_as_those_of_32_do(dtype, precision, foreach):
    """A step of 1e-3 is below the rounding of bfloat16: without help nothing would move at all."""
    kept = {}
    for kind in (torch.float32, dtype):
        p = [nn.Parameter(torch.ones(64, 64, dtype=kind)) for _ in range(2)]
        region = k_support_ball(1, 1e6)
        optimizer = SFW(
            [{"params": p, "region": region}], lr=1.39e-3, step_rule=Raw(), precision=precision, foreach=foreach
        )
        for _ in range(100):
            for q in p:
                q.grad = torch.zeros_like(q)
            optimizer.step()
        kept[kind] = float(p[1].detach().float().mean())
    assert kept[torch.float32] == pytest.approx(0.870, abs=1e-3)
    assert kept[dtype] == pytest.approx(kept[torch.float32], rel=3e-3)


@pytest.mark.parametrize(("dtype", "precision"), HALVES, ids=str)
@pytest.mark.parametrize("region", [spectral_k_support_ball(2, 1.0), None], ids=["constrained", "free"])
def test_runs_of_16_bits_resume_to_the_bit(dtype, precision, region):
    def fresh():
        return SFW([{"params": params(SHAPES[:5], dtype), "region": region}], lr=0.05, precision=precision)

    whole, first, second = fresh(), fresh(), fresh()
    run(whole, 3)
    expected = run(whole, 3, seed=2)
    weights = run(first, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for p, weight in zip(second.param_groups[0]["params"], weights, strict=True):
            p.copy_(weight)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, run(second, 3, seed=2), strict=True))
    momentum = [state["momentum_buffer"] for state in second.state.values()]
    assert {m.dtype for m in momentum} == {torch.float32}


def loaded(p):
    p.copy_(torch.linspace(-1.0, 1.0, p.numel()).reshape(p.shape))


CHANGES = {
    "loaded": loaded,
    "clamped": lambda p: p.clamp_(-0.05, 0.05),
    "in part": lambda p: p[:1].zero_(),
    "behind autograd": lambda p: p.data.mul_(0.5),
}


@pytest.mark.parametrize(("dtype", "precision"), HALVES, ids=str)
@pytest.mark.parametrize("region", [k_support_ball(4, 2.0), None], ids=["constrained", "free"])
@pytest.mark.parametrize("change", CHANGES)
def test_steps_start_from_weights_of_16_bits_that_were_changed_between_them(dtype, precision, region, change):
    """What was set from outside must not come back from a wider copy: at a rate of 0 it stays as it is."""
    optimizer = SFW([{"params": params(SHAPES[:3], dtype), "region": region}], lr=0.05, precision=precision)
    run(optimizer, 3)
    (group,) = optimizer.param_groups
    with torch.no_grad():
        for p in group["params"]:
            CHANGES[change](p)
    expected = [p.detach().clone() for p in group["params"]]
    group["lr"] = 0.0
    assert all(torch.equal(a, b) for a, b in zip(expected, run(optimizer, 2), strict=True))


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("precision", [Master(), StochasticRounding()], ids=str)
def test_a_step_on_16_bits_never_waits_for_the_device(precision, foreach):
    groups = [{"params": params(SHAPES[:5], torch.bfloat16), "region": l2_ball(1.0)}]
    groups.append({"params": params([(3, 3)], torch.bfloat16), "region": None})
    optimizer = SFW(groups, lr=0.1, precision=precision, nonfinite=NonFinite.IGNORE, foreach=foreach)
    with HostReads() as seen:
        run(optimizer, 2)
    assert not seen.reads


def test_stochastic_rounding_is_right_on_average_and_leaves_bfloat16_alone():
    x = torch.tensor([1.0 + 2**-9, -1.0 - 2**-10, 1.0, float("inf"), 0.0]).repeat(20_000, 1)
    p, state, rule = x.bfloat16(), {}, StochasticRounding()
    rule.load(p, state)
    rule.store(p, x, state)
    first = p.clone()
    torch.testing.assert_close(p.double().mean(0)[:3], x.double().mean(0)[:3], atol=2e-4, rtol=0.0)
    assert {float(v) for v in p[:, 0]} == {1.0, 1.0 + 2**-7}
    assert torch.equal(p[:, 2:], x[:, 2:].bfloat16())
    rule.store(p, x, state)
    assert not torch.equal(first, p)


@pytest.mark.slow
@pytest.mark.timeout(900)  # the compiler takes its time
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler about itself
@pytest.mark.parametrize("region", [Ball(TopK(2), Filters(), 1.0), spectral_k_support_ball(2, 1.0)], ids=str)
def test_a_compiled_step_is_the_eager_one_and_is_compiled_at_most_twice(region):
    import torch._dynamo as dynamo  # noqa: PLC0415  (slow)

    def fresh():
        groups = [{"params": params(SHAPES[:1]), "region": region}]
        return SFW(groups, lr=torch.tensor(0.1), nonfinite=NonFinite.IGNORE)

    dynamo.reset()
    dynamo.utils.counters.clear()
    eager, compiled, graphs = fresh(), fresh(), []
    step = torch.compile(compiled.step)
    for number in range(5):
        for optimizer in (eager, compiled):
            draws = torch.Generator().manual_seed(number)
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.randn(p.shape, generator=draws)
            optimizer.param_groups[0]["lr"].mul_(0.9)
        eager.step()
        step()
        graphs.append(dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[1] == graphs[-1]
    pairs = zip(eager.param_groups[0]["params"], compiled.param_groups[0]["params"], strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", REGIONS)
def test_a_step_can_be_captured_in_a_graph(name):
    p = [nn.Parameter(q.detach().cuda()) for q in inside(REGIONS[name])]
    optimizer = SFW(
        [{"params": p, "region": REGIONS[name]}], lr=torch.tensor(0.1, device="cuda"), nonfinite=NonFinite.SKIP
    )
    for q in p:
        q.grad = torch.randn_like(q)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = [q.detach().clone() for q in p]
    graph.replay()
    assert all(not torch.equal(a, b) for a, b in zip(before, p, strict=True))
    assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in optimizer.diagnostics())


@dataclass(frozen=True)
class Foreign(Region):
    """A region of somebody else, which knows nothing of stacks: here a ball in disguise."""

    ball: Ball
    radius: float = 2.0
    arity: int = 1

    def value(self, x):
        return self.ball.value(x)

    def dual(self, g):
        return self.ball.dual(g)

    def vertex(self, g, state=None):
        return self.ball.vertex(g, state)

    def project(self, x):
        return self.ball.project(x)

    def diameter(self, shape):
        return self.ball.diameter(shape)

    def scale_into(self, x):
        return self.ball.scale_into(x)

    def contains(self, x, *, tol=1e-6):
        return self.ball.contains(x, tol=tol)

    def gap(self, x, g):
        return self.ball.gap(x, g)


@pytest.mark.parametrize("rule", RULES[:2], ids=lambda rule: type(rule).__name__)
def test_a_region_that_knows_nothing_of_stacks_steps_alone(rule):
    found = [
        run(SFW([{"params": params(), "region": region}], lr=0.1, step_rule=rule), silent={1})
        for region in (register(Foreign)(k_support_ball(4, 2.0)), k_support_ball(4, 2.0))
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
