"""The law suite of compressors: one call checks a compressor of your own on a model of your own.

>>> import torch
>>> from pliant.compress import LowRank
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
>>> check_compressor(LowRank(), model, torch.randn(4, 8))
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from pliant.compress.compressed import compress, largest_difference
from pliant.compress.compressor import Compressor, compressor_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.verify import deterministic
from pliant.metrics.size import size
from pliant.structure.example import Example, call
from pliant.structure.matricise import is_layer
from pliant.testing.violation import require

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass(frozen=True)
class CompressorCase:
    """What the laws are tried on.

    Args:
        compressor: the compressor to check.
        model: never changed by a compressor that keeps the laws.
        example: what the model can be called with; two samples or more.
        fractions: ascending, the first of them 0.
        train: whether outputs are compared in training mode too (dropout does nothing).
        tol: allowed output difference, relative to the largest output.
        known: the cuts selected so far.
    """

    compressor: Compressor
    model: nn.Module
    example: Example
    fractions: Sequence[float]
    train: bool
    tol: float
    known: dict[float, Cut] = field(default_factory=dict, repr=False)

    def cut(self, fraction: float) -> Cut:
        """Select at a fraction."""
        return self.compressor.select(self.model, fraction, example=self.example)

    def cuts(self) -> list[Cut]:
        """Return the cuts at all fractions, each selected once for all laws."""
        for fraction in self.fractions:
            if fraction not in self.known:
                self.known[fraction] = self.cut(fraction)
        return [self.known[fraction] for fraction in self.fractions]

    def __str__(self) -> str:
        return f"{self.compressor} on {type(self.model).__name__}"


Law = Callable[[CompressorCase], None]


def nothing_is_the_identity(case: CompressorCase) -> None:
    """At fraction 0, truncate returns the same tensors and realise the same outputs, bit for bit."""
    cut = case.cuts()[0]
    require(not cut.reduced(), "fraction 0 removes nothing", case, cut.reduced(), [])
    truncated = case.compressor.truncate(case.model, cut)
    changed = _differing(case.model.state_dict(), truncated.state_dict())
    require(not changed, "truncate at fraction 0 is the identity", case, changed, [])
    difference, _ = _distance(case.model, case.compressor.realise(case.model, cut), case.example, train=False)
    require(difference == 0.0, "realise at fraction 0 is the identity", case, difference, 0.0)


def model_is_untouched(case: CompressorCase) -> None:
    """No method changes the model, shares a tensor with it, or draws from the global random state; nor does `compress`.

    Nor do the calls that `compress` makes on the smaller model, of what that writes down when it is called.
    """
    before, state = _fingerprint(case.model), torch.get_rng_state()
    done = compress(case.model, case.compressor, case.fractions[-1], example=case.example)
    cut = done.cut
    uncalled = case.compressor.realise(case.compressor.truncate(case.model, cut), cut)
    written = _differing(dict(uncalled.named_buffers()), dict(done.model.named_buffers()))
    require(not written, "the smaller model has the buffers that it is made with", case, written, [])
    for name, method in (("truncate", case.compressor.truncate), ("realise", case.compressor.realise)):
        result = method(case.model, cut)
        shared = _storages(case.model) & _storages(result)
        require(not shared, f"{name} shares no tensor with its argument", case, len(shared), 0)
        with torch.no_grad():
            for parameter in result.parameters():
                parameter.zero_()
    after = _fingerprint(case.model)
    changed = [key for key in before if before[key] != after.get(key)]
    require(before == after, "the model is left as it was", case, changed, [])
    same = torch.equal(state, torch.get_rng_state())
    require(same, "the global random state is left as it was", case, "another", "the same")


def truncate_keeps_form(case: CompressorCase) -> None:
    """Truncate keeps names, shapes, dtypes, modes and gradient flags; realise keeps modes and gradient flags."""
    for cut in case.cuts():
        truncated = case.compressor.truncate(case.model, cut)
        form, expected = _form(truncated), _form(case.model)
        require(form == expected, "truncate keeps shapes, dtypes, modes and requires_grad", case, form, expected)
        realised = case.compressor.realise(case.model, cut)
        require(_traits(realised) == _traits(case.model), "realise keeps dtypes, devices and requires_grad", case,
                _traits(realised), _traits(case.model))  # fmt: skip


def realise_equals_truncate(case: CompressorCase) -> None:
    """Realised and truncated models have the same outputs, in evaluation mode and in training mode."""
    for cut in case.cuts():
        truncated = case.compressor.truncate(case.model, cut)
        realised = case.compressor.realise(case.model, cut)
        for train in (False, True) if case.train else (False,):
            difference, largest = _distance(truncated, realised, case.example, train=train)
            allowed = case.tol * max(largest, 1e-30)
            law = f"realise equals truncate at {cut.fraction} in {'training' if train else 'evaluation'} mode"
            require(difference <= allowed, law, case, difference, allowed)


def predictions_are_exact(case: CompressorCase) -> None:
    """Parameters and MACs of the realised model are those that the cut named, and never more than before."""
    dense = size(case.model, case.example)
    for cut in case.cuts():
        found = size(case.compressor.realise(case.model, cut), case.example)
        counted, predicted = (found.parameters, found.macs), (cut.parameters, cut.macs)
        require(counted == predicted, f"the cut predicts the size at {cut.fraction}", case, counted, predicted)
        before = (cut.dense_parameters, cut.dense_macs)
        require(before == (dense.parameters, dense.macs), "the cut knows the dense size", case, before, dense)
        smaller = cut.parameters <= cut.dense_parameters and cut.macs <= cut.dense_macs
        require(smaller, "realise never enlarges a model", case, predicted, before)


def cuts_are_data(case: CompressorCase) -> None:
    """A cut survives JSON, names its compressor, and is the same whenever it is made, whatever the model's mode."""
    for cut in case.cuts():
        require(Cut.from_json(cut.to_json()) == cut, "a cut round-trips through JSON", case, "another", "the same")
        rebuilt = compressor_of(cut)
        require(rebuilt == case.compressor, "a cut rebuilds its compressor", case, rebuilt, case.compressor)
    with _flipped(case.model):
        again = case.cut(case.fractions[-1])
    require(again == case.cuts()[-1], "a cut does not depend on the model's mode", case, "another", "the same")


def cuts_are_nested(case: CompressorCase) -> None:
    """At least one atom of every layer stays, and a larger fraction never keeps more atoms of a layer."""
    counts = [{layer: cut.count(layer) for layer in cut.kept} for cut in case.cuts()]
    emptied = [layer for count in counts for layer, kept in count.items() if kept < 1]
    require(not emptied, "one atom of every layer stays", case, emptied, [])
    for less, more in pairwise(counts):
        grown = [layer for layer in more if more[layer] > less[layer]]
        require(not grown, "a larger fraction keeps no more", case, grown, [])


def every_layer_is_named(case: CompressorCase) -> None:
    """Each convolution and linear layer is either cut or skipped with a reason; reasons are never empty."""
    cut = case.cuts()[-1]
    members = {member.layer for group in cut.groups.values() for member in group.members}
    known = {*cut.atoms, *cut.skipped, *members}
    layers = [name for name, module in case.model.named_modules() if is_layer(module)]
    missing = [
        name
        for name in layers
        if name not in known and not any(n.startswith(f"{name}." if name else "") for n in known)
    ]
    require(not missing, "every layer is cut or named with a reason", case, missing, [])
    silent = [name for name, reason in (*cut.skipped.items(), *cut.left_dense.items()) if not reason.strip()]
    require(not silent, "every reason says something", case, silent, [])


def bad_requests_are_refused(case: CompressorCase) -> None:
    """Fractions outside [0, 1), other compressors' cuts and cuts of other models raise named errors."""
    for fraction in (-0.1, 1.0, 1.5, math.nan, math.inf):
        _refuses(case, f"fraction {fraction}", partial(case.cut, fraction))
    cut = case.cuts()[-1]
    foreign = [replace(cut, compressor="Unknown")]
    if cut.atoms:
        layer = next(iter(cut.atoms))
        foreign.append(replace(cut, atoms={**cut.atoms, "no.such.layer": 2}, kept={**cut.kept, "no.such.layer": 1}))
        foreign.append(replace(cut, atoms={**cut.atoms, layer: cut.atoms[layer] + 1}))
    for other in foreign:
        for method in (case.compressor.truncate, case.compressor.realise):
            _refuses(case, "a foreign cut", partial(method, case.model, other), CutError)


COMPRESSOR_LAWS: tuple[Law, ...] = (
    nothing_is_the_identity,
    model_is_untouched,
    truncate_keeps_form,
    realise_equals_truncate,
    predictions_are_exact,
    cuts_are_data,
    cuts_are_nested,
    every_layer_is_named,
    bad_requests_are_refused,
)


def check_compressor(
    compressor: Compressor,
    model: nn.Module,
    example: Example,
    *,
    fractions: Sequence[float] = (0.0, 0.3, 0.5, 0.8),
    train: bool = True,
    tol: float | None = None,
) -> None:
    """Check every law of `COMPRESSOR_LAWS`.

    Args:
        compressor: the compressor to check.
        model: the model to try it on; left as it is by a compressor that keeps the laws.
        example: what the model can be called with; two samples or more.
        fractions: ascending.
        train: whether outputs are compared in training mode too; switch off for models that draw random numbers there.
        tol: allowed output difference relative to the largest output; by default 1e-10 in float64, 1e-5 in float32.

    Raises:
        LawViolation: with the law, the compressor, what was found and what is allowed.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    allowed = _TOLERANCES.get(dtype, 1e-2) if tol is None else tol
    case = CompressorCase(compressor, model, example, (0.0, *fractions), train, allowed)
    for law in COMPRESSOR_LAWS:
        law(case)


def _distance(first: nn.Module, second: nn.Module, example: Example, *, train: bool) -> tuple[float, float]:
    outputs = []
    for model in (first, second):
        twin = copy.deepcopy(model)
        with deterministic(twin, training=train):
            outputs.append(call(twin, example))
    return largest_difference(*outputs)


def _fingerprint(model: nn.Module) -> dict[str, object]:
    marks: dict[str, object] = {f"mode of {name}": module.training for name, module in model.named_modules()}
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # noqa: SLF001  (no public way)
        marks[f"hooks and type of {name}"] = (type(module), [list(table) for table in hooks])
    for name, parameter in model.named_parameters(remove_duplicate=False):
        marks[f"flags of {name}"] = (id(parameter), parameter.requires_grad, parameter.grad is None)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        stored = tensor.detach().clone().cpu().contiguous().reshape(-1).view(torch.uint8)
        marks[name] = (tensor.data_ptr(), tensor.dtype, hashlib.sha256(bytes(stored.numpy())).hexdigest())
    return marks


def _storages(model: nn.Module) -> set[int]:
    tensors = (*model.parameters(), *model.buffers())
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def _form(model: nn.Module) -> dict[str, object]:
    modes: dict[str, object] = {f"mode of {name}": module.training for name, module in model.named_modules()}
    shapes = {name: (tuple(t.shape), t.dtype, t.device) for name, t in model.state_dict().items()}
    return modes | shapes | {f"{name} learns": p.requires_grad for name, p in model.named_parameters()}


def _traits(model: nn.Module) -> set[object]:
    return {(p.dtype, p.device, p.requires_grad) for p in model.parameters()}


def _differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name in first.keys() | second.keys() if not torch.equal(first[name], second[name])]


def _refuses(
    case: CompressorCase, what: str, action: Callable[[], object], error: type[ValueError] = ValueError
) -> None:
    try:
        action()
    except error:
        return
    require(holds=False, law=f"{what} is refused", subject=case, found="no error", allowed=error.__name__)


@contextmanager
def _flipped(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    for module, mode in modes:
        module.training = not mode
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
