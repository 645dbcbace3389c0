"""Promote a model."""

from __future__ import annotations

from typing import Any

import click

from etacore.cli.options import Number, need_modules, redis_options, registry_option


@click.command()
@click.argument("model_key", required=False)
@click.option(
    "--improvement-threshold",
    type=Number(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share by which it must beat the active model.",
)
@click.option("--force", "force_reason", metavar="REASON", help="Promote without a comparison; the reason is recorded.")
@click.option("--rollback", is_flag=True, help="Go back to the model that was active before.")
@click.option("--warm/--no-warm", default=True, help="Predict a batch before the switch. Default: yes.")
@redis_options
@registry_option
def promote(
    model_key: str | None,
    improvement_threshold: float,
    force_reason: str | None,
    rollback: bool,
    warm: bool,
    **options: Any,
) -> None:
    """Make MODEL_KEY the model that running loops serve, if an evaluation says that it is better.

    A short id or the first characters of a key do; `best` is what the newest evaluation recommends.
    """
    need_modules("rich")
    if rollback == (model_key is not None):
        raise click.UsageError("give a MODEL_KEY, or --rollback without one")
    from etacore.config import RuntimeConfig
    from etacore.mlops.promotion import promote as promoting
    from etacore.mlops.promotion.tables import open_console, promotion_table
    from etacore.models.registry import open_registry
    from etacore.store.store import RedisStore

    config = RuntimeConfig.from_mapping(options)
    registry = open_registry(config.model_registry_dir)
    rules = promoting.PromotionConfig(improvement_threshold=improvement_threshold, force_reason=force_reason, warm=warm)
    with RedisStore(config) as store:
        if model_key is None:
            done = promoting.rollback(registry, store, rules)
        else:
            done = promoting.promote(registry, promoting.candidate_key(registry, model_key), store, rules)
    open_console().print(promotion_table(done))
