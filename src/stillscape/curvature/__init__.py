"""Curvature of any module without forming a matrix: products, extreme eigenvalues, spectral norms."""

from stillscape.curvature.barrier import LossBarrier, loss_barrier
from stillscape.curvature.blocks import Block, BlockTable, block_table
from stillscape.curvature.density import SpectralDensity, spectral_density
from stillscape.curvature.difference import DifferenceSketch, HessianDifferenceCurve, hessian_difference_curve
from stillscape.curvature.estimate import Estimate
from stillscape.curvature.forecast import QuadraticForecast, quadratic_forecast
from stillscape.curvature.lanczos import Eigenpairs, spectral_norms, top_eigenvalues
from stillscape.curvature.orders import OrderCurves, curves_over_orders
from stillscape.curvature.outliers import SpectrumBySize, spectrum_by_size
from stillscape.curvature.per_sample import PerSampleHessian
from stillscape.curvature.plane import Plane, across, filter_normalized, unit
from stillscape.curvature.shards import CurveShard, curve_shard, merge_shards, merged_sketch
from stillscape.curvature.trace import DiagonalEstimate, diagonal, frobenius_norm, trace

__all__ = [
    "Block",
    "BlockTable",
    "CurveShard",
    "DiagonalEstimate",
    "DifferenceSketch",
    "Eigenpairs",
    "Estimate",
    "HessianDifferenceCurve",
    "LossBarrier",
    "OrderCurves",
    "PerSampleHessian",
    "Plane",
    "QuadraticForecast",
    "SpectralDensity",
    "SpectrumBySize",
    "across",
    "block_table",
    "curve_shard",
    "curves_over_orders",
    "diagonal",
    "filter_normalized",
    "frobenius_norm",
    "hessian_difference_curve",
    "loss_barrier",
    "merge_shards",
    "merged_sketch",
    "quadratic_forecast",
    "spectral_density",
    "spectral_norms",
    "spectrum_by_size",
    "top_eigenvalues",
    "trace",
    "unit",
]
