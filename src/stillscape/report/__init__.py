"""Displays of a result (matplotlib), and the one-file page that tells it (HTML)."""

from stillscape.report.displays import (
    ComparisonDisplay,
    DataCurveDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SurfaceEvidenceDisplay,
)
from stillscape.report.page import write_report

__all__ = [
    "ComparisonDisplay",
    "DataCurveDisplay",
    "HessianDisplay",
    "LossCurveDisplay",
    "LossDifferenceDisplay",
    "RetrainedAgainstFixedDisplay",
    "SurfaceEvidenceDisplay",
    "write_report",
]
