"""Training: the five families, globally or route by route, from a dataset to models in the registry."""

from etacore.mlops.training.config import BEST_FEATURES, FAMILIES, PRESETS, TrainingConfig
from etacore.mlops.training.report import Failure, SkippedRoute, TrainedModel, TrainingReport
from etacore.mlops.training.scope import RouteOutcome, RouteTask, train_route
from etacore.mlops.training.train import train

__all__ = [
    "BEST_FEATURES",
    "FAMILIES",
    "PRESETS",
    "Failure",
    "RouteOutcome",
    "RouteTask",
    "SkippedRoute",
    "TrainedModel",
    "TrainingConfig",
    "TrainingReport",
    "train",
    "train_route",
]
