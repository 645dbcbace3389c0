"""Which model the loop serves: the gate in front of it, the switch, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

from etacore.errors import EtacoreError, ModelNotFoundError, PromotionError
from etacore.mlops.promotion.bundle_check import examine_bundle, predict_sample
from etacore.mlops.promotion.evidence import Evidence, find_evidence, recommended_key
from etacore.mlops.promotion.history import ROLLBACK, Record, append_record, read_history, ways_back
from etacore.models.model import Model
from etacore.models.registry import Registry
from etacore.models.short_ids import resolve_key
from etacore.store.announcement import announced_key, encode_announcement
from etacore.store.store import RedisStore

UpdateBlock = Callable[[str | None], str | None]
"""Writes a model key to where a newly started loop looks for it, and returns what stood there: that is written back
if the promotion fails later. What it raises stops the promotion."""

WARM_ROWS: Final = 10_000
BEST: Final = "best"
"""As a model key: the one that the newest evaluation recommends."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionConfig:
    """How strict the gate is.

    Attributes
    ----------
    improvement_threshold : float
        Share by which a candidate must beat the active model, 0 or more; 0.05 is 5 %.
    force_reason : str or None
        Promote without a comparison, for this reason, which is recorded. The bundle is checked all the same.
    warm : bool
        Predict a batch of rows before the switch: the files are then in memory, and known to work at size.
    source : str
        Who promotes, for the record.
    """

    improvement_threshold: float = 0.05
    force_reason: str | None = None
    warm: bool = True
    source: str = "cli"

    def __post_init__(self) -> None:
        if not 0 <= self.improvement_threshold < 1:
            raise PromotionError(
                f"improvement_threshold is {self.improvement_threshold}, but must be from 0 to below 1",
                hint="0.05 asks for 5 % better",
            )
        if self.force_reason is not None and not self.force_reason.strip():
            raise PromotionError("a forced promotion needs a reason", hint="--force 'why it goes without a comparison'")
        if not self.source or self.source == ROLLBACK:
            raise PromotionError(f"source is {self.source!r}, which names nobody", hint="say who promotes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What was done.

    Attributes
    ----------
    record : Record
        As it stands in the history.
    evidence : Evidence or None
        The comparison that spoke for it.
    was_active : bool
        The model was announced already; it was announced again, and the history completed.
    warm_s : float or None
        Seconds that a batch of `WARM_ROWS` rows took.
    skipped : dict of str to str
        Models that a rollback passed over, with the reason.
    """

    record: Record
    evidence: Evidence | None = None
    was_active: bool = False
    warm_s: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)


def active_model(registry: Registry, store: RedisStore | None) -> str | None:
    """Key of the model in production: what Redis announces, else the last of the history; None if neither names one.

    Parameters
    ----------
    registry : Registry
        Holds the history.
    store : RedisStore or None
        None asks the history alone.

    Raises
    ------
    RedisUnavailableError, ConfigError
        If Redis cannot be asked.
    RegistryError
        If the history is damaged.
    """
    key = announced_key(store.active_model()) if store is not None else None
    if key is not None:
        return key
    history = read_history(registry)
    return history[-1].model_key if history else None


def promote(
    registry: Registry,
    model_key: str,
    store: RedisStore,
    config: PromotionConfig | None = None,
    *,
    update_block: UpdateBlock | None = None,
) -> Promotion:
    """Let a model through the gate and make it the one that loops serve.

    The gate: the bundle verifies and predicts on this machine, serving can compute its features, and the newest
    evaluation that holds it and the active model has it better by the threshold. Without an active model it has to
    beat the baseline of distance over mean speed. Where models of single routes are promoted too, the one whose place
    it takes counts as active.

    Parameters
    ----------
    registry : Registry
        Its lock is held throughout, so that nobody archives or replaces the model meanwhile.
    model_key : str
        The candidate.
    store : RedisStore
        Where loops listen.
    config : PromotionConfig, optional
        How strict the gate is.
    update_block : callable, optional
        Also writes the key to the settings of newly started loops.

    Raises
    ------
    PromotionError
        If the model does not get through; says why, and what to run. Nothing is changed then.
    RedisUnavailableError, ConfigError
        If Redis cannot be used. Nothing is changed then.
    RegistryError
        If the history is damaged or cannot be written. What was changed is taken back.
    """
    config = config or PromotionConfig()
    with _existing(registry).locked():
        model = verified_model(registry, model_key)
        active = active_model(registry, store)
        evidence = None
        if active != model_key and config.force_reason is None:
            reference = _reference(registry, model.route_id, active)
            evidence = find_evidence(registry, model_key, reference)
            _judge(evidence, model_key, reference, config.improvement_threshold)
        warm_s = _warm(model) if config.warm else None
        history = read_history(registry)
        record = Record(
            model_key=model_key,
            promoted_at=datetime.now(UTC).isoformat(),
            source=config.source,
            previous=active if active != model_key else (history[-1].model_key if history else None),
            forced_reason=config.force_reason,
            evaluation=evidence.file if evidence else None,
            difference_s=evidence.difference if evidence else None,
        )
        # Announced and written down already: only announce it again, in the same words.
        known = bool(history) and history[-1].model_key == model_key == active
        record = history[-1] if known else record
        _switch(registry, store, record, update_block, remember=not known)
    return Promotion(record=record, evidence=evidence, was_active=active == model_key, warm_s=warm_s)


def candidate_key(registry: Registry, given: str) -> str:
    """The model that somebody asks to promote: by key, its first characters or short id; `BEST` is the recommended one.

    Raises
    ------
    ModelNotFoundError
        If no model is meant, or more than one.
    PromotionError
        If `BEST` is asked for, and the newest evaluation recommends none, or one that is gone.
    """
    if given == BEST and BEST not in registry.keys():  # noqa: SIM118
        return recommended_key(registry)
    return resolve_key(registry, given)


def rollback(
    registry: Registry,
    store: RedisStore,
    config: PromotionConfig | None = None,
    *,
    update_block: UpdateBlock | None = None,
) -> Promotion:
    """Go back to the model that was active before; a second step goes back further.

    Models that no longer load are passed over.

    Parameters
    ----------
    registry, store, update_block
        As for `promote`.
    config : PromotionConfig, optional
        ``warm`` and ``force_reason``, which is recorded; no comparison is asked for.

    Raises
    ------
    PromotionError
        If there is nothing to go back to.
    RedisUnavailableError, ConfigError, RegistryError
        As `promote`.
    """
    config = config or PromotionConfig()
    skipped: dict[str, str] = {}
    with _existing(registry).locked():
        active = active_model(registry, store)
        for key in ways_back(read_history(registry), active):
            try:
                model = verified_model(registry, key)
                break
            except PromotionError as err:
                skipped[key] = err.message
        else:
            passed = f"; passed over: {'; '.join(skipped.values())}" if skipped else ""
            raise PromotionError(
                f"there is no earlier model to go back to{passed}", hint="name one: etacore promote MODEL_KEY"
            )
        warm_s = _warm(model) if config.warm else None
        record = Record(
            model_key=key,
            promoted_at=datetime.now(UTC).isoformat(),
            source=ROLLBACK,
            previous=active,
            forced_reason=config.force_reason,
        )
        _switch(registry, store, record, update_block, remember=True)
    return Promotion(record=record, warm_s=warm_s, skipped=skipped)


def verified_model(registry: Registry, model_key: str) -> Model:
    """A model that may be served: every file as it was saved, checked by its compiler, finite in its predictions.

    Raises
    ------
    PromotionError
        If it may not; says why.
    """
    if model_key not in registry.keys():  # noqa: SIM118
        try:
            registry.load(model_key)
        except ModelNotFoundError:
            if model_key in registry.archived():
                raise PromotionError(
                    f"model {model_key} is archived", hint=f"etacore registry restore {model_key}"
                ) from None
            raise PromotionError(
                f"there is no model {model_key} in {registry.path}", hint="etacore registry list shows those there are"
            ) from None
        except EtacoreError as err:
            raise PromotionError(f"{model_key} cannot be promoted: {err.message}", hint=err.hint) from None
    examined = examine_bundle(registry, model_key)
    if examined.model is None or examined.findings:
        finding = examined.findings[0]
        raise PromotionError(f"{model_key} cannot be promoted: {finding.text}", hint=finding.advice or None)
    return examined.model


def _existing(registry: Registry) -> Registry:
    # The lock would make the folder, and a misspelt one would come into being.
    if not registry.path.is_dir() and not registry.shipped_keys():
        raise PromotionError(
            f"there is no registry at {registry.path}",
            hint="set model_registry_dir (environment MODEL_REGISTRY_DIR)",
        )
    return registry


def _reference(registry: Registry, route_id: str | None, active: str | None) -> str | None:
    """What a candidate takes the place of: the last promoted of its scope; for a route without one, the global one.

    The model of one route says nothing about how all others are served.
    """
    if active is None:
        return None
    latest: dict[str | None, str] = {}
    for key in (active, *(record.model_key for record in reversed(read_history(registry)))):
        try:
            latest.setdefault(registry.manifest(key).route_id, key)
        except EtacoreError:
            if key == active:
                return active
    return latest.get(route_id, latest.get(None))


def _judge(evidence: Evidence, model_key: str, active: str | None, threshold: float) -> None:
    found = (
        f"{evidence.metric} {evidence.value:.4g} against {evidence.against_value:.4g} of {evidence.against} "
        f"({evidence.improvement:+.1%}) in {evidence.file}"
    )
    if active is None and not evidence.improvement > 0:
        raise PromotionError(
            f"{model_key} does not beat the baseline: {found}", hint="train a better one, or --force REASON"
        )
    if active is not None and (evidence.improvement < threshold - _ROUNDING or evidence.improvement <= 0):
        raise PromotionError(
            f"{model_key} does not beat the active model by {threshold:.1%}: {found}",
            hint="train a better one, lower --improvement-threshold, or --force REASON",
        )


def _warm(model: Model) -> float:
    began = perf_counter()
    try:
        predict_sample(model, WARM_ROWS)
    except EtacoreError as err:
        raise PromotionError(f"{model.key} cannot be promoted: {err.message}", hint=err.hint) from None
    return perf_counter() - began


def _switch(
    registry: Registry,
    store: RedisStore,
    record: Record,
    update_block: UpdateBlock | None,
    *,
    remember: bool,
) -> None:
    # Block, Redis, history. The block is the likeliest to fail and is read by nobody before the next start of a loop.
    # Redis is what running loops go by: one value, swapped as a whole. The history comes last, so that it never
    # names as active what no loop has been told. Killed in between, Redis and the history name different models:
    # everybody takes Redis' word first, the way back is found from it, archiving spares both, and promoting the same
    # model again completes the history. An error, rather than a kill, takes back what has been done.
    announced = store.active_model()
    with ExitStack() as undo:
        if update_block is not None:
            try:
                before = update_block(record.model_key)
            except Exception as err:
                raise PromotionError(
                    f"the settings block could not be updated, nothing is promoted: {err}",
                    hint="promote without the block, or repair it",
                ) from err
            undo.callback(_quietly, update_block, before)
        undo.callback(_quietly, store.announce_model, announced)
        store.announce_model(encode_announcement(record.model_key, record.promoted_at, record.source))
        if remember:
            append_record(registry, record)
        undo.pop_all()


def _quietly(call: Callable[..., object], *arguments: object) -> None:
    with suppress(Exception):
        call(*arguments)
