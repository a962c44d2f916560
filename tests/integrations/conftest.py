import pytest

from torchvision_operators import define_operators


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators():
    return define_operators()
