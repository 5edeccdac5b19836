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
from stillscape.report.runs_figure import RunsDisplay
from stillscape.report.side_by_side import summary_lines, write_comparison

__all__ = [
    "ComparisonDisplay",
    "DataCurveDisplay",
    "HessianDisplay",
    "LossCurveDisplay",
    "LossDifferenceDisplay",
    "RetrainedAgainstFixedDisplay",
    "RunsDisplay",
    "SurfaceEvidenceDisplay",
    "summary_lines",
    "write_comparison",
    "write_report",
]
