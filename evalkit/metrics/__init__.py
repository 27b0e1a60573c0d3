"""Accuracy, calibration, selective prediction and out-of-distribution metrics: float64 functions of per-sample values.

Nothing here depends on the order of the samples: equal confidences are treated as one group. A metric that the data do
not define (too few samples, an empty side) is NaN; NaN or infinite input is a ValueError.
"""

from .calibration import ReliabilityBins, expected_calibration_error, reliability_bins, rms_calibration_error
from .classification import (
    SCORES,
    confidence,
    energy,
    log_confidence,
    max_logit,
    negative_entropy,
    negative_log_likelihood,
    sample_brier,
    sample_nll,
    standard_error,
    top_k_accuracy,
    top_k_correct,
)
from .detection import PrecisionRecall, aupr, auroc, fpr95, precision_recall
from .selective import RiskCoverage, aurra, risk_coverage
from .temperature import fit_temperature

__all__ = [
    "SCORES",
    "PrecisionRecall",
    "ReliabilityBins",
    "RiskCoverage",
    "aupr",
    "auroc",
    "aurra",
    "confidence",
    "energy",
    "expected_calibration_error",
    "fit_temperature",
    "fpr95",
    "log_confidence",
    "max_logit",
    "negative_entropy",
    "negative_log_likelihood",
    "precision_recall",
    "reliability_bins",
    "risk_coverage",
    "rms_calibration_error",
    "sample_brier",
    "sample_nll",
    "standard_error",
    "top_k_accuracy",
    "top_k_correct",
]
