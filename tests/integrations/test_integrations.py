"""What loops of other libraries get from pliant: the right schedule, true numbers, nothing imported unasked."""

import copy
import subprocess
import sys
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import pliant
from pliant.export import to_torch_export
from pliant.integrations import Sweep, progress, shrinking_sfw
from pliant.integrations.setup import unwrapped
from pliant.methods import CrAM, Cramming, GroupLasso, RandomCut, operator_of, penalised, penalised_groups
from pliant.optim import ProximalSGD
from pliant.optim.steps import Constant, Cosine, Linear

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's libraries warn of each other


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def take(model, optimizer, scheduler, steps):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        scheduler.step()


def test_nothing_is_imported_unasked():
    code = (
        "import sys, pliant, pliant.integrations; print({'lightning', 'transformers', 'accelerate'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"  # noqa: S603


def test_the_shrinkage_of_a_run_is_what_was_asked_for_and_free_groups_end_at_rest():
    model = small_net()
    optimizer, scheduler = shrinking_sfw(pliant.Plan.for_filters(model, k=0.5), steps=20, total=1.5)
    take(model, optimizer, scheduler, 20)
    numbers = progress(optimizer)
    assert numbers["pliant/shrinkage"] == pytest.approx(1.5)
    assert 0 < numbers["pliant/kept"] < 1
    assert 0 < numbers["pliant/fullness"] <= 1 + 1e-6
    assert {group["lr"] for group in optimizer.param_groups if group["region"] is None} == {0.0}
    assert {group["lr"] for group in optimizer.param_groups if group["region"] is not None} == {1.0}


@pytest.mark.parametrize("profile", [Linear(), Constant(), Cosine()])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_runs_too_short_for_their_shrinkage_get_what_they_can_have(profile, steps):
    model = small_net()
    plan = pliant.Plan.for_filters(model, k=0.5)
    with pytest.warns(UserWarning, match=f"total=20 over steps={steps} .* total is"):
        optimizer, scheduler = shrinking_sfw(plan, steps=steps, total=20.0, profile=profile)
    take(model, optimizer, scheduler, steps)
    assert progress(optimizer)["pliant/shrinkage"] == pytest.approx(1 / profile.peak(steps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0, "total": 1.5}, "steps must be at least 1"),
        ({"steps": 5, "total": float("inf")}, "total must be positive and finite"),
        ({"steps": 5, "total": 0.0}, "total must be positive and finite"),
    ],
)
def test_a_run_without_steps_or_shrinkage_is_refused_and_the_weights_stay(options, message):
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        shrinking_sfw(pliant.Plan.for_filters(model, k=0.5), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("error:total=")
def test_a_run_that_just_has_its_shrinkage_is_not_warned_of():
    shrinking_sfw(pliant.Plan.for_filters(small_net(), k=0.5), steps=2, total=1.5)


def test_fullness_says_what_is_infeasible():
    model = small_net()
    optimizer, _ = shrinking_sfw(pliant.Plan.for_filters(model, k=0.5), steps=20, total=1.5)
    with torch.no_grad():
        model[0].weight.mul_(1000)
    assert progress(optimizer)["pliant/fullness"] > 1


def test_other_optimizers_have_no_numbers():
    assert progress(torch.optim.SGD(small_net().parameters(), lr=0.1)) == {}


def test_wrapped_optimizers_are_found():
    from accelerate import Accelerator  # noqa: PLC0415

    model = small_net()
    optimizer, _ = shrinking_sfw(pliant.Plan.for_filters(model, k=0.5), steps=20, total=1.5)
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    assert unwrapped(wrapped) is optimizer
    assert progress(wrapped) == progress(optimizer)
    operators = [operator_of(pliant.FilterPruning(), model, torch.zeros(1, 6))]
    assert progress(RandomCut(optimizer, model, operators, (0.0, 0.5))) == progress(optimizer)


def test_exact_zeros_come_through_the_wrapper_of_accelerate():
    from accelerate import Accelerator  # noqa: PLC0415

    model = small_net()
    weights = penalised(model, [GroupLasso(1e3)])
    wrapped = Accelerator(cpu=True).prepare(ProximalSGD(penalised_groups(model, weights), lr=0.1, prox_every=None))
    unwrapped(wrapped).prox()
    assert not any(weight.parameter.any() for weight in weights)


def test_a_sweep_leaves_the_model_alone():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    sweep = Sweep(pliant.FilterPruning(), [0.0, 0.5], torch.zeros(1, 6), lambda cut: float(cut(torch.ones(1, 6)).sum()))
    assert sweep.run(model) == sweep.rows
    assert [row.fraction for row in sweep.rows] == [0.0, 0.5]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gpt2_with_linear_layers_computes_the_same_and_can_be_cut_by_heads_and_rank():
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    from pliant.integrations.transformers import linear_projections  # noqa: PLC0415

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0)).eval()
    ids = torch.randint(32, (2, 8))
    before = model(ids).logits
    assert len(linear_projections(model)) == 4
    torch.testing.assert_close(model(ids).logits, before)
    heads = pliant.compress(model, pliant.FilterPruning(), 0.5, example=ids)
    assert heads.cut.atoms["transformer.h.0.attn.c_attn"] == 4
    assert heads.report.relative_difference < 1e-5
    rank = pliant.compress(model, pliant.LowRank(), 0.8, example=ids)
    assert rank.report.after.macs < rank.report.before.macs


def bert():
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    return BertModel(BertConfig(**sizes, intermediate_size=24), add_pooling_layer=False)


def gpt2():
    from transformers import GPT2Config, GPT2Model  # noqa: PLC0415

    from pliant.integrations.transformers import linear_projections  # noqa: PLC0415

    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 4}
    model = GPT2Model(GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0))
    linear_projections(model)
    return model


@pytest.mark.parametrize("make", [bert, gpt2])
def test_transformers_are_trained_under_groups_of_heads_and_rank_then_cut_and_exported(make, tmp_path):
    torch.manual_seed(0)
    model = _Hidden(make())
    ids = torch.randint(32, (2, 8))
    heads = pliant.Plan.for_filters(model, k=0.5, coupled=True, example=ids)
    rank = pliant.Plan.for_low_rank(model, k=0.25)
    for plan, compressor in ((heads, pliant.FilterPruning()), (rank, pliant.LowRank())):
        optimizer, scheduler = shrinking_sfw(plan, steps=3, total=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(ids).square().sum().backward()
            optimizer.step()
            scheduler.step()
        assert progress(optimizer)["pliant/fullness"] <= 1 + 1e-5
        small = pliant.compress(model.eval(), compressor, 0.7, example=ids)
        assert small.report.after.macs < small.report.before.macs
        assert small.report.relative_difference < 1e-4
        to_torch_export(small.model, ids, tmp_path / "small.pt2", dynamic_batch=False)


class _Hidden(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        return self.inner(input_ids=ids).last_hidden_state


@pytest.mark.parametrize(
    ("options", "examples", "expected"),
    [
        ({"max_steps": 7}, 100, 7),
        ({"num_train_epochs": 3, "per_device_train_batch_size": 8}, 20, 9),
        ({"num_train_epochs": 3, "per_device_train_batch_size": 8, "dataloader_drop_last": True}, 20, 6),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 20, 6),
    ],
)
def test_the_steps_of_a_trainer_are_those_it_takes(tmp_path, options, examples, expected):
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415

    from pliant.integrations.transformers import PliantTrainerCallback, steps_of  # noqa: PLC0415

    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1, **options
    )
    assert steps_of(arguments, examples) == expected
    model = _Scored(small_net())
    data = [{"x": torch.randn(6)} for _ in range(examples)]
    optimizers = shrinking_sfw(pliant.Plan.for_filters(model, k=0.5), steps=expected, total=1.0)
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=optimizers, callbacks=[PliantTrainerCallback()])
    trainer.train()
    assert trainer.state.global_step == expected
    assert trainer.state.log_history[-1]["pliant/shrinkage"] == pytest.approx(1.0)


IMAGE = torch.linspace(-1, 1, 6)


def around(model):
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    operators = [operator_of(pliant.FilterPruning(), model.net, torch.zeros(1, 6))]
    return RandomCut(inner, model, operators, (0.0, 0.3, 0.6), seed=1)


def trained_at_random_cuts():
    """Ten steps of an own loop."""
    model = _Scored(small_net())
    optimizer = around(model)
    for _ in range(10):
        optimizer.begin()
        model(IMAGE.expand(8, 6))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trainer_takes_gradients_at_random_cuts_as_an_own_loop_does(tmp_path, accumulated):
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415

    from pliant.integrations.transformers import PliantTrainerCallback  # noqa: PLC0415

    model = _Scored(small_net())
    options = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "max_grad_norm": 0.0}
    size = 8 // accumulated
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=10,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated,
        lr_scheduler_type="constant",
        **options,
    )
    data = [{"x": IMAGE}] * 80
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=(around(model), None),
        callbacks=[PliantTrainerCallback()],
    )
    trainer.train()
    for a, b in zip(model.parameters(), trained_at_random_cuts().parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_that_a_trainer_skips_leaves_the_model_whole():
    from transformers import TrainerControl, TrainerState, TrainingArguments  # noqa: PLC0415

    from pliant.integrations.transformers import PliantTrainerCallback  # noqa: PLC0415

    model = _Scored(small_net())
    before = copy.deepcopy(model.state_dict())
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    operators = [operator_of(pliant.FilterPruning(), model.net, torch.zeros(1, 6))]
    optimizer = RandomCut(inner, model, operators, (0.5,))
    callback, seen = PliantTrainerCallback(), (TrainingArguments("unused"), TrainerState(), TrainerControl())
    callback.on_step_begin(*seen, optimizer=optimizer)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    callback.on_step_end(*seen, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_trainer_that_is_run_again_after_a_failure_begins_with_the_whole_model(tmp_path):
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415

    from pliant.integrations.transformers import PliantTrainerCallback  # noqa: PLC0415

    seen = []

    class Failing(_Scored):
        def forward(self, x):
            seen.append(bool(self.net[0].weight.any(1).all()))
            if len(seen) == 1:
                raise InterruptedError
            return super().forward(x)

    model = Failing(small_net())
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = RandomCut(inner, model, [operator_of(pliant.FilterPruning(), model.net, torch.zeros(1, 6))], (0.5,))
    options = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "max_steps": 1}
    data = [{"x": IMAGE}] * 8
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), eval_strategy="steps", eval_on_start=True, **options),
        train_dataset=data,
        eval_dataset=data,
        optimizers=(optimizer, None),
        callbacks=[PliantTrainerCallback()],
    )
    trainer.args.eval_on_start = False
    with pytest.raises(InterruptedError):
        trainer.train()
    trainer.args.eval_on_start = True
    trainer.train()
    assert seen[:3] == [False, True, False]  # failing, evaluated, trained


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def lightning_module(optimizers=None, before_batch=None):
    """A module trained at random cuts, or by what `optimizers` makes for it; it notes filters gone in validation."""
    from lightning.pytorch import LightningModule  # noqa: PLC0415

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_net()
            self.removed = []

        def on_train_batch_start(self, batch, batch_idx):
            del batch
            return before_batch(batch_idx) if before_batch else None

        def training_step(self, x):
            return self.net(x).square().mean()

        def validation_step(self, x):
            self.log("val", self.net(x).square().mean())
            self.removed.append(sum(not row.any() for row in self.net[0].weight))

        def configure_optimizers(self):
            return (optimizers or around)(self)

    return Module()


def fit_lightning(module, images=20, validate=True, **options):
    """Fit with a callback of ours; return the trainer."""
    from lightning.pytorch import Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback  # noqa: PLC0415

    callbacks = [PliantCallback(every_n_steps=1), *options.pop("callbacks", [])]
    trainer = Trainer(
        callbacks=callbacks, **QUIET | {"enable_checkpointing": len(callbacks) > 1, "max_epochs": 1} | options
    )
    load = torch.utils.data.DataLoader
    trainer.fit(module, load([IMAGE] * images, batch_size=1), load([IMAGE], batch_size=1) if validate else None)
    return trainer


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_takes_gradients_at_random_cuts_as_an_own_loop_does(accumulated):
    from lightning.pytorch import Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback  # noqa: PLC0415

    module, load = lightning_module(), torch.utils.data.DataLoader
    options = {"max_epochs": 1, "accumulate_grad_batches": accumulated, "val_check_interval": 1}
    callbacks = [PliantCallback()] if accumulated > 1 else []
    trainer = Trainer(callbacks=callbacks, enable_checkpointing=False, **options, **QUIET)
    trainer.fit(module, load([IMAGE] * 80, batch_size=8 // accumulated), load([IMAGE], batch_size=1))
    assert len(module.removed) > 10
    assert not any(module.removed)
    for a, b in zip(module.parameters(), trained_at_random_cuts().parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("way", ["callback", "begin", "unwrapped"])
def test_manual_optimization_takes_gradients_at_random_cuts_as_an_own_loop_does(way):
    from lightning.pytorch import Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback  # noqa: PLC0415

    def by_hand(module, x):
        optimizer = module.optimizers()
        if way != "callback":
            (optimizer if way == "begin" else unwrapped(optimizer)).begin()
            optimizer.pause()
            assert module.net[0].weight.any(1).all()
            assert not optimizer.begun
            optimizer.begin()
            assert optimizer.begun
        module.manual_backward(module.net(x).square().mean())
        optimizer.step()
        optimizer.zero_grad()

    module, load = lightning_module(), torch.utils.data.DataLoader
    module.automatic_optimization = False
    type(module).training_step = by_hand
    callbacks = [PliantCallback()] if way == "callback" else []
    Trainer(callbacks=callbacks, enable_checkpointing=False, max_epochs=1, **QUIET).fit(
        module, load([IMAGE] * 80, batch_size=8)
    )
    assert module.trainer.optimizers[0].taken == 10
    for a, b in zip(module.parameters(), trained_at_random_cuts().parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_manual_optimization_that_forgets_to_cut_is_told():
    def by_hand(module, x):
        module.manual_backward(module.net(x).square().mean())
        module.optimizers().step()

    from lightning.pytorch import Trainer  # noqa: PLC0415

    module = lightning_module()
    module.automatic_optimization = False
    type(module).training_step = by_hand
    with pytest.raises(ValueError, match=r"call begin\(\) before the forward pass"):
        Trainer(enable_checkpointing=False, max_epochs=1, **QUIET).fit(module, torch.utils.data.DataLoader([IMAGE] * 2))


@pytest.mark.parametrize("with_callback", [True, False])
def test_cram_is_refused_where_lightning_accumulates(with_callback):
    from lightning.pytorch import Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback  # noqa: PLC0415

    def cram(module):
        inner = torch.optim.SGD(module.parameters(), lr=0.1)
        return CrAM(inner, module, operator_of(pliant.LowRank(), module.net, torch.zeros(1, 6)), Cramming((0.5,)))

    callbacks = [PliantCallback()] if with_callback else []
    options = QUIET | {"enable_checkpointing": False, "max_epochs": 1, "callbacks": callbacks}
    data = torch.utils.data.DataLoader([IMAGE] * 16, batch_size=2)
    Trainer(**options).fit(lightning_module(cram), data)
    with pytest.raises(
        ValueError, match="accumulate_grad_batches=2" if with_callback else "evaluate all of them in it"
    ):
        Trainer(accumulate_grad_batches=2, **options).fit(lightning_module(cram), data)


@pytest.mark.parametrize("when", ["after validation", "by the clock"])
def test_checkpoints_of_lightning_in_mid_accumulation_are_of_the_whole_model_and_change_nothing(
    when, tmp_path, monkeypatch
):
    from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint  # noqa: PLC0415

    clock = SimpleNamespace(batch=0, monotonic=lambda: float(clock.batch))  # a second for a batch
    monkeypatch.setattr(model_checkpoint, "time", clock)
    plain, module = lightning_module(), lightning_module(before_batch=partial(setattr, clock, "batch"))
    fit_lightning(plain, accumulate_grad_batches=4)
    due = {"monitor": "val"} if when == "after validation" else {"train_time_interval": timedelta(seconds=5)}
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **due)
    fit_lightning(module, accumulate_grad_batches=4, val_check_interval=5, callbacks=[checkpoints])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) >= 3
    for path in paths:
        saved = torch.load(path, weights_only=True)
        assert saved["state_dict"]["net.0.weight"].any(1).all()
        assert "random_cut_taken" in saved["optimizer_states"][0]["param_groups"][0]
    assert not any(module.removed)


def test_where_a_fit_of_lightning_fails_the_model_is_whole_and_the_failure_is_what_one_sees(tmp_path):
    from lightning.pytorch.callbacks import OnExceptionCheckpoint  # noqa: PLC0415

    def failing(batch_idx):
        if module.trainer.global_step == 1 and batch_idx == 6:
            assert not module.net[0].weight.any(1).all()  # in the midst of a cut step
            raise InterruptedError("the data is gone")

    module = lightning_module(before_batch=failing)
    with pytest.raises(InterruptedError, match="the data is gone"):
        fit_lightning(module, accumulate_grad_batches=4, callbacks=[OnExceptionCheckpoint(tmp_path)])
    assert module.net[0].weight.any(1).all()


def test_the_rest_of_an_epoch_that_lightning_skips_leaves_the_model_whole(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: PLC0415

    module = lightning_module(before_batch=lambda batch_idx: -1 if batch_idx == 6 else None)
    fit_lightning(module, validate=False, accumulate_grad_batches=4, callbacks=[ModelCheckpoint(tmp_path)])
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.load(path, weights_only=True)["state_dict"]["net.0.weight"].any(1).all()


def sfw_of(net, total=1.5):
    return shrinking_sfw(pliant.Plan.for_filters(net, k=0.5), steps=20, total=total)[0]


def test_the_numbers_of_several_optimizers_have_names_of_their_own():
    other = small_net()

    def several(module):
        module.automatic_optimization = False
        return [torch.optim.SGD(small_net().parameters(), lr=0.1), sfw_of(module.net, 0.5), sfw_of(other, 1.0)]

    def step(module, x):
        _, first, second = module.optimizers()
        for net, optimizer in ((module.net, first), (other, second)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

    module = lightning_module(several)
    type(module).training_step = step
    found = fit_lightning(module).callback_metrics
    assert found["pliant/shrinkage-1"] == pytest.approx(0.5)
    assert found["pliant/shrinkage-2"] == pytest.approx(1.0)
    assert "pliant/shrinkage" not in found


def test_the_numbers_of_one_optimizer_need_no_place():
    found = fit_lightning(lightning_module(lambda module: sfw_of(module.net))).callback_metrics
    assert found["pliant/shrinkage"] == pytest.approx(1.5)


class _Scored(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"loss": self.net(x).square().mean()}


def test_a_trial_run_of_lightning_needs_no_other_settings():
    from pliant.integrations.lightning import configure  # noqa: PLC0415

    def configured(module):
        return configure(module.trainer, pliant.Plan.for_filters(module.net, k=0.5), total=1.5)

    module = lightning_module(configured)
    with pytest.warns(UserWarning, match="total=1.5 over steps=1 .* total is 1 in this run"):
        trainer = fit_lightning(module, fast_dev_run=True)
    assert trainer.callback_metrics["pliant/shrinkage"] == pytest.approx(1.0)


def test_lightning_needs_a_known_length():
    from lightning.pytorch import Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback, configure  # noqa: PLC0415

    class Endless(Trainer):
        estimated_stepping_batches = float("inf")

    trainer = Endless(accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="run of known length"):
        configure(trainer, pliant.Plan.for_filters(small_net(), k=0.5), total=1.0)
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        PliantCallback(every_n_steps=0)
