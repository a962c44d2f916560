"""What weights may be: gauges on magnitudes, seen through views."""

from pliant.regions.axes import Axes
from pliant.regions.ball import Ball, Penalty
from pliant.regions.catalogue import (
    CATALOGUE,
    group_k_sparse_polytope,
    group_k_support_ball,
    group_lasso_ball,
    k_sparse_polytope,
    k_support_ball,
    l1_ball,
    l2_ball,
    linf_ball,
    lp_ball,
    nuclear_ball,
    spectral_ball,
    spectral_k_sparse_polytope,
    spectral_k_support_ball,
)
from pliant.regions.composite import Coupled, Joint, Scaled
from pliant.regions.gauges import Gauge, Lp, TopK
from pliant.regions.region import Region
from pliant.regions.slices import Slices
from pliant.regions.sparse_group import SparseGroupLasso
from pliant.regions.vertex import Channels, LowRank, Move, Product, Vertex
from pliant.regions.views import Entries, Filters, Singular, Split, View

__all__ = [
    "CATALOGUE",
    "Axes",
    "Ball",
    "Channels",
    "Coupled",
    "Entries",
    "Filters",
    "Gauge",
    "Joint",
    "LowRank",
    "Lp",
    "Move",
    "Penalty",
    "Product",
    "Region",
    "Scaled",
    "Singular",
    "Slices",
    "SparseGroupLasso",
    "Split",
    "TopK",
    "Vertex",
    "View",
    "group_k_sparse_polytope",
    "group_k_support_ball",
    "group_lasso_ball",
    "k_sparse_polytope",
    "k_support_ball",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "lp_ball",
    "nuclear_ball",
    "spectral_ball",
    "spectral_k_sparse_polytope",
    "spectral_k_support_ball",
]
