"""An XGBoost file as it is read, and what about it cannot be served."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import CompileError
from etacore.extras import absent_packages, install_hint
from etacore.models.forest import MAX_FEATURES
from etacore.schema import feature_codes

REGRESSION: Final = {
    "reg:squarederror": "identity",
    "reg:linear": "identity",
    "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:absoluteerror": "identity",
    "reg:quantileerror": "identity",
    "reg:logistic": "sigmoid",
    "reg:gamma": "exponential",
    "reg:tweedie": "exponential",
    "count:poisson": "exponential",
}
"""XGBoost objectives that are regressions, and the link between the sum of the leaves and the prediction."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A regression forest that XGBoost has read."""

    booster: Any
    learner: dict[str, Any]
    version: str
    objective: str
    link: str
    trees: list[dict[str, Any]]
    features: tuple[str, ...]

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What XGBoost predicts, NaN being missing."""
        predictions: NDArray[np.float32] = self.booster.inplace_predict(rows, missing=np.nan, validate_features=False)
        return predictions

    def magnitudes(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """For each row, |base score| + the sum of the magnitudes of its leaves: what float32 rounding scales with.

        XGBoost itself adds them up, in a copy of the model whose leaves have lost their signs.
        """
        import xgboost

        learner = copy.deepcopy(self.learner)
        learner["objective"] = {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}}
        learner["learner_model_param"]["base_score"] = "0E0"
        model = learner["gradient_booster"]
        for tree in model.get("gbtree", model)["model"]["trees"]:
            tree["split_conditions"] = [
                abs(value) if child == -1 else value
                for value, child in zip(tree["split_conditions"], tree["left_children"], strict=True)
            ]
        with xgboost.config_context(verbosity=0):
            document = {"learner": learner, "version": [3, 0, 0]}
            booster = xgboost.Booster(model_file=bytearray(json.dumps(document).encode()))
            sums = booster.inplace_predict(rows, missing=np.nan, validate_features=False)
        return np.asarray(sums, np.float64) + abs(self._base_margin())

    def _base_margin(self) -> float:
        score = float(self.learner["learner_model_param"]["base_score"].strip("[]"))
        if self.link == "identity":
            return score
        if self.link == "exponential":
            return math.log(score) if score > 0.0 else 100.0
        return math.log(score / (1.0 - score)) if 0.0 < score < 1.0 else 100.0


def read_model(path: Path, features: Sequence[str] | None, source: Path) -> SourceModel:
    """Read a model and refuse, by name, what cannot be served.

    Parameters
    ----------
    path : Path
        A file whose suffix says its format.
    features : sequence of str or None
        Feature names, for a model that has none.
    source : Path
        What to call the model in errors.

    Raises
    ------
    CompileError
        If XGBoost cannot read it, or it is no single-target regression forest.
    SchemaError
        If a feature is unknown to this version.
    """
    booster, learner, version = _parse(path, source)
    objective, trees = _accept(learner, source)
    names = _feature_names(learner, features, source)
    return SourceModel(booster, learner, version, objective, REGRESSION[objective], trees, names)


def check_tools(*names: str) -> None:
    """Refuse to go on without the named packages (default: those that compiling needs)."""
    if absent := absent_packages(*(names or ("xgboost", "treelite", "tl2cgen"))):
        raise CompileError(f"{', '.join(absent)} not installed", hint=install_hint("train"))


def format_of(content: bytes, source: Path) -> str:
    """``json`` or ``ubj``, by content."""
    # A JSON object goes on with a quote or white space, a UBJ one with the length of its first key.
    if content[:1] == b"{":
        return "json" if content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t") else "ubj"
    raise CompileError(
        f"{source} is neither XGBoost JSON nor UBJ",
        hint="load it where it was made and save it with booster.save_model('model.json'); pickles are never opened",
    )


def _parse(path: Path, source: Path) -> tuple[Any, dict[str, Any], str]:
    import xgboost

    try:
        with xgboost.config_context(verbosity=0):
            booster = xgboost.Booster(model_file=path)
            # XGBoost's own JSON of what it has read: one spelling for all versions and both formats.
            document = json.loads(booster.save_raw("json"))
        learner: dict[str, Any] = document["learner"]
        if path.suffix == ".json":
            document = json.loads(path.read_bytes())
        version = ".".join(map(str, document["version"]))
    except (xgboost.core.XGBoostError, ValueError, KeyError) as err:
        reason = (str(err).strip().splitlines() or ["no reason given"])[0]
        raise CompileError(f"XGBoost cannot read {source}: {reason}") from None
    return booster, learner, version


def _accept(learner: Mapping[str, Any], source: Path) -> tuple[str, list[dict[str, Any]]]:
    """Objective and trees, or a refusal that names what cannot be served."""
    objective = learner["objective"]["name"]
    if objective not in REGRESSION:
        kind = {
            "binary": "a classifier", "multi": "a classifier", "rank": "a ranker", "survival": "a survival model"
        }.get(objective.partition(":")[0], "no regression this version knows")  # fmt: skip
        raise CompileError(
            f"{source} has objective {objective}: {kind}, and an arrival time needs a regression",
            hint=f"train with one of {', '.join(REGRESSION)}",
        )
    parameters = learner["learner_model_param"]
    if int(parameters.get("num_target", 1)) > 1 or int(parameters.get("num_class", 0)) > 1:
        raise CompileError(f"{source} is a multi-target model ({objective}); an arrival time is one number")
    model = learner["gradient_booster"]
    if model["name"] == "dart":
        model = model["gbtree"]
    if model["name"] != "gbtree":
        raise CompileError(f"{source} has booster {model['name']}: not trees", hint="train with gbtree or dart")
    if model["model"].get("cats", {}).get("enc"):
        raise CompileError(
            f"{source} has categorical features trained from a data frame, which XGBoost encodes itself",
            hint="train on a matrix of numeric codes: categorical splits on those are supported",
        )
    trees: list[dict[str, Any]] = model["model"]["trees"]
    if not trees:
        raise CompileError(f"{source} holds no tree")
    return objective, trees


def _feature_names(learner: Mapping[str, Any], given: Sequence[str] | None, source: Path) -> tuple[str, ...]:
    own = tuple(learner.get("feature_names") or ())
    n_features = int(learner["learner_model_param"]["num_feature"])
    if own and given and own != tuple(given):
        raise CompileError(f"{source} names its features {list(own)}, given were {list(given)}")
    names = own or tuple(given or ())
    if not names:
        raise CompileError(
            f"{source} does not name its {n_features} features", hint="give their names, in order: --features a,b,c"
        )
    if len(names) != n_features or n_features > MAX_FEATURES:
        raise CompileError(f"{source} has {n_features} features (at most {MAX_FEATURES}), {len(names)} are named")
    feature_codes(names)
    return names
