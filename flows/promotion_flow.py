"""The flow `model-promotion`: the model that loops serve, changed only if an evaluation says that it is better."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import flow

from etacore.errors import ConfigError, PromotionError
from etacore.models.registry import open_registry
from etacore.models.short_ids import resolve_key
from etacore.store.store import RedisStore
from flows.mlops_run import CONTEXT, MlopsRun, notification_option, registry_option, run_command, run_flow
from flows.parameters import Names
from flows.runtime_config import EtaRuntimeSettings, RunSettings, block_name, merge, resolve
from flows.shell import log

if TYPE_CHECKING:
    from etacore.mlops.promotion.promote import Promotion

FLOW_NAME: Final = "model-promotion"
ACTIVE: Final = "active"
"""As a model key: the one that is active, whichever that is."""
CANNOT_UPDATE: Final = "set update_runtime_block to false to change only what running loops without a block serve"


@flow(name=FLOW_NAME, persist_result=False)
def model_promotion(
    model_key: str,
    update_runtime_block: bool = True,
    runtime_block_name: str = "eta-runtime",
    warm_cache: bool = True,
    notification_blocks: Names = None,
    improvement_threshold: float = 0.05,
    force_reason: str | None = None,
    rollback: bool = False,
    model_registry_dir: str | None = None,
) -> Any:
    """Promote a model, if its bundle verifies and the newest evaluation has it better than the active one.

    The active model is announced in Redis (eta:active_model), where running loops notice it. Redis and the registry
    are those of the block; without update_runtime_block those of the environment (REDIS_HOST and its kin).

    Parameters
    ----------
    model_key
        The model: a key, its first characters, or a short id; "best" is what the newest evaluation recommends. With
        rollback: the one to go back from, which must be the active one; "active" for whichever is.
    update_runtime_block
        Also write it into the block, for loops that take their model from there.
    runtime_block_name
        EtaRuntimeSettings block.
    warm_cache
        Predict a batch before the switch.
    notification_blocks
        Who is told of success and failure: type-slug/name, or the name alone.
    improvement_threshold
        Share by which it must beat the active model: 0.05 is 5 %.
    force_reason
        Promote without a comparison, for this reason, which is recorded.
    rollback
        Go back to the model that was active before.
    model_registry_dir
        Default: the block's, else MODEL_REGISTRY_DIR, else models/trained.
    """
    given = dict(locals())
    return run_flow(FLOW_NAME, notification_blocks, lambda run: _work(run, given), tell_success=True)


def _work(run: MlopsRun, given: dict[str, Any]) -> tuple[str, Any]:
    from etacore.mlops.promotion.promote import PromotionConfig, active_model, candidate_key, promote, rollback

    rules = PromotionConfig(
        improvement_threshold=given["improvement_threshold"],
        force_reason=given["force_reason"],
        warm=given["warm_cache"],
        source=FLOW_NAME,
    )
    block, settings = _settings(run, given)
    update = None if block is None else _updater(block)
    registry = open_registry(settings.config.model_registry_dir)
    key = given["model_key"]
    with RedisStore(settings.config) as store:
        if given["rollback"]:
            active = active_model(registry, store)
            if key != ACTIVE and resolve_key(registry, key) != active:
                raise PromotionError(
                    f"{key} is not active, so there is no going back from it; active is {active or 'none'}",
                    hint=f"give that one, or {ACTIVE}",
                )
            done = run.step("roll_back", lambda: rollback(registry, store, rules, update_block=update))
        else:
            done = run.step(
                "promote_model",
                lambda: promote(registry, candidate_key(registry, key), store, rules, update_block=update),
            )
    summary = _summary(done, block)
    rows = _rows(done, block)
    run.page("report", _markdown(summary, rows), f"Promotion of {done.record.model_key}")
    return summary, {name: value for name, value in rows.items() if value is not None}


def _settings(run: MlopsRun, given: Mapping[str, Any]) -> tuple[str | None, RunSettings]:
    """The block that is to be updated, and what it and the environment say."""
    parameters = {"model_registry_dir": given["model_registry_dir"]}
    if not given["update_runtime_block"]:
        return None, merge(parameters, {}, os.environ)
    name = block_name(given["runtime_block_name"], log.info)
    if not run.has_prefect:
        raise ConfigError(f"block {name} cannot be updated without Prefect's API", hint=CANNOT_UPDATE)
    return name, resolve(parameters | {"runtime_settings_block": name}, api=True, say=log.info)


def _updater(name: str) -> Callable[[str | None], str | None]:
    """Writes a model key into the block as it is then, and nothing else of it; returns the one before."""

    def update(model_key: str | None) -> str | None:
        block = cast(EtaRuntimeSettings, EtaRuntimeSettings.load(name))
        before, block.model_key = block.model_key, model_key
        block.save(name, overwrite=True)
        log.info("block %s now names model %s", name, model_key or "none")
        return before

    return update


def _summary(done: Promotion, block: str | None) -> str:
    record = done.record
    what = "active again" if done.was_active else "active"
    parts = [f"{record.model_key} is {what}"]
    if record.previous:
        parts.append(f"before it {record.previous}")
    if done.evidence is not None:
        parts.append(f"{done.evidence.improvement:+.1%} by {done.evidence.metric} against {done.evidence.against}")
    if record.forced_reason:
        parts.append(f"forced: {record.forced_reason}")
    if block is not None:
        parts.append(f"block {block} updated")
    return ", ".join(parts)


def _rows(done: Promotion, block: str | None) -> dict[str, Any]:
    record, evidence = done.record, done.evidence
    rows: dict[str, Any] = {
        "model_key": record.model_key,
        "promoted_at": record.promoted_at,
        "source": record.source,
        "previous": record.previous,
        "runtime_block": block,
        "forced_reason": record.forced_reason,
        "evaluation": record.evaluation,
        "warm_cache_seconds": None if done.warm_s is None else round(done.warm_s, 3),
    }
    if evidence is not None:
        rows |= {
            "metric": evidence.metric,
            "value": round(evidence.value, 4),
            "against": evidence.against,
            "against_value": round(evidence.against_value, 4),
            "improvement": round(evidence.improvement, 4),
        }
    if done.skipped:
        rows["passed_over"] = "; ".join(f"{key}: {why}" for key, why in done.skipped.items())
    return rows


def _markdown(summary: str, rows: Mapping[str, Any]) -> str:
    promoted_at = datetime.fromisoformat(rows["promoted_at"]).astimezone(UTC)
    rows = {**rows, "promoted_at": f"{promoted_at:%Y-%m-%d %H:%M:%S} UTC"}
    body = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items() if value is not None]
    return "\n".join(["# Promotion", "", summary, "", "| what | value |", "| --- | --- |", *body, ""])


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings=CONTEXT)
@click.option("--model-key", help="Key, its first characters, short id, or best. Needed unless --rollback.")
@click.option("--update-runtime-block/--no-update-runtime-block", default=None, help="Default: yes.")
@click.option("--runtime-block-name", help="EtaRuntimeSettings block. Default eta-runtime.")
@click.option("--warm-cache/--no-warm-cache", default=None, help="Predict a batch before the switch. Default: yes.")
@click.option("--improvement-threshold", type=float, help="Share by which it must beat the active one. Default 0.05.")
@click.option("--force", "force_reason", metavar="REASON", help="Promote without a comparison; the reason is recorded.")
@click.option("--rollback", is_flag=True, default=None, help="Go back to the model that was active before.")
@registry_option
@notification_option
def main(**options: Any) -> None:
    """Run the flow model-promotion here and now."""
    if options["model_key"] is None:
        if not options["rollback"]:
            raise click.UsageError("Missing option '--model-key'.")
        options["model_key"] = ACTIVE
    run_command(model_promotion, options)


if __name__ == "__main__":
    main()
