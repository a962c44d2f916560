from __future__ import annotations

import pytest
from zoo_check import define_operators


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators():
    return define_operators()
