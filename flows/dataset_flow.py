"""The flow `dataset-build`: a dataset from recorded positions and a GTFS feed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any, Final

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
import click
from prefect import flow

from flows.mlops_run import CONTEXT, MlopsRun, notification_option, run_command, run_flow
from flows.parameters import Names, day, existing, names, need_extra
from flows.runtime_config import merge

FLOW_NAME: Final = "dataset-build"


@flow(name=FLOW_NAME, persist_result=False)
def dataset_build(
    output_name: str | None = None,
    days_back: int = 7,
    route_ids: Names = None,
    start_date: str | None = None,
    end_date: str | None = None,
    distance_threshold: float = 50.0,
    max_stops_ahead: int = 5,
    attach_weather: bool = False,
    use_shapes: bool = True,
    seed_redis: bool = False,
    gtfs_path: str | None = None,
    telemetry_source: Names = None,
    notification_blocks: Names = None,
    holiday_region: str | None = None,
) -> Any:
    """Build a dataset: one row for each stop ahead of each recorded position whose arrival was seen.

    Parameters
    ----------
    output_name
        Name of the dataset below ETACORE_DATASET_DIR (default datasets), or a path that ends in .parquet. Default
        dataset_ and the time (UTC) of the run.
    days_back
        Service days, counted back from end_date, else from the newest one in the recording: a recording is of the
        past. Not used with start_date.
    route_ids
        Default all.
    start_date, end_date
        Service dates such as 2026-01-31, both included.
    distance_threshold
        A vehicle has arrived with its first position within so many metres of the stop.
    max_stops_ahead
        Rows for each position, at most.
    attach_weather
        Fill the weather columns: from the file ETA_WEATHER, else from the archive service.
    use_shapes
        Measure distances along the route rather than straight.
    seed_redis
        Also write stops, shapes and patterns of the feed into Redis (REDIS_HOST and its kin).
    gtfs_path
        Zip file or folder. Default ETA_GTFS_PATH.
    telemetry_source
        Recorded positions: Parquet or CSV files, GTFS-Realtime captures, or folders of them. Default
        ETA_TELEMETRY_SOURCE.
    notification_blocks
        Who is told of a failure: type-slug/name, or the name alone.
    holiday_region
        Code such as CR or CA-ON. Default ETA_HOLIDAY_REGION, else no day is a holiday.
    """
    given = dict(locals())
    return run_flow(FLOW_NAME, notification_blocks, lambda run: _work(run, given))


def _work(run: MlopsRun, given: dict[str, Any]) -> tuple[str, Any]:
    need_extra("train", "polars", "pyarrow", "google.transit")
    from etacore.mlops.dataset.config import BuildConfig
    from etacore.mlops.dataset.job import ARCHIVE, build_from_files, split_output

    positions = existing("telemetry_source", "ETA_TELEMETRY_SOURCE", given["telemetry_source"])
    (gtfs, *_) = existing("gtfs_path", "ETA_GTFS_PATH", given["gtfs_path"])
    output = given["output_name"] or f"dataset_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    name, folder = split_output(output)
    start = day("start_date", given["start_date"])
    config = BuildConfig(
        name=name,
        holiday_region=given["holiday_region"] or os.environ.get("ETA_HOLIDAY_REGION") or None,
        distance_threshold_m=given["distance_threshold"],
        max_stops_ahead=given["max_stops_ahead"],
        use_shapes=given["use_shapes"],
        routes=names(given["route_ids"]),
        start=start,
        end=day("end_date", given["end_date"]),
        days_back=None if start else given["days_back"],
    )
    weather = (os.environ.get("ETA_WEATHER") or ARCHIVE) if given["attach_weather"] else None
    seed = merge({}, {}, os.environ).config if given["seed_redis"] else None
    path, built = run.step(
        "build_dataset",
        lambda: build_from_files(
            positions, gtfs, config, folder=folder, weather=weather, seed=seed, progress=run.progress
        ),
    )
    report = built.report
    run.page("report", report.to_markdown(), f"Dataset {name}")
    run.table("days", report.days, "Rows, trips and vehicles of each service date")
    days = [str(one["service_date"]) for one in report.days]
    seeded = ", Redis seeded" if seed is not None else ""
    summary = f"{len(built.frame)} rows of {len(days)} service dates ({days[0]} to {days[-1]}) in {path}{seeded}"
    return summary, {"path": str(path), **report.to_dict()}


# -- command line ------------------------------------------------------------------------------------------------------


@click.command(context_settings=CONTEXT)
@click.option("--output-name", help="Name below ETACORE_DATASET_DIR, or a .parquet path. Default dataset_<time>.")
@click.option("--days-back", type=int, help="Service days up to the end date, or the newest recorded one. Default 7.")
@click.option("--route-id", "route_ids", multiple=True, help="Repeatable; default all.")
@click.option("--start-date", help="First service date, such as 2026-01-31.")
@click.option("--end-date", help="Last service date, included.")
@click.option("--distance-threshold", type=float, help="Metres to a stop that are an arrival. Default 50.")
@click.option("--max-stops-ahead", type=int, help="Rows for each position, at most. Default 5.")
@click.option("--attach-weather/--no-weather", default=None, help="Fill the weather columns. Default: no.")
@click.option("--use-shapes/--no-use-shapes", default=None, help="Distances along the route. Default: yes.")
@click.option("--seed-redis/--no-seed-redis", default=None, help="Write the feed's stops into Redis, too.")
@click.option("--gtfs-path", type=click.Path(), help="Zip file or folder. Default ETA_GTFS_PATH.")
@click.option(
    "--telemetry-source",
    multiple=True,
    type=click.Path(),
    help="Recorded positions: file or folder. Repeatable; default ETA_TELEMETRY_SOURCE.",
)
@click.option("--holiday-region", help="Code such as CR. Default ETA_HOLIDAY_REGION, else no holidays.")
@notification_option
def main(**options: Any) -> None:
    """Run the flow dataset-build here and now."""
    run_command(dataset_build, options)


if __name__ == "__main__":
    main()
