import pytest

from torchvision_operators import define_operators


@pytest.fixture(scope="session")
def torchvision_operators():
    """torchvision can be imported, and so can timm, transformers and Lightning, for as long as tests run."""
    return define_operators()
