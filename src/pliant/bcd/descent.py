"""BlockCoordinateDescent: training without gradients, one block after the other."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from pliant.bcd import saved
from pliant.bcd.checks import by_block, check_learning, check_samples, first_point
from pliant.bcd.course import Course
from pliant.bcd.errors import BCDError
from pliant.bcd.extract import chain_of
from pliant.bcd.factored import in_factors
from pliant.bcd.forward import accuracy, allocate, loss_of, synchronise
from pliant.bcd.given import Given
from pliant.bcd.known import Known
from pliant.bcd.losses import Loss, Squared, check_labels
from pliant.bcd.modes import Mode, PenaltyMode
from pliant.bcd.objective import Objective, objective
from pliant.bcd.penalties import Penalties
from pliant.bcd.polish import Polish, polish
from pliant.bcd.problem import Problem
from pliant.bcd.progress import Progress, gap
from pliant.bcd.refit import refit
from pliant.bcd.samples import Samples
from pliant.bcd.stationarity import stationarity
from pliant.bcd.sweep import sweep
from pliant.compress.surgery import replace as replace_modules
from pliant.sets import Point, WeightSet
from pliant.tensor_train import check_layer

_LOG = logging.getLogger(__name__)
_CONJUGATE_STEPS = 4


@final
class BlockCoordinateDescent:
    """Trains a chain of layers into compressed weights by block coordinate descent with auxiliary variables.

    Over pre-activations U, activations V, weights W and b, and copies G in their sets S it lowers

        F = loss(V_L) + sum_i rho / 2 |W_i V_{i-1} + b_i - U_i|^2 + gamma / 2 |V_i - s_i(U_i)|^2
            + sum_{i with a set} tau / 2 |W_i - G_i|^2,    G_i in S_i

    one block at a time, from the last layer to the first, with proximal terms of weight alpha. Each block is solved
    exactly, except activations that a convolution reads, which take steps of conjugate gradients. The model's
    parameters are W and b, and change in place, frozen ones excepted; `compressed` is the model with G.

    A small objective does not make a good network: the auxiliary variables take up the slack, and the accuracy of
    `compressed` is what counts. Good starts are small weights (0.2 times Xavier), tau and alpha of about a thousandth
    of the number of samples, `HardMode` for at least the later sweeps, and a refit or a polish at the end.

    With `torch.distributed` initialised every process holds samples of its own and the same model.

    Args:
        model: an `nn.Sequential`, or a module whose forward pass is a chain: Linear and Conv2d layers, ReLU, leaky
            ReLU or no activation, flattening and average pooling behind activations, sums with earlier activations.
        sets: of the layers to compress, by qualified name.
        rho: see F, positive.
        gamma: see F, positive.
        tau: see F, positive.
        alpha: weight of the proximal terms, positive. F is a sum over samples: tau and alpha are relative to their
            number.
        loss: of the outputs, which the last layer gives.
        mode: what copies are to weights.
        chunk: samples that are worked on at a time, at least 1; the result does not depend on it but for rounding.
        conjugate_steps: for activations that a convolution reads, at least 1.

    Raises:
        ChainError: if the model is no such chain.
        BCDError: if a number is out of its range, a set belongs to no layer of the chain or to a frozen weight, or
            nothing learns.

    Reference:
        Zeng, Lau, Lin, Yao, Global Convergence of Block Coordinate Descent in Deep Learning (2019), three-splitting;
        Li et al., On Model Compression for Neural Networks (2023), arXiv 2303.06815.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Mapping[str, WeightSet],
        *,
        rho: float = 1.0,
        gamma: float = 1.0,
        tau: float = 3.0,
        alpha: float = 1.0,
        loss: Loss | None = None,
        mode: Mode | None = None,
        chunk: int = 1024,
        conjugate_steps: int = _CONJUGATE_STEPS,
    ) -> None:
        if chunk < 1 or conjugate_steps < 1:
            raise BCDError(f"chunk and conjugate_steps must be at least 1, found {chunk} and {conjugate_steps}")
        chain = chain_of(model, conjugate_steps=conjugate_steps)
        check_learning(chain)
        penalties, chosen = Penalties(rho, gamma, tau, alpha), by_block(chain, sets)
        self.model = model
        self.problem = Problem(chain, chosen, penalties, loss or Squared(), mode or PenaltyMode(), chunk)
        self.points = {index: first_point(chain, index, one) for index, one in self.problem.sets.items()}
        self.done = 0
        self._samples: Samples | None = None
        self._given: Given | None = None
        self._known = Known()
        self._residuals: saved.Residuals = (None, None)

    def start(self, x: Tensor, y: Tensor) -> None:
        """Set the blocks of the samples by a forward pass, and the copies to the projections of the weights.

        Args:
            x: inputs, shape (samples, ...), of the weights' device and dtype.
            y: labels, shape (samples,), or what else the loss reads.

        Raises:
            BCDError: if samples, model and loss do not fit.
        """
        chain = self.problem.chain
        check_samples(chain, x, y)
        self._samples = allocate(chain, self.problem.loss, x, y, self.problem.chunk)
        self._given = Given.of(x)
        self.points = {index: first_point(chain, index, one) for index, one in self.problem.sets.items()}
        self._known, self._residuals, self.done = Known(), (None, None), 0

    def sweep(self, x: Tensor, y: Tensor) -> None:
        """Update every block once. The first call starts with these samples; all others must bring the same.

        Raises:
            BCDError: if they are others, or have changed: `start` begins anew.
        """
        self._sweep(self.problem, self._with(x, y))

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        *,
        sweeps: int,
        course: Course | None = None,
        evaluate: tuple[Tensor, Tensor] | None = None,
        on_sweep: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Sweep until `sweeps` are done in total, the residual is small enough, or `stop()` says so.

        Args:
            x: as for `start`.
            y: as for `start`.
            sweeps: in total, those before included.
            course: options of the run.
            evaluate: inputs and labels that losses and accuracies are measured on; with real targets, losses alone.
            on_sweep: called after every sweep.
            stop: asked after every sweep.

        Returns:
            The state reached.
        """
        plan, progress = course or Course(), Progress(self.done)
        while self.done < sweeps and not self.converged(plan):
            progress = self.advance(x, y, sweeps=sweeps, course=plan, evaluate=evaluate)
            on_sweep(progress)
            if stop():
                break
        return progress

    def advance(
        self, x: Tensor, y: Tensor, *, sweeps: int, course: Course, evaluate: tuple[Tensor, Tensor] | None = None
    ) -> Progress:
        """Do the next sweep of a course of so many, and all that the course has after it.

        `state_dict` holds everything that the sweeps to come depend on, so that a run can be saved and gone on with
        between any two of these calls.

        Args:
            x: as for `start`.
            y: as for `start`.
            sweeps: of the whole course.
            course: its options.
            evaluate: inputs and labels that losses and accuracies are measured on; with real targets, losses alone.

        Returns:
            The state after the sweep, before blocks are set to a forward pass.
        """
        if evaluate is not None:
            self._check_evaluation(*evaluate)
        samples = self._with(x, y)
        penalties = course.schedule.at(self.done, self.problem.penalties)
        mode = course.mode(self.done, sweeps, self.problem.mode)
        problem = replace(self.problem, penalties=penalties, mode=mode)
        self._sweep(problem, samples)
        measured = course.measures(self.done, sweeps)
        progress = self._measure(problem, samples, course, evaluate) if measured else Progress(self.done)
        _LOG.info("%s", progress)
        if course.synchronises(self.done, sweeps) and not self.converged(course):
            self.synchronise()
        return progress

    def converged(self, course: Course) -> bool:
        """Tell whether the last measured residual is as small as a course asks for."""
        first, last = self._residuals
        return first is not None and last is not None and last <= course.tolerance * first

    def objective(self) -> Objective:
        """Return F and its terms, under the penalties that the descent was made with."""
        with torch.no_grad():
            return objective(self.problem, self.samples, self.points)

    def residual(self) -> float:
        """Return the distance of 0 from the subdifferential of F: 0 at critical points."""
        return float(stationarity(self.problem, self.samples, self.points)) ** 0.5

    def gap(self) -> float:
        """Return |W - G| / |W| over the compressed layers."""
        return gap(self.problem.chain, self.points)

    def accuracy(self, x: Tensor, y: Tensor, *, compressed: bool = True) -> float:
        """Return the share of samples that a forward pass puts into their class, with G or with W.

        Raises:
            BCDError: if labels are no whole numbers of shape (samples,).
        """
        check_labels(y)
        weights = self._copies() if compressed else {}
        return accuracy(self.problem.chain, x, y, weights, self.problem.chunk)

    def synchronise(self) -> None:
        """Set U and V to a forward pass through G; the objective may rise."""
        synchronise(self.problem.chain, self.samples, self._copies(), self.problem.chunk)
        self._known.reached.clear()

    def refit(self, x: Tensor, y: Tensor, *, ridge: float = 1e-3) -> None:
        """Fit the last layer by least squares to the features that a forward pass through G gives.

        Args:
            x: inputs.
            y: labels.
            ridge: weight of |D|^2 / 2 a sample, D the change of weight and bias; positive.

        Raises:
            BCDError: if the last layer is compressed itself.
        """
        refit(self.problem, self._copies(), x, y, ridge)

    def polish(self, x: Tensor, y: Tensor, options: Polish) -> None:
        """Set W to G and train all parameters by gradients along the sets; the copies follow."""
        self.points = polish(self.problem, self.points, x, y, options)

    def compressed(self) -> nn.Module:
        """Return a copy of the model with G in place of W: the dense twin of what the factors describe."""
        twin = copy.deepcopy(self.model)
        with torch.no_grad():
            for index, point in self.points.items():
                layer = twin.get_submodule(self.problem.chain.blocks[index].name)
                layer.get_parameter("weight").copy_(point.dense)
        return twin

    def factored(self) -> nn.Module:
        """Return `compressed` with small layers in the places of those whose copies are tensor trains or of low rank.

        The function is that of `compressed`, up to rounding, and the parameters are fewer. Layers with sparse copies,
        without copies, and those that factors would not make smaller stay what they are there.
        """
        twin, chain, sets = self.compressed(), self.problem.chain, self.problem.sets
        small = {}
        for index, point in self.points.items():
            name = chain.blocks[index].name
            small[name] = in_factors(check_layer(twin.get_submodule(name)), sets[index], point)
        return replace_modules(twin, list(small), list(small.values()))

    def copies(self) -> dict[str, Point]:
        """Return the compressed copies with their factors, by qualified name."""
        return {self.problem.chain.blocks[index].name: point for index, point in self.points.items()}

    def state_dict(self) -> saved.State:
        """Return what `load_state_dict` needs besides model and samples: plain data and tensors, not copied."""
        return saved.save(self.problem, self.samples, self.points, self._known, (self.done, self._residuals))

    def load_state_dict(self, state: saved.State, x: Tensor, y: Tensor) -> None:
        """Go on from a saved state, with the model loaded and the same samples.

        Raises:
            BCDError: if it is of other blocks, of another dtype or of other sets.
        """
        self.start(x, y)
        self.points = saved.load(state, self.problem, self.samples, self.points, self._known)
        self.done, self._residuals = state["done"], state["residuals"]

    @property
    def samples(self) -> Samples:
        """The blocks of the samples.

        Raises:
            BCDError: if there are none yet.
        """
        if self._samples is None:
            raise BCDError("there are no samples yet: call start, sweep or fit first")
        return self._samples

    def _with(self, x: Tensor, y: Tensor) -> Samples:
        if self._given is None:
            self.start(x, y)
        elif not self._given.is_still(x):
            raise BCDError(
                "every sweep must bring the same samples, the very tensor as it was; start begins anew with others"
            )
        elif not torch.equal(self._encoded(self.samples.activations[-1], y), self.samples.target):
            raise BCDError("every sweep must bring the same labels; start begins anew with others")
        return self.samples

    def _encoded(self, v: Tensor, y: Tensor) -> Tensor:
        """Return the targets of labels, for outputs like v."""
        return self.problem.loss.encode(y, v.shape[1], v.dtype)

    def _check_evaluation(self, x: Tensor, y: Tensor) -> None:
        """Refuse samples that the sweeps cannot be judged by, before the first of them."""
        last = self.problem.chain.blocks[-1].weight
        check_samples(self.problem.chain, x, y)
        self.problem.loss.encode(y, len(last), last.dtype)

    def _sweep(self, problem: Problem, samples: Samples) -> None:
        sweep(problem, samples, self.points, self._known)
        self.done += 1

    def _measure(
        self, problem: Problem, samples: Samples, course: Course, evaluate: tuple[Tensor, Tensor] | None
    ) -> Progress:
        with torch.no_grad():
            value = float(objective(problem, samples, self.points).total)
        residual = None
        if course.tolerance:
            residual = float(stationarity(problem, samples, self.points)) ** 0.5
            self._residuals = (residual if self._residuals[0] is None else self._residuals[0], residual)
        found = Progress(self.done, value, self.gap(), residual)
        if evaluate is None:
            return found
        with_w, with_g = (loss_of(problem, *evaluate, weights) for weights in ({}, self._copies()))
        found = replace(found, loss=with_w, compressed_loss=with_g)
        if evaluate[1].is_floating_point():
            return found
        with_w, with_g = (self.accuracy(*evaluate, compressed=compressed) for compressed in (False, True))
        return replace(found, accuracy=with_w, compressed_accuracy=with_g)

    def _copies(self) -> dict[int, Tensor]:
        return {index: point.dense for index, point in self.points.items()}
