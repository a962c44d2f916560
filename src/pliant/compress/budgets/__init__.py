"""Budgets: the largest cost that a cut model may have, and which atoms go so that it has no more."""

from pliant.compress.budgets.allocation import Allocation, BudgetError, ByFraction, Greedy
from pliant.compress.budgets.budget import Budget, Macs, Params
from pliant.compress.budgets.latency import LatencyTarget
from pliant.compress.budgets.latency_measure import measure_latencies
from pliant.compress.budgets.latency_table import LatencyTable
from pliant.compress.budgets.record import BudgetRecord

__all__ = [
    "Allocation",
    "Budget",
    "BudgetError",
    "BudgetRecord",
    "ByFraction",
    "Greedy",
    "LatencyTable",
    "LatencyTarget",
    "Macs",
    "Params",
    "measure_latencies",
]
