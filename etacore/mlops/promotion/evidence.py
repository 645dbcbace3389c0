"""What evaluations say about a candidate: the evidence that a promotion needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from etacore.errors import EtacoreError, ModelNotFoundError, PromotionError, RegistryError
from etacore.mlops.metrics import find_metric
from etacore.models.json_reader import Reader
from etacore.models.manifest import finite_or_none, parse_time
from etacore.models.registry import Registry

EVALUATIONS: Final = "evaluations"
BASELINE: Final = "distance_mean_speed"
"""What the first model of a registry has to beat: distance over mean speed."""
EVALUATION_FORMAT: Final = 1
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Two figures from one evaluation.

    Attributes
    ----------
    file : str
        Name of the evaluation's file.
    dataset : str
    metric, unit : str
    against : str
        Key of the active model, or name of the baseline.
    value, against_value : float
        The metric of both on the same samples; of a signed metric (a bias) the size.
    difference : float
        Value minus ``against_value``.
    interval : tuple of float or None
        Bounds of the difference.
    improvement : float
        How much better, as a share of the other's value; negative is worse.
    """

    file: str
    dataset: str
    metric: str
    unit: str
    against: str
    value: float
    against_value: float
    difference: float
    interval: tuple[float, float] | None
    improvement: float


def find_evidence(registry: Registry, key: str, active: str | None) -> Evidence:
    """The newest evaluation that holds the candidate and the model that is active, both as they are now.

    Parameters
    ----------
    registry : Registry
        Evaluations are in its folder ``evaluations``.
    key : str
        The candidate.
    active : str or None
        What it has to beat; None: nothing is active yet, and the baseline `BASELINE` takes its place.

    Raises
    ------
    PromotionError
        If there is none; says of the newest ones why they do not count, and what to run.
    """
    dataset = registry.manifest(key).dataset
    if active is not None:
        try:
            registry.manifest_sha256(active)
        except ModelNotFoundError:
            raise PromotionError(
                f"the active model {active} is not in {registry.path}, so nothing can be compared with it",
                hint="bring it back (etacore registry list), or say why with --force REASON",
            ) from None
    reasons = []
    for path in _newest_first(registry):
        try:
            return _evidence(_load(path), path.name, registry, key, active)
        except (_NoEvidenceError, EtacoreError) as err:
            reasons.append(f"{path.name}: {err.message}")
    other = "the baselines" if active is None else f"the active model {active}"
    command = f"etacore evaluate {dataset} --model-key {key}" + (f" --active {active}" if active is not None else "")
    raise PromotionError(
        f"no evaluation compares {key} with {other}: "
        + ("; ".join(reasons[:_SHOWN]) if reasons else f"{registry.path / EVALUATIONS} holds none"),
        hint=f"run: {command}; or say why it may go without, with --force REASON",
    )


def recommended_key(registry: Registry) -> str:
    """The model that the newest evaluation recommends.

    Raises
    ------
    PromotionError
        If there is no evaluation, it cannot be read, it recommends none, or a model that is no longer there.
    """
    path = next(_newest_first(registry), None)
    if path is None:
        raise PromotionError(
            f"nothing is recommended: {registry.path / EVALUATIONS} holds no evaluation",
            hint="run: etacore evaluate DATASET; or name a model (etacore registry list)",
        )
    try:
        read = _load(path)
        key: str | None = read.optional("recommended", read.text)
    except EtacoreError as err:
        raise PromotionError(f"{path.name}: {err.message}", hint="evaluate again, or name a model") from None
    if key is None:
        said = read.raw.get("recommendation")
        raise PromotionError(
            f"{path.name} recommends no model" + (f": {said}" if isinstance(said, str) else ""),
            hint="name one (etacore registry list), or train a better one",
        )
    if key not in registry.keys():  # noqa: SIM118
        where = "is archived" if key in registry.archived() else f"is no longer in {registry.path}"
        raise PromotionError(
            f"{path.name} recommends {key}, which {where}",
            hint="evaluate again: etacore evaluate DATASET",
        )
    return key


class _NoEvidenceError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _newest_first(registry: Registry) -> Iterator[Path]:
    # Names begin with the time of the evaluation.
    yield from sorted((registry.path / EVALUATIONS).glob("*.json"), key=lambda path: path.name, reverse=True)


def _load(path: Path) -> Reader:
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as err:
        raise RegistryError(f"cannot be read: {err.strerror or err}") from None
    except orjson.JSONDecodeError as err:
        raise RegistryError(f"is not JSON: {err}") from None
    read = Reader(raw, "content")
    if read.integer("format") != EVALUATION_FORMAT:
        read.fail("format", f"is {raw['format']}, this version reads {EVALUATION_FORMAT}")
    read.converted("created_at", "an ISO 8601 time", parse_time)
    return read


def _evidence(read: Reader, file: str, registry: Registry, key: str, active: str | None) -> Evidence:
    metric = find_metric(read.text("metric"))
    minimize = bool(read.raw.get("minimize", not metric.higher_is_better))
    candidate = _model(read, registry, key)
    if candidate.raw.get("eligible") is not True:
        raise _NoEvidenceError(f"{key} is not eligible there: {candidate.raw.get('reason') or 'no reason is given'}")
    against = BASELINE if active is None else active
    other = _baseline(read) if active is None else _model(read, registry, against)
    n, n_other = candidate.raw.get("n"), other.raw.get("n")
    if candidate.raw.get("route_id") is None and isinstance(n, int) and isinstance(n_other, int) and n < n_other:
        # Nobody may get better figures by being silent where it is difficult.
        raise _NoEvidenceError(f"{key} predicts {n} of the {n_other} samples there that {against} predicts")
    comparison = _comparison(candidate, read, active)
    values = _values(comparison, "value", "reference_value")
    if values is None and candidate.raw.get("n") == other.raw.get("n"):
        mine, theirs = (_values(one.raw.get("metrics"), metric.name) for one in (candidate, other))
        values = (mine[0], theirs[0]) if mine and theirs else None
    if values is None:
        raise _NoEvidenceError(
            f"it has no {metric.name} of both on the same samples ({key}: {candidate.raw.get('n')}, "
            f"{against}: {other.raw.get('n')})"
        )
    value, against_value = (abs(number) if metric.signed else number for number in values)
    gain = against_value - value if minimize else value - against_value
    interval = _values(comparison, "low_s", "high_s")
    return Evidence(
        file=file,
        dataset=read.text("dataset"),
        metric=metric.name,
        unit=metric.unit,
        against=against,
        value=value,
        against_value=against_value,
        difference=value - against_value,
        interval=None if interval is None else (interval[0], interval[1]),
        improvement=gain / abs(against_value) if against_value else math.copysign(math.inf, gain) if gain else 0.0,
    )


def _model(read: Reader, registry: Registry, key: str) -> Reader:
    models = read.mapping("models")
    if key not in models:
        raise _NoEvidenceError(f"it does not hold {key}")
    found = read.inner(f"models.{key}", models[key])
    if found.raw.get("manifest_sha256") != registry.manifest_sha256(key):
        raise _NoEvidenceError(f"it holds another model of the name {key}: the manifest has another hash")
    return found


def _baseline(read: Reader) -> Reader:
    baselines = read.mapping("baselines")
    if BASELINE not in baselines:
        raise _NoEvidenceError(f"it holds no baseline {BASELINE}, but {', '.join(sorted(baselines)) or 'none'}")
    return read.inner(f"baselines.{BASELINE}", baselines[BASELINE])


def _comparison(candidate: Reader, read: Reader, active: str | None) -> object:
    """What the evaluation says of both on the samples they have in common, if it compared these two."""
    if active is not None:
        return candidate.raw.get("vs_active") if read.raw.get("active_model") == active else None
    versus = candidate.raw.get("vs_baseline")
    return versus if isinstance(versus, dict) and versus.get("reference") == BASELINE else None


def _values(raw: object, *names: str) -> tuple[float, ...] | None:
    if not isinstance(raw, dict):
        return None
    values = [finite_or_none(raw.get(name)) for name in names]
    return None if None in values else tuple(value for value in values if value is not None)
