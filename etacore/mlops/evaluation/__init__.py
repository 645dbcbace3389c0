"""Comparison of models on held-out days: metrics, bands, baselines, intervals, and which one to promote."""

from etacore.mlops.evaluation.evaluating import Evaluation, evaluate
from etacore.mlops.evaluation.report import print_evaluation, to_markdown, write_evaluation
from etacore.mlops.evaluation.results import EvaluationConfig
from etacore.mlops.evaluation.rolling import rolling_windows

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "evaluate",
    "print_evaluation",
    "rolling_windows",
    "to_markdown",
    "write_evaluation",
]
