"""Displays in scikit-learn's way: `from_result` reads numbers, `plot` draws them, `table` gives them back."""

from stillscape.report.displays.class_gain import ClassGainDisplay
from stillscape.report.displays.comparison import ComparisonDisplay
from stillscape.report.displays.data_curve import DataCurveDisplay
from stillscape.report.displays.hessian import HessianDisplay
from stillscape.report.displays.loss_curve import LossCurveDisplay
from stillscape.report.displays.loss_difference import LossDifferenceDisplay
from stillscape.report.displays.retrained import RetrainedAgainstFixedDisplay
from stillscape.report.displays.settling import (
    SettlingSurfaceDisplay,
    SurfaceDifferenceDisplay,
    WeightPathDisplay,
)
from stillscape.report.displays.spectrum import BlockShareDisplay, EffectiveRankDisplay, SpectrumDisplay
from stillscape.report.displays.surface_evidence import SurfaceEvidenceDisplay

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
    "SettlingSurfaceDisplay",
    "SpectrumDisplay",
    "SurfaceDifferenceDisplay",
    "SurfaceEvidenceDisplay",
    "WeightPathDisplay",
]
