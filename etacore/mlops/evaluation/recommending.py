"""Which model to promote, and for each of the others one reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from etacore.mlops.evaluation.bootstrap import Comparison
from etacore.mlops.evaluation.results import EvaluationConfig, Recommendation, Result
from etacore.mlops.metrics import Metric

UNITS: Final = {"s": " s", "min": " min", "%": " %", "share": "", "1": ""}


def recommend(results: Sequence[Result], metric: Metric, config: EvaluationConfig) -> Recommendation:
    """Choose the model to promote.

    With an active model: the best eligible global model that beats it by the threshold with an interval that
    excludes no difference. Without one: the best eligible global model that beats every baseline, the best of them
    with such an interval.

    Parameters
    ----------
    results : sequence of Result
        The best first, as `etacore.mlops.evaluation.scoring.score_all` gives them.
    metric : Metric
        What decides.
    config : EvaluationConfig
        The active model and the threshold.
    """
    models = [result for result in results if result.identity.kind == "model"]
    threshold = config.improvement_threshold if config.active_model is not None else 0.0
    reasons: dict[str, str] = {}
    chosen: Result | None = None
    for result in models:
        reason = _why_not(result, results, metric, config, threshold)
        if reason is None and chosen is not None:
            reason = f"{chosen.title} is better: {shown(metric, chosen)} against {shown(metric, result)}"
        if reason is None:
            chosen = result
        else:
            reasons[result.name] = reason
    return Recommendation(None if chosen is None else chosen.name, _text(chosen, models, metric, config), reasons)


def _why_not(
    result: Result, results: Sequence[Result], metric: Metric, config: EvaluationConfig, threshold: float
) -> str | None:
    identity = result.identity
    if identity.name == config.active_model:
        return "it is the active model"
    if not identity.eligible:
        return identity.reason or "it is not eligible"
    if identity.route_id is not None:
        return f"it serves route {identity.route_id} only{_on_its_rows(result)}"
    if not result.is_complete:
        return f"it predicts only {100 * result.coverage:.1f} % of the rows"
    if config.active_model is not None:
        return _not_better(result.vs_active, "the active model", metric, threshold)
    for baseline in results:
        if baseline.identity.kind != "baseline" or not baseline.is_complete:
            continue
        theirs, mine = (metric.loss(r.metrics[metric.name]) for r in (baseline, result))
        if theirs <= mine:
            verb = "better" if theirs < mine else "as good"
            return f"the baseline {baseline.title} is {verb}: {shown(metric, baseline)} against {shown(metric, result)}"
    return _not_better(result.vs_baseline, "the best baseline", metric, threshold) if result.vs_baseline else None


def _not_better(comparison: Comparison | None, reference: str, metric: Metric, threshold: float) -> str | None:
    if comparison is None:
        return f"it has no row in common with {reference}"
    if comparison.beats(threshold):
        return None
    change = f"{100 * comparison.improvement:+.1f} %"
    if not comparison.improvement > 0:
        return f"it is no better than {reference}: {signed(metric, comparison)}"
    if not comparison.is_certain:
        return f"its improvement over {reference} of {change} may be chance: the interval holds 0"
    return f"it improves on {reference} by {change}, less than the {100 * threshold:g} % asked for"


def _on_its_rows(result: Result) -> str:
    comparison = result.vs_active
    if comparison is None:
        return ""
    verb = "beats" if comparison.beats() else "does not beat"
    return f", where it {verb} the active model ({100 * comparison.improvement:+.1f} %)"


def _text(chosen: Result | None, models: Sequence[Result], metric: Metric, config: EvaluationConfig) -> str:
    active = next((result for result in models if result.name == config.active_model), None)
    if chosen is None:
        kept = f"Keep {active.title} ({active.name})." if active else "Promote none of them."
        what = "the active model" if active else "the baselines"
        margin = f" by {100 * config.improvement_threshold:g} %" if active else ""
        text = f"{kept} No eligible candidate beats {what}{margin} with an interval that excludes no difference."
    else:
        comparison = chosen.vs_active or chosen.vs_baseline
        text = f"Promote {chosen.title} ({chosen.name}): {metric.name} {shown(metric, chosen)}"
        if comparison is not None:
            reference = "the active model" if active else f"the best baseline, {comparison.reference}"
            text += f", {improvement_text(comparison)} better than {reference}"
        text += "."
    if active is not None and not active.identity.eligible:
        text += f" The active model's own figures are not honest on these days: {active.identity.reason}."
    return text


def shown(metric: Metric, result: Result) -> str:
    """The metric of a result with its unit."""
    return value_text(metric, result.metrics[metric.name])


def value_text(metric: Metric, value: float) -> str:
    """A value of a metric with its unit; shares as percentages."""
    if metric.unit == "share":
        return f"{100 * value:.1f} %"
    digits = 1 if metric.unit in ("s", "%") else 3
    return f"{value:.{digits}f}{UNITS[metric.unit]}"


def signed(metric: Metric, comparison: Comparison) -> str:
    """The difference with its sign, unit and interval."""
    scale, unit, digits = (100.0, " points", 1) if metric.unit == "share" else (1.0, UNITS[metric.unit], 1)
    if metric.unit in ("min", "1"):
        digits = 3
    low, value, high = (scale * x for x in (comparison.low, comparison.difference, comparison.high))
    return f"{value:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]"


def improvement_text(comparison: Comparison) -> str:
    """The improvement in percent with its interval."""
    low, value, high = (
        100 * x for x in (comparison.improvement_low, comparison.improvement, comparison.improvement_high)
    )
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
