"""How much a run does: all of it, enough for a look, or next to nothing."""

from benchmarks.section import Level
from benchmarks.timing import Effort

FULL = Level(
    name="full",
    effort=Effort(seconds=0.15, rounds=5, patience=3.0),
    oracle=Effort(seconds=0.05, rounds=3, patience=1.0),
    nets=("resnet-20", "resnet-18", "wide-resnet-28-10", "vit"),
    steps=5,
    batch=128,
    sizes=((64, 576), (128, 1152), (256, 2304), (512, 4608), (1024, 1024), (4096, 4096)),
    fractions=(0.01, 0.05, 0.1, 0.3, 0.7),
    drift=20,
    training=1000,
)
QUICK = Level(
    name="quick",
    effort=Effort(seconds=0.05, rounds=3, patience=0.5),
    oracle=Effort(seconds=0.02, rounds=3, patience=0.5),
    nets=("resnet-20", "vit"),
    steps=3,
    batch=128,
    sizes=((64, 576), (256, 2304)),
    fractions=(0.1, 0.7),
    drift=20,
    training=200,
)
# Shows that everything runs; its numbers mean nothing.
TOY = Level(
    name="toy",
    effort=Effort(seconds=1e-4, rounds=2, patience=10.0),
    oracle=Effort(seconds=1e-4, rounds=2, patience=10.0),
    nets=("toy",),
    steps=1,
    batch=2,
    sizes=((8, 12), (12, 8)),
    fractions=(0.1, 1.0),
    drift=3,
    training=3,
)
