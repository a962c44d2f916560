import pytest
from faulty_runs import faulty

from pliant.training.experiment import train
from pliant.training.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return lambda name: RunFolder(tmp_path / "runs" / name)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "whole")
    assert train(faulty(), run)
    return run
