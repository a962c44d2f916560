"""The law suite of optimizers: one call checks an optimizer of your own.

>>> from pliant.optim import SFW
>>> from pliant.regions import l2_ball
>>> check_optimizer(lambda model: SFW([{"params": model.named_parameters(), "region": l2_ball(1.0)}], lr=0.1))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from pliant.testing.optimizers import finite, habits, motion, rates, state
from pliant.testing.optimizers.case import OptimizerCase, small_model

Law = Callable[[OptimizerCase], None]

OPTIMIZER_LAWS: tuple[Law, ...] = (
    motion.weights_move,
    motion.iterates_stay_feasible,
    motion.huge_rates_stay_feasible,
    motion.huge_and_tiny_gradients_are_legal,
    motion.rate_zero_moves_nothing,
    motion.zero_gradients_are_legal,
    motion.without_gradient_no_move,
    motion.without_gradient_no_influence,
    motion.empty_steps_leave_no_trace,
    habits.gradients_are_untouched,
    habits.random_state_is_untouched,
    state.resumed_is_uninterrupted,
    state.deepcopy_is_uninterrupted,
    state.pickle_is_uninterrupted,
    state.state_dict_is_plain,
    state.loading_own_state_changes_nothing,
    habits.closures_are_called_once,
    habits.empty_closures_move_nothing,
    habits.added_groups_are_alone,
    habits.zero_grad_clears,
    rates.schedulers_change_the_steps,
    rates.tensor_rates_are_numbers,
    finite.skipped_steps_change_nothing,
    finite.nonfinite_gradients_touch_nothing,
    motion.memory_format_is_ignored,
    state.dtypes_are_kept,
    habits.repr_names_the_class,
)


def check_optimizer(
    make: Callable[[nn.Module], Optimizer],
    model: Callable[[], nn.Module] = small_model,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    steps: int = 4,
    laws: Sequence[Law] = OPTIMIZER_LAWS,
) -> None:
    """Check laws of an optimizer on a small model with made-up gradients.

    Args:
        make: builds the optimizer of a model, with a rate at which step sizes are not clamped. Groups that carry a
            "region" hold points of it: a parameter each where its arity is 1, otherwise all of the group together.
        model: builds the model; its forward pass is never called. Constrained weights are scaled into their regions.
        dtype: of the weights, float32 or float64.
        seed: same seed, same weights and gradients; the global random state is not touched.
        steps: length of the runs that are compared, at least 4.
        laws: the laws to check, each a function of an `OptimizerCase`; `motion.zero_gradients_move_nothing` is one
            more, for rules whose step is proportional to the gradient, and `motion.frozen_weights_do_not_move` another,
            which optimizers of torch break.

    Raises:
        LawViolation: with the law, what was found and what is allowed.
    """
    if steps < 4:
        raise ValueError(f"steps must be at least 4, found {steps!r}")
    case = OptimizerCase(make, model, dtype, seed, steps)
    for law in laws:
        law(case)
