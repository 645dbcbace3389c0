"""The registry: what is in it, what is wrong with it, and what may go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from etacore.cli.options import Number, need_modules, redis_options, registry_option

if TYPE_CHECKING:
    from etacore.models.registry import Registry

age_option = click.option(
    "--max-age-days", type=Number(0), default=90.0, show_default=True, help="Older models are stale."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")
offline_option = click.option(
    "--offline",
    is_flag=True,
    help="Do not ask Redis even if one is named; the promotion history alone says what is active.",
)


@click.group()
def registry() -> None:
    """Look after the models: check, list, show, archive, restore."""
    need_modules("rich", "filelock")


@registry.command()
@age_option
@click.option("--stale/--no-stale", default=True, help="Look at the age. Default: yes.")
@json_option
@offline_option
@redis_options
@registry_option
def check(max_age_days: float, stale: bool, as_json: bool, offline: bool, **options: Any) -> None:
    """Look for what is missing, damaged, unregistered, unloadable or stale; exit 1 if something is broken."""
    from etacore.mlops.promotion.health import check_registry

    models, active = _registry(options, offline=offline, must_know=False)
    report = check_registry(models, max_age_days=max_age_days, check_stale=stale, active=active)
    if as_json:
        _print_json(report.to_dict())
    else:
        from etacore.mlops.promotion.tables import findings_table, open_console

        console = open_console()
        console.print(report.line())
        if report.findings:
            console.print(findings_table(report))
    sys.exit(0 if report.is_healthy else 1)


@registry.command("list")
@click.option("--full", is_flag=True, help="Whole keys.")
@json_option
@offline_option
@redis_options
@registry_option
def list_command(full: bool, as_json: bool, offline: bool, **options: Any) -> None:
    """Show all models, the archived and those of an older system too."""
    from etacore.mlops.promotion.tables import model_rows, model_table, open_console

    models, active = _registry(options, offline=offline, must_know=False)
    rows = model_rows(models, active)
    if as_json:
        _print_json(rows)
    else:
        open_console().print(model_table(rows, full_keys=full) if rows else f"{models.path} holds no model")


@registry.command()
@click.argument("key")
@json_option
@registry_option
def show(key: str, as_json: bool, **options: Any) -> None:
    """Show what is known about the model KEY (a key, its first characters, or a short id)."""
    from etacore.mlops.promotion.tables import find_manifest, manifest_table, open_console
    from etacore.models.short_ids import known_keys, short_ids

    models, _ = _registry(options, offline=True, must_know=False)
    manifest, is_archived = find_manifest(models, key)
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        short_id = short_ids(known_keys(models))[manifest.model_key]
        state = "archived" if is_archived else "in the index"
        open_console().print(manifest_table(manifest, state, short_id))


@registry.command()
@click.argument("keys", nargs=-1)
@click.option("--stale", is_flag=True, help="Also all models older than --max-age-days.")
@age_option
@click.option("--in-use", multiple=True, metavar="KEY", help="A model that something else serves; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@offline_option
@redis_options
@registry_option
def archive(
    keys: tuple[str, ...],
    stale: bool,
    max_age_days: float,
    in_use: tuple[str, ...],
    dry_run: bool,
    offline: bool,
    **options: Any,
) -> None:
    """Move models out of service. Never an active one, nor the last good one of a route."""
    if not keys and not stale:
        raise click.UsageError("name models, or give --stale")
    from etacore.mlops.promotion.health import archive as archive_models
    from etacore.mlops.promotion.tables import archive_table, open_console
    from etacore.models.short_ids import resolve_key

    models, active = _registry(options, offline=offline, must_know=True)
    going = [resolve_key(models, key) for key in keys]
    spared = (*active, *(resolve_key(models, key) for key in in_use))
    done = archive_models(models, going, stale=stale, max_age_days=max_age_days, in_use=spared, dry_run=dry_run)
    open_console().print(archive_table(done) if done.keys or done.kept else "nothing to archive")


@registry.command()
@click.argument("keys", nargs=-1, required=True)
@registry_option
def restore(keys: tuple[str, ...], **options: Any) -> None:
    """Take models back out of the archive."""
    from etacore.models.short_ids import resolve_key

    models, _ = _registry(options, offline=True, must_know=False)
    found = [resolve_key(models, key, among=models.archived()) for key in keys]
    models.restore(found)
    for key in found:
        click.echo(key)


def _registry(options: dict[str, Any], *, offline: bool, must_know: bool) -> tuple[Registry, list[str]]:
    """The registry, and the key that is announced (if a Redis is named) or was promoted last, if any."""
    from etacore.config import RuntimeConfig, names_redis
    from etacore.errors import EtacoreError, RegistryError
    from etacore.mlops.promotion.history import last_promoted
    from etacore.models.registry import open_registry
    from etacore.store.announcement import announced_key
    from etacore.store.store import RedisStore

    config = RuntimeConfig.from_mapping(options)
    models = open_registry(config.model_registry_dir)
    key = None
    if names_redis(options) and not offline:
        try:
            with RedisStore(config) as store:
                key = announced_key(store.active_model())
        except EtacoreError as err:
            if must_know:
                hint = "what is active is not known without it; --offline goes by the promotion history"
                raise type(err)(err.message, hint=hint) from None
            click.echo(f"etacore: {err.message}; what it announces is not known", err=True)
    try:
        key = key or last_promoted(models)
    except RegistryError:
        if must_know:
            raise  # the other commands show, or report, what they can
    return models, [] if key is None else [key]


def _print_json(value: object) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
