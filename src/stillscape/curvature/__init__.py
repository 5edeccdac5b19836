"""Curvature of any module without forming a matrix: products, extreme eigenvalues, spectral norms."""

from stillscape.curvature.lanczos import Eigenpairs, spectral_norms, top_eigenvalues
from stillscape.curvature.per_sample import PerSampleHessian

__all__ = ["Eigenpairs", "PerSampleHessian", "spectral_norms", "top_eigenvalues"]
