"""The flow `registry-health-check`: what is wrong with the models on disk, and old ones out of the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import flow

from etacore.config import RuntimeConfig, names_redis
from etacore.errors import EtacoreError, RegistryError
from etacore.models.registry import Registry, open_registry
from etacore.models.short_ids import resolve_key
from etacore.store.announcement import announced_key
from etacore.store.store import RedisStore
from flows.mlops_run import (
    CONTEXT,
    FlowFailedError,
    MlopsRun,
    notification_option,
    registry_option,
    run_command,
    run_flow,
)
from flows.parameters import Names
from flows.runtime_config import BLOCK_SLUG, EtaRuntimeSettings, from_environment, merge, stored_blocks
from flows.shell import log, one_line

if TYPE_CHECKING:
    from etacore.mlops.promotion.health import Archived, HealthReport

FLOW_NAME: Final = "registry-health-check"


@flow(name=FLOW_NAME, persist_result=False)
def registry_health_check(
    check_stale: bool = True,
    max_age_days: float = 90,
    archive_stale: bool = False,
    fail_on_errors: bool = False,
    notification_blocks: Names = None,
    model_registry_dir: str | None = None,
) -> Any:
    """Look for models that are missing, damaged, unregistered, unloadable or stale.

    Parameters
    ----------
    check_stale
        Look at the age.
    max_age_days
        Older models are stale.
    archive_stale
        Move stale models to the archive; never an active one, nor the last good one of a route. What is active
        is said by Redis if one is named (REDIS_HOST, REDIS_PORT or REDIS_URL), else by the promotion history.
    fail_on_errors
        Broken models make this a failed run.
    notification_blocks
        Who is told of a failure: type-slug/name, or the name alone.
    model_registry_dir
        Default MODEL_REGISTRY_DIR, else models/trained.
    """
    given = dict(locals())
    return run_flow(FLOW_NAME, notification_blocks, lambda run: _work(run, given))


def _work(run: MlopsRun, given: dict[str, Any]) -> tuple[str, Any]:
    from etacore.mlops.promotion.health import archive, check_registry

    config = merge({"model_registry_dir": given["model_registry_dir"]}, {}, os.environ).config
    registry = open_registry(config.model_registry_dir)
    announced, problem = _announced(config)
    active = [*announced, *(_named_by_blocks(registry) if run.has_prefect else [])]
    age_days, stale = given["max_age_days"], given["check_stale"]
    report = run.step(
        "check_registry",
        lambda: check_registry(registry, max_age_days=age_days, check_stale=stale, active=active),
    )
    run.page("report", report.to_markdown(), f"Models in {report.path}")
    run.table("findings", _rows(report), report.line())
    summary = report.line()
    done = None
    if given["archive_stale"]:
        if problem is not None:
            raise RegistryError(
                f"nothing is archived: {one_line(problem)}",
                hint="what is active is not known without the Redis that is named",
            )
        done = run.step("archive_models", lambda: archive(registry, stale=True, max_age_days=age_days, in_use=active))
        run.page("archived", _archived_page(done), "What was archived, and what was kept")
        summary += f"; {len(done.keys)} archived, {len(done.kept)} kept"
    if given["fail_on_errors"] and not report.is_healthy:
        first = report.of("error")[0]
        raise FlowFailedError(f"{summary}; the first error: {first.key}: {first.text}")
    archived = [] if done is None else list(done.keys)
    return summary, {**report.to_dict(), "archived_now": archived}


def _announced(config: RuntimeConfig) -> tuple[list[str], EtacoreError | None]:
    """Key of the model that running loops serve, and why a Redis that is named cannot say it."""
    if not names_redis(from_environment(os.environ)):
        return [], None
    try:
        with RedisStore(config) as store:
            key = announced_key(store.active_model())
    except EtacoreError as error:
        log.warning("%s; what it announces is not known", error.message)
        return [], error
    return ([] if key is None else [key]), None


def _named_by_blocks(registry: Registry) -> list[str]:
    """Model keys of the settings blocks: a loop may serve any of them. Those of another registry do not count."""
    here = registry.path.resolve()
    keys = []
    for slug, name in stored_blocks():
        if slug == BLOCK_SLUG:
            block = cast(EtaRuntimeSettings, EtaRuntimeSettings.load(name))
            elsewhere = block.model_registry_dir and Path(block.model_registry_dir).resolve() != here
            keys += [_whole_key(registry, block.model_key)] if block.model_key and not elsewhere else []
    return keys


def _whole_key(registry: Registry, given: str) -> str:
    try:
        return resolve_key(registry, given)
    except EtacoreError:
        return given  # the check says what is wrong


def _rows(report: HealthReport) -> list[dict[str, str]]:
    return [
        {
            "severity": finding.severity,
            "kind": finding.kind,
            "model": finding.key,
            "what": finding.text,
            "what to do": finding.advice,
        }
        for finding in report.findings
    ]


def _archived_page(done: Archived) -> str:
    lines = ["# Archived", "", *(f"- `{key}`" for key in done.keys), "", "# Kept", ""]
    return "\n".join([*lines, *(f"- `{key}`: {why}" for key, why in done.kept.items()), ""])


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings=CONTEXT)
@click.option("--check-stale/--no-check-stale", default=None, help="Look at the age. Default: yes.")
@click.option("--max-age-days", type=float, help="Older models are stale. Default 90.")
@click.option("--archive-stale/--no-archive-stale", default=None, help="Move stale models to the archive.")
@click.option("--fail-on-errors/--no-fail-on-errors", default=None, help="Exit with 2 if something is broken.")
@registry_option
@notification_option
def main(**options: Any) -> None:
    """Run the flow registry-health-check here and now."""
    run_command(registry_health_check, options)


if __name__ == "__main__":
    main()
