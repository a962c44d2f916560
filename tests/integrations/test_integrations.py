"""What loops of other libraries get from pliant: the right schedule, true numbers, nothing imported unasked."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import pliant
from pliant.export import to_torch_export
from pliant.integrations import Sweep, progress, shrinking_sfw
from pliant.integrations.setup import unwrapped
from pliant.methods import RandomCut, operator_of

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


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_takes_gradients_at_random_cuts_as_an_own_loop_does(accumulated):
    from lightning.pytorch import LightningModule, Trainer  # noqa: PLC0415

    from pliant.integrations.lightning import PliantCallback  # noqa: PLC0415

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def training_step(self, x):
            return self.net(x).square().mean()

        def validation_step(self, x):
            del x
            removed.append(sum(not row.any() for row in self.net[0].weight))

        def configure_optimizers(self):
            return around(self)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    module, removed = Module(), []
    options = {"max_epochs": 1, "accumulate_grad_batches": accumulated, "val_check_interval": 1}
    trainer = Trainer(accelerator="cpu", callbacks=[PliantCallback()] if accumulated > 1 else [], **options, **quiet)
    load = torch.utils.data.DataLoader
    trainer.fit(module, load([IMAGE] * 80, batch_size=8 // accumulated), load([IMAGE], batch_size=1))
    assert len(removed) > 10
    assert not any(removed)
    for a, b in zip(module.parameters(), trained_at_random_cuts().parameters(), strict=True):
        torch.testing.assert_close(a, b)


class _Scored(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"loss": self.net(x).square().mean()}


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
