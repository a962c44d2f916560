"""Several processes under `torchrun` or `accelerate launch`: who is who, who has which images, who writes."""

from pliant.distributed.launch import Launch, LaunchError, joined
from pliant.distributed.share import Share, share
from pliant.distributed.world import RankError, World

__all__ = ["Launch", "LaunchError", "RankError", "Share", "World", "joined", "share"]
