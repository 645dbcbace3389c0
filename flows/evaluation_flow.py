"""The flow `model-evaluation`: candidates and baselines on the same held-out days, and which one to promote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import flow

from etacore.config import names_redis, registry_dir_from_env
from etacore.errors import EvaluationError
from etacore.models.registry import Registry, open_registry
from etacore.models.short_ids import resolve_key
from etacore.store.store import RedisStore
from flows.mlops_run import CONTEXT, MlopsRun, notification_option, registry_option, run_command, run_flow
from flows.parameters import Names, need_extra
from flows.runtime_config import from_environment, merge
from flows.shell import log

if TYPE_CHECKING:
    from etacore.mlops.evaluation import Evaluation

FLOW_NAME: Final = "model-evaluation"
RESULTS_DIR: Final = "results"


@flow(name=FLOW_NAME, persist_result=False)
def model_evaluation(
    metric: str = "test_mae_seconds",
    minimize: bool = True,
    current_active_model: str | None = None,
    improvement_threshold: float = 0.05,
    notification_blocks: Names = None,
    dataset_name: str | None = None,
    output_dir: str | None = None,
    model_registry_dir: str | None = None,
) -> Any:
    """Score every model of a dataset on the same held-out days, beside baselines, and say which one to promote.

    Parameters
    ----------
    metric
        What decides.
    minimize
        Whether less of it is better.
    current_active_model
        Model in production. Default: what Redis announces (if REDIS_HOST, REDIS_PORT or REDIS_URL is set), else the
        last one that was promoted.
    improvement_threshold
        Share by which a candidate must beat it: 0.05 is 5 %.
    notification_blocks
        Who is told of a failure: type-slug/name, or the name alone.
    dataset_name
        A name below ETACORE_DATASET_DIR, or a path. Default: the dataset of the newest model.
    output_dir
        Folder of the report, its plots and its JSON. Default evaluation-<dataset>-<time> below ETACORE_RESULTS_DIR
        (default results).
    model_registry_dir
        Default MODEL_REGISTRY_DIR, else models/trained.
    """
    given = dict(locals())
    return run_flow(FLOW_NAME, notification_blocks, lambda run: _work(run, given))


def _work(run: MlopsRun, given: dict[str, Any]) -> tuple[str, Any]:
    need_extra("train", "polars", "pyarrow", "scipy", "matplotlib")
    from etacore.mlops.dataset.layout import read_dataset
    from etacore.mlops.evaluation import EvaluationConfig, evaluate, write_evaluation
    from etacore.mlops.evaluation.plots import TITLES

    registry = open_registry(given["model_registry_dir"] or registry_dir_from_env())
    named = given["current_active_model"]
    name = given["dataset_name"] or _newest_dataset(registry)
    config = EvaluationConfig(
        metric=given["metric"],
        minimize=given["minimize"],
        improvement_threshold=given["improvement_threshold"],
        active_model=resolve_key(registry, named) if named else _active(registry),
    )
    dataset = run.step("read_dataset", lambda: read_dataset(name))
    evaluation = run.step("evaluate_models", lambda: evaluate(dataset, registry, config, run.progress))
    folder = Path(given["output_dir"] or _default_folder(evaluation))
    written = run.step("write_report", lambda: write_evaluation(evaluation, folder))
    run.page("report", evaluation.to_markdown(), f"Evaluation on {evaluation.dataset}")
    run.table("leaderboard", _leaderboard(evaluation), f"By {evaluation.metric.name} on the same held-out days")
    pictures = {path: TITLES.get(path.name, path.name) for path in written if path.suffix == ".png"}
    run.pictures("plots", pictures, "Plots of the evaluation")
    log.info("report in %s", folder)
    return evaluation.recommendation.text, {"output_dir": str(folder), **evaluation.to_dict()}


def _newest_dataset(registry: Registry) -> str:
    entries = registry.entries()
    if not entries:
        raise EvaluationError(f"there is no model in {registry.path}", hint="train some, or name another registry")
    return max(entries, key=lambda entry: (entry.saved_at, entry.key)).dataset


def _active(registry: Registry) -> str | None:
    from etacore.mlops.promotion.promote import active_model

    if not names_redis(from_environment(os.environ)):
        return active_model(registry, None)
    with RedisStore(merge({}, {}, os.environ).config) as store:
        return active_model(registry, store)


def _default_folder(evaluation: Evaluation) -> Path:
    folder = Path(os.environ.get("ETACORE_RESULTS_DIR") or RESULTS_DIR)
    return folder / f"evaluation-{evaluation.dataset}-{evaluation.created_at:%Y%m%d_%H%M%S}"


def _leaderboard(evaluation: Evaluation) -> list[dict[str, Any]]:
    from etacore.mlops.evaluation.tables import leaderboard

    table = leaderboard(evaluation)
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows] if table is not None else []


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings=CONTEXT)
@click.option("--metric", help="What decides. Default test_mae_seconds.")
@click.option("--minimize/--maximize", default=None, help="Whether less of it is better (default).")
@click.option("--current-active-model", help="Default: what Redis announces if one is named, else the last promoted.")
@click.option("--improvement-threshold", type=float, help="Share by which a candidate must beat it. Default 0.05.")
@click.option("--dataset-name", help="Default: the dataset of the newest model.")
@click.option("--output-dir", type=click.Path(file_okay=False), help="Folder of the report.")
@registry_option
@notification_option
def main(**options: Any) -> None:
    """Run the flow model-evaluation here and now."""
    run_command(model_evaluation, options)


if __name__ == "__main__":
    main()
