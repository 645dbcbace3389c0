"""How wrong models are on real positions: ``python -m benchmarks.accuracy_ttc``.

Toronto, December 2016, eight routes; trained on 11 to 15 December, tested on 16 to 18 December; every third fix, the
next five stops, without the first stop of a trip; the truth is the arrival interpolated between two fixes. Every model
is trained, compiled, saved, loaded and asked as in production. A second table shows what becomes of these predictions
where the loop lets ETAs never fall along the stops; ``--ascending`` prints it alone, for the models and the dataset of
an earlier run. Writes ``results/accuracy_ttc.md``, and the whole evaluation with its plots to
``results/accuracy_ttc/``; the models stay in ``results/accuracy_ttc/models``.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import ascending
from benchmarks.fleet import ROOT
from etacore.mlops.dataset.config import BuildConfig
from etacore.mlops.dataset.job import build_from_files
from etacore.mlops.dataset.layout import Dataset, dataset_path, read_dataset
from etacore.mlops.evaluation import EvaluationConfig, evaluate, write_evaluation
from etacore.mlops.evaluation.candidates import choose_candidates, predict_all
from etacore.mlops.evaluation.holding_out import hold_out
from etacore.mlops.evaluation.results import Result
from etacore.mlops.progress import Progress, console_progress
from etacore.mlops.training import TrainingConfig, train
from etacore.models.registry import Registry
from etacore.schema import BASE_FEATURES

DATA: Final = Path(os.environ.get("ETACORE_REAL_DATA", ROOT.parent / "shared" / "data")) / "ttc_2016"
RESULTS: Final = ROOT / "results"
FOLDER: Final = RESULTS / "accuracy_ttc"
ROUTES: Final = ("26", "9", "104", "113", "61", "50", "92", "8")
TRAIN_DAYS: Final = tuple(date(2016, 12, day) for day in range(11, 16))
TEST_DAYS: Final = tuple(date(2016, 12, day) for day in range(16, 19))
LABEL: Final = "interpolated"
BUILD: Final = BuildConfig(
    name="ttc_2016",
    routes=ROUTES,
    start=TRAIN_DAYS[0],
    end=TEST_DAYS[-1],
    max_stops_ahead=5,
    sample_every=3,
    skip_first_stop=True,
    under_way_only=True,
)
COLUMNS: Final = ("predictor", "MAE s", "median s", "bias s", "≤60 s %", "≤120 s %", "ETA bands %", "MBTA bands %")


@dataclass(frozen=True, slots=True)
class Trained:
    """A line of the table, and how it is trained."""

    title: str
    settings: dict[str, Any]


MODELS: Final = (
    Trained("historical mean", {"model_types": ("historical_mean",)}),
    Trained("EWMA", {"model_types": ("ewma",)}),
    Trained("polynomial of the distance", {"model_types": ("polyreg_distance",)}),
    Trained("polynomial with the time", {"model_types": ("polyreg_time",)}),
    Trained("XGBoost, 7 base features", {"model_types": ("xgboost",)}),
    Trained("XGBoost, those, stops ahead", {"model_types": ("xgboost",), "features": (*BASE_FEATURES, "stops_ahead")}),
    Trained(
        "XGBoost, `best` features, absolute error",
        {"model_types": ("xgboost",), "features": "best", "objective": "reg:absoluteerror"},
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, train, evaluate, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy_ttc", description=__doc__)
    parser.add_argument(
        "--ascending", action="store_true", help="only the table of ETAs before and after they are put in order"
    )
    given = parser.parse_args(arguments)
    return _print_ascending() if given.ascending else _measure()


def _measure() -> int:
    if not DATA.is_dir():
        print(f"no recorded positions in {DATA}: set ETACORE_REAL_DATA to where ttc_2016/ is", file=sys.stderr)
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    with console_progress() as progress:
        dataset = _dataset(progress)
        registry = Registry(FOLDER / "models")
        titles = dict(_trained(dataset, registry, progress))
        evaluation = evaluate(dataset, registry, _evaluation_of(titles), progress)
        write_evaluation(evaluation, FOLDER)
        table = _ascending(dataset, registry, titles, progress)
    text = f"{_markdown(evaluation.results, titles, dataset, evaluation.n_rows)}\n{table}"
    (RESULTS / "accuracy_ttc.md").write_text(text, encoding="utf-8")
    _show(text)
    return 0


def _print_ascending() -> int:
    path = dataset_path(BUILD.name, RESULTS)
    registry = Registry(FOLDER / "models")
    entries = sorted(registry.entries(), key=lambda entry: entry.saved_at)
    if not path.is_file() or len(entries) != len(MODELS):
        print(
            f"{path} and {len(MODELS)} models in {registry.path} are needed, and there are {len(entries)} models: run "
            "this once without --ascending",
            file=sys.stderr,
        )
        return 1
    titles = {entry.key: line.title for entry, line in zip(entries, MODELS, strict=True)}
    with console_progress() as progress:
        table = _ascending(read_dataset(path), registry, titles, progress)
    _show(table)
    return 0


def _evaluation_of(titles: dict[str, str]) -> EvaluationConfig:
    return EvaluationConfig(test_days=TEST_DAYS, label=LABEL, model_keys=tuple(titles))


def _ascending(dataset: Dataset, registry: Registry, titles: dict[str, str], progress: Progress) -> str:
    config = _evaluation_of(titles)
    candidates = choose_candidates(dataset, registry, config)
    held_out = hold_out(dataset, config, candidates.manifests)
    documents = ascending.document_rows(dataset, held_out)
    entrants, _ = predict_all(dataset, registry, held_out, candidates, LABEL, progress)
    return ascending.markdown(ascending.order_all(entrants, titles, documents), documents)


def _show(text: str) -> None:
    print(text) if not sys.stdout.isatty() else Console().print(Markdown(text))


def _dataset(progress: Progress) -> Dataset:
    with _measured("dataset"):
        build_from_files(
            [DATA / "positions.parquet"], DATA / "gtfs_derived.zip", BUILD, folder=RESULTS, progress=progress
        )
    return read_dataset(dataset_path(BUILD.name, RESULTS))


def _trained(dataset: Dataset, registry: Registry, progress: Progress) -> Iterator[tuple[str, str]]:
    """Train every line of the table; gives the keys with their titles."""
    for line in MODELS:
        config = TrainingConfig(label=LABEL, n_validation_days=0, test_days=TEST_DAYS, **line.settings)
        with _measured(line.title):
            report = train(dataset, registry, config, progress)
        for failure in report.failures:
            raise RuntimeError(f"{line.title}: {failure.reason}")
        (model,) = report.models
        assert model.key is not None
        yield model.key, line.title


@contextmanager
def _measured(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - start:.1f} s, {peak_gb:.2f} GB at most so far", file=sys.stderr)


def _markdown(results: Sequence[Result], titles: dict[str, str], dataset: Dataset, n_rows: int) -> str:
    lines = [
        f"{n_rows:,} predictions on {TEST_DAYS[0]} to {TEST_DAYS[-1]} of {len(dataset.frame):,} rows in all.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
    ]
    for result in sorted(results, key=lambda result: -result.metrics["mae_seconds"]):
        figures = result.metrics
        row = (
            titles.get(result.name, result.title),
            f"{figures['mae_seconds']:.1f}",
            f"{figures['median_ae']:.1f}",
            f"{figures['bias_seconds']:+.1f}",
            f"{100 * figures['within_60s']:.1f}",
            f"{100 * figures['within_120s']:.1f}",
            f"{100 * result.eta.bands_score:.1f}",
            f"{100 * result.mbta.overall:.1f}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
