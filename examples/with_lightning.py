"""Lightning: SFW in configure_optimizers, a callback that logs and sweeps."""

import logging

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import pliant
from pliant.compress import Row
from pliant.data import Batches, load
from pliant.integrations import Sweep
from pliant.integrations.lightning import PliantCallback, configure
from pliant.metrics import accuracy
from pliant.models import create


class Classifier(LightningModule):
    """A small network for digits, trained for filter pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = create("cnn-4", num_classes=10, in_channels=1, image_size=8, widths=[16, 16, 32, 32])

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of a batch."""
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> dict:
        """Return SFW and its schedule."""
        return configure(self.trainer, pliant.Plan.for_filters(self.net, k=0.3), total=1.5)


def main(epochs: int = 8) -> list[Row]:
    """Train on digits and cut at four ratios when the fit ends."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = load("digits")
    x, y = next(iter(Batches(data.train, batch_size=len(data.train), mean=data.mean, std=data.std)))
    test = Batches(data.test, batch_size=500, mean=data.mean, std=data.std)
    sweep = Sweep(pliant.FilterPruning(), [0.0, 0.25, 0.5, 0.75], x[:1], lambda cut: accuracy(cut, test), calibrate=[x])
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PliantCallback(sweep, module="net")],
    )
    trainer.fit(Classifier(), DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
    print({name: float(value) for name, value in trainer.callback_metrics.items()})
    return sweep.rows


if __name__ == "__main__":
    for row in main():
        print(f"{row.removed_fraction:.0%} of the filters removed: {row.recalibrated:.1%}, {row.macs:,} MACs")
