"""Displays of a result (matplotlib), and the one-file page that tells it (HTML)."""

from stillscape.report.displays import (
    ClassGainDisplay,
    ComparisonDisplay,
    DataCurveDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SettlingSurfaceDisplay,
    SurfaceDifferenceDisplay,
    SurfaceEvidenceDisplay,
    WeightPathDisplay,
)
from stillscape.report.page import write_report

__all__ = [
    "ClassGainDisplay",
    "ComparisonDisplay",
    "DataCurveDisplay",
    "HessianDisplay",
    "LossCurveDisplay",
    "LossDifferenceDisplay",
    "RetrainedAgainstFixedDisplay",
    "SettlingSurfaceDisplay",
    "SurfaceDifferenceDisplay",
    "SurfaceEvidenceDisplay",
    "WeightPathDisplay",
    "write_report",
]
