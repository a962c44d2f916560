"""A loop of one's own: nothing of pliant but the plan, the optimizer and the sweep."""

import torch
from torch.nn.functional import cross_entropy

import pliant
from pliant.compress import Row
from pliant.data import Batches, load
from pliant.metrics import accuracy
from pliant.models import create


def main(epochs: int = 8) -> list[Row]:
    """Train a small network on digits for filter pruning, and cut it at four ratios."""
    torch.manual_seed(0)
    data = load("digits")
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=8, widths=[16, 16, 32, 32])
    train = Batches(data.train, batch_size=64, shuffle=True, mean=data.mean, std=data.std)
    test = Batches(data.test, batch_size=500, mean=data.mean, std=data.std)

    plan = pliant.Plan.for_filters(model, k=0.3)
    plan.make_feasible()
    rule = pliant.Shrinkage(1.5, steps=epochs * len(train))
    optimizer = pliant.SFW(plan, lr=1.0, momentum=0.9, step_rule=rule)

    for epoch in range(epochs):
        model.train()
        train.set_epoch(epoch)
        for x, y in train:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    return pliant.sweep(
        model,
        pliant.FilterPruning(),
        [0.0, 0.25, 0.5, 0.75],
        example=x[:1],
        evaluate=lambda cut: accuracy(cut, test),
        calibrate=[x for x, _ in train],
    )


if __name__ == "__main__":
    for row in main():
        print(f"{row.removed_fraction:.0%} of the filters removed: {row.recalibrated:.1%}, {row.macs:,} MACs")
