"""The flow `model-training`: models from a dataset, into the registry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from etacore.config import registry_dir_from_env
from etacore.errors import ConfigError
from etacore.models.registry import Registry
from flows.mlops_run import (
    CONTEXT,
    FlowFailedError,
    MlopsRun,
    notification_option,
    registry_option,
    run_command,
    run_flow,
)
from flows.parameters import Names, names, need_extra
from flows.shell import log

if TYPE_CHECKING:
    from etacore.mlops.training import RouteOutcome, RouteTask, TrainingReport

FLOW_NAME: Final = "model-training"
DASK: Final = "dask"


@flow(name=FLOW_NAME, persist_result=False)
def model_training(
    dataset_name: str = "various_dataset_5",
    by_route: bool = False,
    model_types: Names = None,
    save_models: bool = True,
    notification_blocks: Names = None,
    features: Names = None,
    task_runner: str | None = None,
    model_registry_dir: str | None = None,
) -> Any:
    """Train models on the first days of a dataset, measure them on the last, compile and save them.

    Parameters
    ----------
    dataset_name
        A name below ETACORE_DATASET_DIR (default datasets), or a path that ends in .parquet.
    by_route
        One model for each route instead of one for all.
    model_types
        Families: historical_mean, ewma, polyreg_distance, polyreg_time, xgboost. Default all.
    save_models
        False trains and reports only.
    notification_blocks
        Who is told of success and failure: type-slug/name, or the name alone.
    features
        Of the XGBoost models: base (default), best, or a list of names.
    task_runner
        With by_route: "dask" trains the routes on a Dask cluster of this machine, an address such as
        tcp://10.0.0.7:8786 on that one; its workers must see the dataset's file. Default: one after the other.
    model_registry_dir
        Default MODEL_REGISTRY_DIR, else models/trained.
    """
    given = dict(locals())
    return run_flow(FLOW_NAME, notification_blocks, lambda run: _work(run, given), tell_success=True)


def _work(run: MlopsRun, given: dict[str, Any]) -> tuple[str, Any]:
    need_extra("train", "polars", "pyarrow", "xgboost", "treelite", "tl2cgen")
    from etacore.mlops.dataset.layout import read_dataset
    from etacore.mlops.training import FAMILIES, TrainingConfig, train

    features = names(given["features"]) or ("base",)
    config = TrainingConfig(
        model_types=names(given["model_types"]) or tuple(FAMILIES),
        features=features[0] if len(features) == 1 else features,
        by_route=given["by_route"],
        save_models=given["save_models"],
    )
    map_routes = _map_routes(run, given["task_runner"], by_route=config.by_route)
    registry = Registry(given["model_registry_dir"] or registry_dir_from_env()) if config.save_models else None
    dataset = run.step("read_dataset", lambda: read_dataset(given["dataset_name"]))
    log.info("dataset %s: %d rows", dataset.name, dataset.frame.height)
    if map_routes is None:
        report = run.step("train_models", lambda: train(dataset, registry, config, run.progress))
    else:  # each route is a task run; one around them would go to the workers with all that it holds
        report = train(dataset, registry, config, run.progress, map_routes=map_routes)
    run.page("report", report.to_markdown(), f"Training on {report.dataset}")
    run.table("models", _rows(report), "Models, with their error on the test days")
    summary = _summary(report)
    if report.failures:
        first = report.failures[0]
        raise FlowFailedError(
            f"{len(report.failures)} of {len(report.failures) + len(report.models)} models failed, "
            f"the first {first.model_type} ({first.route_id or 'global'}): {first.reason}. {summary}"
        )
    return summary, report.to_dict()


def _rows(report: TrainingReport) -> list[dict[str, Any]]:
    return [
        {
            "model_key": model.key or "(not saved)",
            "model_type": model.model_type,
            "scope": model.scope,
            "test_mae_seconds": model.metrics.get("test_mae_seconds"),
            "test_rmse_seconds": model.metrics.get("test_rmse_seconds"),
            "test_within_60s": model.metrics.get("test_within_60s"),
            "train_samples": model.n_train,
            "test_samples": model.n_test,
        }
        for model in report.models
    ]


def _summary(report: TrainingReport) -> str:
    saved = [model for model in report.models if model.key is not None]
    parts = [f"{len(report.models)} models trained on {report.dataset}, {len(saved)} saved"]
    if report.skipped:
        parts.append(f"{len(report.skipped)} routes skipped")
    scored = [model for model in report.models if "test_mae_seconds" in model.metrics and model.route_id is None]
    if scored:
        best = min(scored, key=lambda model: model.metrics["test_mae_seconds"])
        parts.append(f"best {best.key or best.model_type} with {best.metrics['test_mae_seconds']:.1f} s")
    return ", ".join(parts)


# -- routes on a cluster -----------------------------------------------------------------------------------------------


def _map_routes(run: MlopsRun, runner: str | None, *, by_route: bool) -> Callable[..., Any] | None:
    if runner is None:
        return None
    if runner != DASK and "://" not in runner:
        raise ConfigError(f"task_runner is {runner!r}", hint=f'"{DASK}", or the address of a Dask scheduler')
    if not by_route:
        raise ConfigError("task_runner is given, and one model for all routes is asked for", hint="set by_route")
    need_extra("dask", "prefect_dask")
    if not run.has_prefect:
        log.warning("task_runner needs Prefect: training one route after the other")
        return None

    def map_routes(function: Callable[[RouteTask], RouteOutcome], tasks: Sequence[RouteTask]) -> Iterable[RouteOutcome]:
        from prefect_dask.task_runners import DaskTaskRunner

        shown: Any = cast(Any, task)(function, name="train_route", cache_policy=NO_CACHE, persist_result=False)
        run.progress("training routes", 0, len(tasks))
        if runner == DASK:
            n_workers = max(1, min(len(tasks), os.cpu_count() or 1))
            cluster: Any = DaskTaskRunner(
                cluster_kwargs={"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": None}
            )
        else:
            cluster = DaskTaskRunner(address=runner)
        with cluster:
            futures = [cluster.submit(shown, parameters={"task": one}) for one in tasks]
            for n_done, future in enumerate(futures):
                run.progress("training routes", n_done, len(tasks))
                yield future.result()
        run.progress("training routes", len(tasks), len(tasks))

    return map_routes


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings=CONTEXT)
@click.option("--dataset-name", help="Name below ETACORE_DATASET_DIR, or a .parquet path. Default various_dataset_5.")
@click.option("--by-route/--global", default=None, help="One model for each route, or one for all (default).")
@click.option("--model-type", "model_types", multiple=True, help="Family to train. Repeatable; default all.")
@click.option("--save-models/--no-save-models", default=None, help="Put them into the registry. Default: yes.")
@click.option("--features", help="Of XGBoost: base (default), best, or names with commas between them.")
@click.option("--task-runner", help="With --by-route: dask, or the address of a Dask scheduler.")
@registry_option
@notification_option
def main(**options: Any) -> None:
    """Run the flow model-training here and now."""
    run_command(model_training, options)


if __name__ == "__main__":
    main()
