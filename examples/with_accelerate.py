"""accelerate: the same loop on one process or many; start it with python or with accelerate launch."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import pliant
from pliant.compress import Row
from pliant.data import Batches, load
from pliant.integrations import progress, shrinking_sfw
from pliant.metrics import accuracy
from pliant.models import create


def main(epochs: int = 8) -> list[Row]:
    """Train a small network on digits for low rank, and cut it at four ratios."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), step_scheduler_with_optimizer=False)
    data = load("digits")
    whole = next(iter(Batches(data.train, batch_size=len(data.train), mean=data.mean, std=data.std)))
    loader = DataLoader(TensorDataset(*whole), batch_size=64, shuffle=True)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=8, widths=[16, 16, 32, 32])
    model, loader = accelerator.prepare(model, loader)

    inner = accelerator.unwrap_model(model)  # the plan names the parameters of the model itself
    plan = pliant.Plan.for_low_rank(inner, k=0.1)
    optimizer, scheduler = shrinking_sfw(plan, steps=epochs * len(loader), total=1.5)
    optimizer = accelerator.prepare(optimizer)

    for _ in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            accelerator.backward(cross_entropy(model(x), y))
            optimizer.step()
            scheduler.step()
    accelerator.print(progress(optimizer))

    test = Batches(data.test, batch_size=500, mean=data.mean, std=data.std, device=accelerator.device)
    return pliant.sweep(
        inner,
        pliant.LowRank(),
        [0.0, 0.3, 0.6, 0.9],
        example=whole[0][:1].to(accelerator.device),
        evaluate=lambda cut: accuracy(cut, test),
        calibrate=[whole[0].to(accelerator.device)],
    )


if __name__ == "__main__":
    for row in main():
        print(f"{row.removed_fraction:.0%} of the rank removed: {row.recalibrated:.1%}, {row.macs:,} MACs")
