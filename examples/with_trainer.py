"""Hugging Face Trainer: a small GPT-2 on bytes, trained for low rank, cut when training ends."""

import tempfile

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import pliant
from pliant.compress import Row
from pliant.integrations import Sweep, shrinking_sfw
from pliant.integrations.transformers import PliantTrainerCallback, linear_projections, steps_of

TEXT = """Now is the winter of our discontent
Made glorious summer by this sun of York;
And all the clouds that lour'd upon our house
In the deep bosom of the ocean buried.
"""
LENGTH = 32


def windows(text: str) -> list[dict[str, Tensor]]:
    """Return overlapping windows of bytes; the model predicts each byte from those before it."""
    ids = torch.tensor(list(text.encode()))
    return [{"input_ids": part, "labels": part} for part in ids.unfold(0, LENGTH, 1)]


def small_gpt2() -> GPT2LMHeadModel:
    """Return a GPT-2 of two layers for bytes, its projections as linear layers."""
    sizes = {"vocab_size": 128, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0))
    linear_projections(model)
    return model


def loss_of(model: nn.Module, parts: list[dict[str, Tensor]]) -> float:
    """Return the mean loss per byte."""
    batch = torch.stack([part["input_ids"] for part in parts])
    with torch.no_grad():
        return float(model.eval()(input_ids=batch, labels=batch).loss)


def main(epochs: int = 6) -> list[Row]:
    """Train, and cut at four ratios when training ends."""
    torch.manual_seed(0)
    model, parts = small_gpt2(), windows(TEXT)
    plan = pliant.Plan.for_low_rank(model, k=0.25)
    sweep = Sweep(pliant.LowRank(), [0.0, 0.3, 0.6, 0.9], parts[0]["input_ids"][None], lambda m: loss_of(m, parts))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        optimizers = shrinking_sfw(plan, steps=steps_of(arguments, len(parts)), total=1.0)
        callback = PliantTrainerCallback(sweep)
        Trainer(model, arguments, train_dataset=parts, optimizers=optimizers, callbacks=[callback]).train()
    return sweep.rows


if __name__ == "__main__":
    for row in main():
        print(f"{row.removed_fraction:.0%} of the rank removed: loss {row.raw:.2f}, {row.macs:,} MACs")
