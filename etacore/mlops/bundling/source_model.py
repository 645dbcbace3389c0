"""An XGBoost file as it is read, and what about it cannot be served."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import CompileError
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


ALL_ROUNDS: Final = "all"
BEST_ROUNDS: Final = "best"


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A regression forest that XGBoost has read.

    Attributes
    ----------
    booster : xgboost.Booster
        With all rounds of the file.
    n_rounds : int
        Those that predict: the first so many.
    why : str
        Why these, where the file has more or was stopped early; else empty.
    learner : dict
        XGBoost's JSON of those rounds.
    version, objective, link : str
    trees : list of dict
        Of those rounds.
    features : tuple of str
    """

    booster: Any
    n_rounds: int
    why: str
    learner: dict[str, Any]
    version: str
    objective: str
    link: str
    trees: list[dict[str, Any]]
    features: tuple[str, ...]

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What XGBoost predicts, NaN being missing."""
        predictions: NDArray[np.float32] = self.booster.inplace_predict(
            rows, iteration_range=(0, self.n_rounds), missing=np.nan, validate_features=False
        )
        return predictions

    def content(self, model_format: str) -> bytes:
        """The rounds that predict as a file of their own, ``json`` or ``ubj``."""
        return bytes(self.booster[: self.n_rounds].save_raw(model_format))

    @property
    def is_cut(self) -> bool:
        """Whether the file has more rounds."""
        return self.n_rounds < int(self.booster.num_boosted_rounds())

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


def read_model(path: Path, features: Sequence[str] | None, source: str, rounds: int | str | None = None) -> SourceModel:
    """Read a model and refuse, by name, what cannot be served.

    Parameters
    ----------
    path : Path
        A file whose suffix says its format.
    features : sequence of str or None
        Feature names, for a model that has none.
    source : str
        What to call the model in errors.
    rounds : int or str, optional
        How many of its rounds predict: a number, ``all`` or ``best`` (those up to the one at which early stopping
        found it best). Default: what predicts with such a file where it comes from. A scikit-learn model (XGBRegressor)
        uses the best, a plain Booster all.

    Raises
    ------
    CompileError
        If XGBoost cannot read it, it is no single-target regression forest, or has no such rounds.
    SchemaError
        If a feature is unknown to this version.
    """
    booster, learner, version = _parse(path, source)
    objective, trees = _accept(learner, source)
    names = _feature_names(learner, features, source)
    n_rounds, why = _rounds(learner, int(booster.num_boosted_rounds()), rounds, source)
    model = SourceModel(booster, n_rounds, why, learner, version, objective, REGRESSION[objective], trees, names)
    if not model.is_cut:
        return model
    learner = json.loads(model.content("json"))["learner"]
    return replace(model, learner=learner, trees=_accept(learner, source)[1])


def format_of(content: bytes, source: str) -> str:
    """``json`` or ``ubj``, by content."""
    # A JSON object goes on with a quote or white space, a UBJ one with the length of its first key.
    if content[:1] == b"{":
        return "json" if content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t") else "ubj"
    raise CompileError(
        f"{source} is neither XGBoost JSON nor UBJ",
        hint="load it where it was made and save it with booster.save_model('model.json'); pickles are never opened",
    )


def _parse(path: Path, source: str) -> tuple[Any, dict[str, Any], str]:
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


def _accept(learner: Mapping[str, Any], source: str) -> tuple[str, list[dict[str, Any]]]:
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


def _rounds(learner: Mapping[str, Any], n: int, wanted: int | str | None, source: str) -> tuple[int, str]:
    """How many rounds predict, and why."""
    attributes = learner.get("attributes", {})
    stopped = str(attributes.get("best_iteration", ""))
    best = int(stopped) + 1 if stopped.isascii() and stopped.isdigit() and int(stopped) < n else None
    if wanted == BEST_ROUNDS and best is None:
        raise CompileError(
            f"{source} does not say at which of its {n} rounds it was best", hint=f"--rounds {ALL_ROUNDS}, or a number"
        )
    if isinstance(wanted, int):
        if not 1 <= wanted <= n:
            raise CompileError(f"{source} has {n} rounds, asked for were {wanted}")
        return wanted, "as asked for" if wanted < n else ""
    if wanted is not None and wanted not in (ALL_ROUNDS, BEST_ROUNDS):
        raise CompileError(f"rounds is {wanted!r}", hint=f"a number, {ALL_ROUNDS} or {BEST_ROUNDS}")
    if best is None or wanted == ALL_ROUNDS:
        return n, ""
    if wanted == BEST_ROUNDS:
        return best, "early stopping found it best there"
    if "scikit_learn" in attributes:
        return best, "early stopping found it best there, and XGBRegressor predicts so"
    return n, f"early stopping found it best after {best}, but a plain Booster predicts with all of them"


def _feature_names(learner: Mapping[str, Any], given: Sequence[str] | None, source: str) -> tuple[str, ...]:
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
