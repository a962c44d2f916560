"""Lightning and transformers import torchvision, which needs two operators beside a torch of another build."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators():
    """Define them for as long as tests run."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        except RuntimeError:  # torchvision brought them itself, or another test did
            break
    return library
