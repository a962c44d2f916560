"""pliant inside other people's training loops; each module needs the library that it is named after.

`SFW` is a `torch.optim.Optimizer`, so that a loop needs none of this. What is here saves lines: the optimizer with its
schedule, the numbers worth logging, and a sweep when training is over.
"""

from pliant.integrations.setup import Sweep, progress, random_cuts, shrinking_sfw, unwrapped

__all__ = ["Sweep", "progress", "random_cuts", "shrinking_sfw", "unwrapped"]
