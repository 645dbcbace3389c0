"""The tables of a report, as text: the console and the Markdown file show the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from etacore.accuracy import BANDS, MBTA_BANDS
from etacore.mlops.evaluation.baselines import TITLES
from etacore.mlops.evaluation.recommending import improvement_text, shown, signed, value_text
from etacore.mlops.evaluation.results import Findings, Result, Slice
from etacore.mlops.metrics import METRICS

MAX_COLUMNS: Final = 8
UNKNOWN: Final = "-"


@dataclass(frozen=True, slots=True)
class TextTable:
    """A title, a sentence about what is in it, headings and rows of text. The first `n_texts` columns are words."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_texts: int = 1


def leaderboard(evaluation: Findings) -> TextTable | None:
    """Everybody who predicts every held-out row."""
    metric, recommended = evaluation.metric, evaluation.recommendation.key
    reference = "active" if evaluation.config.active_model is not None else "best baseline"
    rows = []
    for place, result in enumerate(evaluation.leaderboard, 1):
        comparison = result.vs_active if evaluation.config.active_model is not None else result.vs_baseline
        rows.append(
            (
                result.title,
                _standing(result, evaluation, recommended),
                str(place),
                shown(metric, result),
                improvement_text(comparison) if comparison else UNKNOWN,
                *_usual(result),
            )
        )
    note = (
        f"Every one of them predicts all {evaluation.n_rows:,} rows. Better than the {reference}: by {metric.name}, "
        f"with its {100 * evaluation.config.confidence:g} % interval from {evaluation.config.n_resamples:,} draws of "
        f"{evaluation.n_trips:,} trips; how much another day would differ is not in it."
    )
    if not rows:
        return None
    headings = ("predictor", "standing", "#", metric.name, f"better than {reference}", *_USUAL)
    return TextTable("Leaderboard", note, headings, tuple(rows), 2)


_USUAL: Final = ("median s", "q90 s", "bias s", "≤120 s", "ETA bands", "MBTA")


def _usual(result: Result) -> tuple[str, ...]:
    metrics = result.metrics
    return (
        f"{metrics['median_ae']:.1f}",
        f"{metrics['error_q90']:.1f}",
        f"{metrics['bias_seconds']:+.1f}",
        percent(metrics["within_120s"]),
        percent(result.eta.bands_score),
        percent(result.mbta.overall),
    )


def _standing(result: Result, evaluation: Findings, recommended: str | None) -> str:
    if result.identity.kind == "baseline":
        return "baseline"
    words = ["promote"] if result.name == recommended else []
    words += ["active"] if result.name == evaluation.config.active_model else []
    words += [] if result.identity.eligible else ["not eligible"]
    return ", ".join(words) or "candidate"


def partial(evaluation: Findings) -> TextTable | None:
    """Route models, and baselines that do not know every row, each beside a reference on the same rows."""
    metric, with_active = evaluation.metric, evaluation.config.active_model is not None
    rows = []
    for result in evaluation.partial:
        comparison = result.vs_active if with_active else result.vs_baseline
        rows.append(
            (
                result.title,
                _standing(result, evaluation, None),
                f"{result.n:,} ({100 * result.coverage:.1f} %)",
                shown(metric, result),
                value_text(metric, comparison.reference_value) if comparison else UNKNOWN,
                signed(metric, comparison) if comparison else UNKNOWN,
                *_usual(result),
            )
        )
    if not rows:
        return None
    reference = "active model" if with_active else "best baseline"
    note = (
        "These predict some of the rows only: a route model those of its route. Their figures are about these rows and "
        f"cannot be compared with the leaderboard; the {reference} is shown on the very same rows, and the difference "
        "(with its interval) is paired."
    )
    headings = ("predictor", "standing", "rows", metric.name, f"{reference}, same rows", "difference", *_USUAL)
    return TextTable("On part of the rows", note, headings, tuple(rows), 2)


def all_metrics(evaluation: Findings) -> TextTable | None:
    """Every contract metric of everybody on the leaderboard."""
    results = columns(evaluation)
    if not results:
        return None
    rows = tuple((name, *(_metric(name, result.metrics[name]) for result in results)) for name in METRICS)
    return TextTable("All metrics", _of(results, evaluation), ("metric", *(r.title for r in results)), rows)


def eta_bands(evaluation: Findings) -> TextTable | None:
    """ETA Accuracy Benchmark."""
    results = columns(evaluation)
    if not results:
        return None
    rows = [
        (
            f"{band.from_min:g}-{band.to_min:g} min, {band.earliest_s:+g} to {band.latest_s:+g} s",
            *(percent(result.eta.by_minutes[i].in_band) for result in results),
        )
        for i, band in enumerate(BANDS)
    ]
    rows.append(("score", *(percent(result.eta.bands_score) for result in results)))
    note = (
        "Share of predictions with actual minus predicted inside the window, ends included, by minutes to the actual "
        "arrival; the score is the unweighted mean of the four."
    )
    return TextTable("ETA Accuracy Benchmark", note, ("to the arrival", *(r.title for r in results)), tuple(rows))


def mbta_bands(evaluation: Findings) -> TextTable | None:
    """The MBTA's prediction accuracy."""
    results = columns(evaluation)
    if not results:
        return None
    rows = [
        (
            f"{band.from_min:g}-{band.to_min:g} min, {band.earliest_s:+g} to {band.latest_s:+g} s",
            *(f"{percent(result.mbta.bins[i].share)} of {result.mbta.bins[i].n:,}" for result in results),
        )
        for i, band in enumerate(MBTA_BANDS)
    ]
    rows.append(("overall", *(percent(result.mbta.overall) for result in results)))
    note = (
        "Share of predictions with actual minus predicted inside the window, ends excluded, by minutes to the "
        "predicted arrival; overall is over all predictions below 30 minutes."
    )
    return TextTable("MBTA accuracy", note, ("predicted", *(r.title for r in results)), tuple(rows))


def by_horizon(evaluation: Findings) -> TextTable | None:
    """Mean absolute error by minutes to the actual arrival."""
    results = columns(evaluation)
    if not results:
        return None
    rows = [
        (f"{piece.label} min", f"{piece.n:,}", *(number(result.eta.by_minutes[i].mae_s) for result in results))
        for i, piece in enumerate(results[0].eta.by_minutes)
        if piece.n
    ]
    note = "Mean absolute error in seconds by minutes to the actual arrival."
    return TextTable("By horizon", note, ("to the arrival", "rows", *(r.title for r in results)), tuple(rows))


def by_route(evaluation: Findings) -> TextTable | None:
    """Mean absolute error by route."""
    return _by("By route", "route", evaluation, lambda result: result.by_route, lambda name: name)


def by_hour(evaluation: Findings) -> TextTable | None:
    """Mean absolute error and bias by hour of the day."""
    return _by("By hour", "hour", evaluation, lambda result: result.by_hour, lambda name: f"{name}:00")


def _by(
    title: str,
    heading: str,
    evaluation: Findings,
    slices: Callable[[Result], Mapping[str, Slice]],
    label: Callable[[str], str],
) -> TextTable | None:
    results = columns(evaluation)
    if not results:
        return None
    found = [slices(result) for result in results]
    rows = [
        (label(name), f"{piece.n:,}", *(_mae_and_bias(pieces[name]) for pieces in found))
        for name, piece in found[0].items()
    ]
    note = f"Mean absolute error in seconds, and in brackets the bias (predicted minus actual), by {heading}."
    return TextTable(title, note, (heading, "rows", *(r.title for r in results)), tuple(rows))


def _mae_and_bias(piece: Slice) -> str:
    return f"{piece.mae_s:.1f} ({piece.bias_s:+.1f})"


def reasons(evaluation: Findings) -> TextTable | None:
    """Why the others are not recommended, and who could not take part."""
    titles = {result.name: result.title for result in evaluation.results}
    listed = {**evaluation.recommendation.reasons, **evaluation.skipped}
    rows = tuple((titles.get(name, name), reason) for name, reason in listed.items())
    return TextTable("Why not the others", "", ("predictor", "reason"), rows, 2) if rows else None


def legend(evaluation: Findings) -> TextTable:
    """Who is behind the short names."""
    rows = [
        (
            result.title,
            f"`{result.name}`",
            _origin(result),
        )
        for result in evaluation.results
    ]
    return TextTable("Who is who", "", ("name", "key", "what it is"), tuple(rows), 3)


def _origin(result: Result) -> str:
    identity = result.identity
    if identity.kind == "baseline":
        return identity.note or ""
    texts = [f"trained on {identity.trained_on}", f"saved {(identity.saved_at or UNKNOWN)[:19]}", identity.note]
    return ", ".join(text for text in texts if text)


def rolling(evaluation: Findings) -> TextTable | None:
    """The metric of each retraining on the day after it."""
    if not evaluation.rolling:
        return None
    metric = evaluation.metric
    names = list(dict.fromkeys(name for window in evaluation.rolling for name in window.metrics))
    rows = [
        (
            str(window.test_day),
            _span(window.train_days),
            f"{window.n:,}",
            *(
                value_text(metric, window.metrics[name][metric.name]) if name in window.metrics else UNKNOWN
                for name in names
            ),
        )
        for window in evaluation.rolling
    ]
    note = f"{metric.name} of models trained anew on the days before and tested on the next one: how steady it is."
    return TextTable(
        "Rolling windows",
        note,
        ("test day", "trained on", "rows", *(TITLES.get(name, name) for name in names)),
        tuple(rows),
        2,
    )


def _span(days: Sequence[object]) -> str:
    return f"{days[0]} to {days[-1]} ({len(days)})" if len(days) > 1 else str(days[0])


def columns(evaluation: Findings) -> tuple[Result, ...]:
    """At most `MAX_COLUMNS` of the leaderboard: active and recommended model, baselines, then the best others."""
    board = evaluation.leaderboard
    must = {evaluation.config.active_model, evaluation.recommendation.key}
    wanted = [result for result in board if result.name in must or result.identity.kind == "baseline"]
    others = [result for result in board if result not in wanted]
    chosen = {result.name for result in (*wanted, *others[: max(0, MAX_COLUMNS - len(wanted))])}
    return tuple(result for result in board if result.name in chosen)


def _of(results: Sequence[Result], evaluation: Findings) -> str:
    n_more = len(evaluation.leaderboard) - len(results)
    return f"{n_more} more stand in the JSON file." if n_more else ""


def _metric(name: str, value: float) -> str:
    unit = METRICS[name].unit
    return percent(value) if unit == "share" else number(value, 1 if unit in ("s", "%") else 3)


def percent(share: float) -> str:
    """A share (0..1) as a percentage, or a dash."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else UNKNOWN


def number(value: float, digits: int = 1) -> str:
    """A number, or a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNKNOWN
