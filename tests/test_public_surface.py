"""The names that users rely on are there, documented, and importing the package does nothing else."""

import inspect
import pkgutil
import subprocess
import sys

import pytest

import pliant

# The public names of the design; removing or renaming one breaks users.
DESIGNED = set(
    """
Region Penalty Plan SFW ProximalSGD FilterPruning LowRank TensorTrain UnstructuredPruning
Compressor compress sweep recalibrate_batchnorm save load
l1_ball l2_ball linf_ball lp_ball k_support_ball k_sparse_polytope group_lasso_ball group_k_support_ball
group_k_sparse_polytope nuclear_ball spectral_ball spectral_k_support_ball spectral_k_sparse_polytope
GradientScaled FastGradientScaled DiameterScaled Raw Shrinkage Fixed Diameter InitScaled Free Rule TopK Lp Ball
Entries Filters Singular Joint
""".split()  # noqa: SIM905  (fifty quoted words are harder to read)
)


@pytest.mark.parametrize("name", sorted(DESIGNED))
def test_designed_names_are_public(name):
    assert name in pliant.__all__


@pytest.mark.parametrize("name", sorted(set(pliant.__all__) - {"__version__"}))
def test_public_names_are_documented(name):
    assert inspect.getdoc(getattr(pliant, name))


def test_import_is_quiet_and_light():
    code = (
        "import sys, torch; state = torch.get_rng_state(); threads = torch.get_num_threads(); import pliant; "
        "assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads(); "
        "heavy = {'matplotlib', 'sklearn', 'pyarrow', 'typer', 'pydantic', 'hypothesis'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_subpackages_are_attributes():
    names = [module.name for module in pkgutil.iter_modules(pliant.__path__) if module.ispkg]
    code = f"import pliant; [getattr(pliant, name) for name in {names}]"
    assert not subprocess.run([sys.executable, "-c", code], check=False).returncode  # noqa: S603  (our own interpreter)
    with pytest.raises(AttributeError, match="'pliant' has no attribute 'exprot'"):
        pliant.exprot  # noqa: B018
