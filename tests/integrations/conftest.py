import pytest


@pytest.fixture(scope="session", autouse=True)
def prepared(torchvision_operators):
    return torchvision_operators
