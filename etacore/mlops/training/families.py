r"""The five families: what each learns from the training rows, and the bytes that serving reads.

``historical_mean``
    Mean seconds by route, stop sequence and hour; the mean of all training rows where that is unknown.
``ewma``
    By route and stop sequence, over the training rows in the order of their time: e_1 = y_1,
    e_i = alpha y_i + (1 - alpha) e_(i-1). Fewer than 3 rows: the mean of all.
``polyreg_distance``, ``polyreg_time``
    With d the distance to the stop and x_j the other base features (``polyreg_time`` only)::

        seconds = b + c_1 z(d) + c_2 z(d^2) + sum_j w_j z(x_j),    z(t) = (t - mean(t)) / std(t)

    b is the mean of the training labels; c and w minimise sum (y - seconds)^2 + ridge (sum c^2 + sum w^2). A term
    that does not vary is left out. An unknown feature is 0.0.
``xgboost``
    Gradient boosted trees (histogram method). The validation rows' absolute error stops it early; the model is cut to
    its best round, so that every reader of the file predicts the same. With base features only an unknown feature is
    0.0, as in the models in the field; with others it is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etacore.errors import TrainingError
from etacore.mlops.progress import Progress
from etacore.mlops.training.config import TrainingConfig
from etacore.mlops.training.matrix import ROUTE_CODE, TYPICAL, feature_matrix
from etacore.mlops.training.parts import Part, Scope
from etacore.mlops.training.travel_times import fit_typical, typical_seconds_by_day
from etacore.models.predictors import load_predictor
from etacore.schema import BASE_FEATURES, MAX_ETA_S, MIN_ETA_S

Seconds = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model that is in no registry yet. Plain data.

    ``content`` is the source file's; ``routes``, ``typical`` and ``nan_fill`` belong to the model as in its manifest.
    ``predictions`` are seconds for the validation and the test rows, clipped as they are served.
    """

    content: bytes
    features: tuple[str, ...]
    nan_fill: float | None
    predictions: tuple[Seconds, Seconds]
    parameters: dict[str, Any]
    routes: tuple[str, ...] = ()
    typical: bytes | None = None
    best_iteration: int | None = None


def fit_family(model_type: str, scope: Scope, config: TrainingConfig, progress: Progress) -> Fitted:
    """Train one model.

    Parameters
    ----------
    model_type : str
        One of `FAMILIES`.
    scope : Scope
        Its rows.
    config : TrainingConfig
        Features, hyperparameters, seed.
    progress : Progress
        Told of boosting rounds.

    Raises
    ------
    TrainingError
        If the dataset does not hold what the family needs.
    """
    parameters = config.parameters_of(model_type)
    if model_type == "xgboost":
        return _fit_xgboost(scope, config, parameters, progress)
    if model_type.startswith("polyreg"):
        names = BASE_FEATURES if model_type == "polyreg_time" else BASE_FEATURES[:1]
        return _fit_polynomial(scope, names, parameters)
    return _fit_table(scope, model_type, parameters)


def _fit_table(scope: Scope, model_type: str, parameters: dict[str, Any]) -> Fitted:
    features = (ROUTE_CODE, "stop_sequence", *(("hour",) if model_type == "historical_mean" else ()))
    routes = scope.routes
    keys = feature_matrix(scope.dataset, scope.train.rows, features, routes=routes).astype(np.int64)
    y = scope.train.seconds
    if model_type == "historical_mean":
        levels, means = _group_means(keys, y)
    else:
        # The stable sort keeps the canonical order among rows of one time.
        in_time = np.argsort(scope.train.time_us, kind="stable")
        levels, means = _group_ewma(
            keys[in_time], y[in_time], parameters["alpha"], least=int(parameters["min_observations"])
        )
    document = {
        "kind": "mean_table",
        "keys": levels.tolist(),
        "values": means.tolist(),
        "default": float(y.mean()),
    }
    return _fitted_document(scope, document, features, None, parameters, routes)


def _group_means(keys: NDArray[np.int64], y: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    levels, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return levels, np.asarray(np.bincount(group.ravel(), weights=y) / count, np.float64)


def _group_ewma(
    keys: NDArray[np.int64], y: NDArray[np.float64], alpha: float, *, least: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    levels, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    place = np.empty(len(y), np.int64)  # 0 for the first row of a group
    place[order] = np.arange(len(y)) - np.repeat(np.cumsum(count) - count, count)
    newer = (count[group] - 1 - place).astype(np.float64)
    weight = np.power(1.0 - alpha, newer) * np.where(place == 0, 1.0, alpha)
    kept = count >= least
    averages = np.asarray(np.bincount(group, weights=weight * y, minlength=len(levels)), np.float64)
    return levels[kept], averages[kept]


def _fit_polynomial(scope: Scope, features: tuple[str, ...], parameters: dict[str, Any]) -> Fitted:
    X = feature_matrix(scope.dataset, scope.train.rows, features, nan_fill=0.0).astype(np.float64)  # noqa: N806
    y = scope.train.seconds
    powers = [(0, power) for power in range(1, int(parameters["degree"]) + 1)]
    columns, terms = [], []
    for feature, power in [*powers, *((j, 1) for j in range(1, len(features)))]:
        raw = X[:, feature] ** power
        mean, scale = float(raw.mean()), float(raw.std())
        if scale > 1e-12 * max(abs(mean), 1.0):
            columns.append((raw - mean) / scale)
            terms.append({"feature": feature, "power": power, "mean": mean, "scale": scale})
    intercept = float(y.mean())
    if columns:
        Z = np.stack(columns, axis=1)  # noqa: N806
        # Not by BLAS, whose sums depend on its number of threads.
        gram = np.einsum("ni,nj->ij", Z, Z) + parameters["ridge_alpha"] * np.eye(len(columns))
        weights = np.linalg.solve(gram, np.einsum("ni,n->i", Z, y - intercept))
        if not np.isfinite(weights).all():
            raise TrainingError("the regression has no finite solution", hint="raise ridge_alpha")
        terms = [term | {"coefficient": float(w)} for term, w in zip(terms, weights, strict=True)]
    document = {"kind": "polynomial", "intercept": intercept, "terms": terms}
    return _fitted_document(scope, document, features, 0.0, parameters, ())


def _fitted_document(
    scope: Scope,
    document: dict[str, Any],
    features: tuple[str, ...],
    nan_fill: float | None,
    parameters: dict[str, Any],
    routes: tuple[str, ...],
) -> Fitted:
    content = json.dumps(document, allow_nan=False).encode()
    predictor = load_predictor(content, len(features), "the model at hand")

    def predict(part: Part) -> Seconds:
        X = feature_matrix(scope.dataset, part.rows, features, nan_fill=nan_fill, routes=routes)  # noqa: N806
        seconds: Seconds = np.empty(len(X), np.float32)
        predictor.predict(X, seconds, MIN_ETA_S, MAX_ETA_S)
        return seconds

    return Fitted(content, features, nan_fill, _predictions(scope, predict), parameters, routes)


def _predictions(scope: Scope, predict: Callable[[Part], Seconds]) -> tuple[Seconds, Seconds]:
    validation, test = (
        predict(part) if len(part.rows) else np.empty(0, np.float32) for part in (scope.validation, scope.test)
    )
    return validation, test


_XGBOOST_FIXED: Final = {"tree_method": "hist", "eval_metric": "mae"}
_ROWS_FOR_THREADS: Final = 50_000
"""Below, threads cost more than they save. The model's bytes do not depend on their number."""


def _fit_xgboost(scope: Scope, config: TrainingConfig, parameters: dict[str, Any], progress: Progress) -> Fitted:
    import xgboost

    features = tuple(config.features)
    nan_fill = 0.0 if set(features) <= set(BASE_FEATURES) else None
    routes = scope.routes if ROUTE_CODE in features else ()
    table = by_day = None
    if TYPICAL in features:
        if scope.n_train_days < 2:
            raise TrainingError(
                f"{TYPICAL} needs two training days, dataset {scope.dataset.name} leaves {scope.n_train_days}",
                hint="a row is given the typical times of the other days: leave the feature out, or take more "
                "days or fewer validation days",
            )
        table = fit_typical(scope.dataset, scope.train.rows)
        by_day = typical_seconds_by_day(scope.dataset, scope.train.rows)

    def matrix(part: Part) -> Any:
        typical = by_day if part is scope.train else table
        X = feature_matrix(  # noqa: N806
            scope.dataset, part.rows, features, nan_fill=nan_fill, routes=routes, typical=typical
        )
        return xgboost.DMatrix(X, part.seconds, feature_names=list(features))

    n_rounds = int(parameters["n_estimators"])
    patience = int(parameters["early_stopping_rounds"])
    watched = [(matrix(scope.validation), "validation")] if patience and len(scope.validation.rows) else []
    settings = {k: v for k, v in parameters.items() if k not in ("n_estimators", "early_stopping_rounds")}
    with xgboost.config_context(verbosity=0):
        booster = xgboost.train(
            {
                **_XGBOOST_FIXED,
                **settings,
                "objective": config.objective,
                "seed": config.seed,
                "nthread": 1 if len(scope.train.rows) < _ROWS_FOR_THREADS else 0,
            },
            matrix(scope.train),
            num_boost_round=n_rounds,
            evals=watched,
            early_stopping_rounds=patience if watched else None,
            verbose_eval=False,
            callbacks=[_rounds_callback(progress, n_rounds)],
        )
        best = None
        if watched:
            best = int(booster.best_iteration)
            booster = booster[: best + 1]
            booster.set_attr(best_iteration=None, best_score=None)
        content = bytes(booster.save_raw("ubj"))

    def predict(part: Part) -> Seconds:
        seconds: Seconds = np.clip(booster.predict(matrix(part)), MIN_ETA_S, MAX_ETA_S).astype(np.float32)
        return seconds

    return Fitted(
        content,
        features,
        nan_fill,
        _predictions(scope, predict),
        parameters,
        routes,
        table.to_json() if table else None,
        best,
    )


def _rounds_callback(progress: Progress, n_rounds: int) -> Any:
    import xgboost

    class Rounds(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            progress("boosting rounds", epoch + 1, n_rounds)
            return False

    return Rounds()
