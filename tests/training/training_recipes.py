"""A recipe that trains in half a second: five batches an epoch, two epochs."""

import tempfile
from pathlib import Path

from pliant.training.recipe import Recipe

TINY = """
name: tiny
data: {name: digits, batch_size: 256}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2, device: cpu}
method: {type: sfw, plan: filters, step: {type: shrinkage, total: 1.0}}
sweep: {compressors: [filters], fractions: [0.0, 0.5], calibrate: 128}
"""


def tiny(*overrides):
    """Return the recipe, with overrides as on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.yaml"
        file.write_text(TINY)
        return Recipe.from_yaml(file, list(overrides))
