"""Displays of a result (matplotlib), and the one-file page that tells it (HTML)."""

from stillscape.report.displays import (
    BlockShareDisplay,
    ClassGainDisplay,
    ComparisonDisplay,
    DataCurveDisplay,
    EffectiveRankDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SettlingSurfaceDisplay,
    SpectrumDisplay,
    SurfaceDifferenceDisplay,
    SurfaceEvidenceDisplay,
    WeightPathDisplay,
)
from stillscape.report.page import write_report
from stillscape.report.runs_figure import RunsDisplay
from stillscape.report.side_by_side import summary_lines, write_comparison

__all__ = [
    "BlockShareDisplay",
    "ClassGainDisplay",
    "ComparisonDisplay",
    "DataCurveDisplay",
    "EffectiveRankDisplay",
    "HessianDisplay",
    "LossCurveDisplay",
    "LossDifferenceDisplay",
    "RetrainedAgainstFixedDisplay",
    "RunsDisplay",
    "SettlingSurfaceDisplay",
    "SpectrumDisplay",
    "SurfaceDifferenceDisplay",
    "SurfaceEvidenceDisplay",
    "WeightPathDisplay",
    "summary_lines",
    "write_comparison",
    "write_report",
]
