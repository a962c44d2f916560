"""Hugging Face: SFW for `Trainer(optimizers=...)`, a callback, and linear layers for GPT-2. Needs `transformers`."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.pytorch_utils import Conv1D

from pliant.integrations.setup import Sweep, progress, random_cuts


def steps_of(args: TrainingArguments, examples: int) -> int:
    """Return how many optimizer steps a `Trainer` will take.

    Args:
        args: of the trainer.
        examples: of the training set.
    """
    if args.max_steps > 0:
        return args.max_steps
    batches = examples // args.train_batch_size if args.dataloader_drop_last else -(-examples // args.train_batch_size)
    processes = max(1, args.world_size)
    updates = max(1, math.ceil(math.ceil(batches / processes) / args.gradient_accumulation_steps))
    return math.ceil(args.num_train_epochs * updates)


class PliantTrainerCallback(TrainerCallback):  # type: ignore[misc]  # its library is not followed
    """Adds shrinkage, share of the initial weights left and feasibility to the logs; sweeps when training ends.

    It cuts the model before every step of a `RandomCut`, which a `Trainer` steps without a closure. Evaluation and
    checkpoints come between steps, where the model is whole. A `Trainer` tells no callback of an exception: where
    `train` ends with one, in the midst of a step, call `restore` of the `RandomCut`.

    Args:
        sweep: what is cut at the end; None: nothing.
    """

    def __init__(self, sweep: Sweep | None = None) -> None:
        self.sweep = sweep

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Make the model whole where an earlier run has failed in the midst of a step."""
        del args, state, control, kwargs
        for found in random_cuts([optimizer]):
            found.restore()

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Cut the model for the gradients of this step, if that is what the optimizer does."""
        del args, state, control, kwargs
        for found in random_cuts([optimizer]):
            found.begin()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Make the model whole again where a gradient scaler has skipped the step."""
        del args, state, control, kwargs
        for found in random_cuts([optimizer]):
            found.restore()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float] | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Add to what is logged."""
        del args, control, kwargs
        found = {} if optimizer is None else progress(optimizer)
        if logs is not None:
            logs.update(found)
        if state.log_history:
            state.log_history[-1].update(found)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Sweep, on one process."""
        del args, control, kwargs
        if self.sweep is not None and model is not None and state.is_world_process_zero:
            self.sweep.run(model)


def linear_projections(model: nn.Module) -> list[str]:
    """Replace the `Conv1D` layers of GPT-2 by `nn.Linear` layers that compute the same, in place.

    `Conv1D` is a linear layer that stores its weight transposed; what cuts linear layers does not know it.

    Returns:
        The names of the layers replaced.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _linear(model.get_submodule(name)))
    return names


def _linear(conv: nn.Module) -> nn.Linear:
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    with torch.device("meta"):
        linear = nn.Linear(*weight.shape)
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear.train(conv.training)
