"""State that comes back from a checkpoint in the form that it was saved in."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def keep_forms(state: dict[str, Any], saved: dict[str, Any], *, half: bool) -> None:
    """Undo torch's cast of all state to the dtype of the weights, where it would lose something.

    Args:
        state: as `torch.optim.Optimizer.load_state_dict` left it; changed in place.
        saved: as it was in the checkpoint.
        half: whether the weights have 16 bits, so that their state in float32 has more.
    """
    for key, old in saved.items():
        new = state[key]
        if isinstance(old, dict):
            keep_forms(new, old, half=half)
        elif isinstance(old, Tensor) and (half or not old.is_floating_point()):
            state[key] = old.detach().clone().to(new.device)
