"""The commands of the gate."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.fleet import ROOT
from benchmarks.gate import budgets as budget_files
from benchmarks.gate import callgrind, compare, prove, show, timing, trees
from benchmarks.gate.budgets import BUDGETS, Row
from benchmarks.gate.errors import GateError
from benchmarks.gate.running import Bundle, prepare
from etacore.cli.options import redis_options
from etacore.config import RuntimeConfig
from etacore.errors import EtacoreError
from etacore.models.registry import Registry

F = TypeVar("F", bound=Callable[..., object])
FILE = click.Path(dir_okay=False, path_type=Path)


def work_options(command: F) -> F:
    """Add the flags that say what is measured."""
    for option in (
        click.option("--only", default="", help="Only workloads with this in their name."),
        click.option("--sample", type=FILE, help="Sample of a fleet instead of the seeded one."),
        click.option("--model-key", help="Model of that registry; default: its only one."),
        click.option(
            "--model-registry-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Registry with a compiled model; default: that of the benchmarks.",
        ),
    ):
        command = option(command)
    return command


def report_options(command: F) -> F:
    """Add the flags that say where to write."""
    command = click.option("--markdown", "table", type=FILE, help="Write the table here.")(command)
    return click.option("--json", "json_file", type=FILE, help="Write all figures here.")(command)


@click.group(help=__doc__)
def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@main.command()
@work_options
@report_options
@click.option("--budgets", type=FILE, default=BUDGETS, show_default=False, help="Default: benchmarks/budgets.toml.")
def count(
    only: str,
    sample: Path | None,
    model_key: str | None,
    model_registry_dir: Path | None,
    budgets: Path,
    json_file: Path | None,
    table: Path | None,
) -> None:
    """Count instructions and hold them against the budgets; exit 1 if one is over."""
    with shown_errors():
        allowed = budget_files.read_budgets(budgets)
        counted = _count(_bundle(model_registry_dir, model_key), sample, only)
        here = budget_files.toolchain(counted.forest_path)
        rows = [row for row in budget_files.judge(counted.counts, allowed, here) if only in row.workload]
        other = budget_files.differs(allowed, here)
        before = f"{budgets.name}, {allowed.headroom:.0%} allowed on top"
        verdict = show.in_one_line(rows)
        if all(row.verdict in ("not compared", "new") for row in rows):
            verdict = "Nothing was compared."
        show.print_tables(rows, before=before)
        show.write_reports(rows, (), before=before, verdict=verdict, json=json_file, table=table)
        if other:
            _say_what_differs(other)
        _say_what_to_record(rows)
        click.echo(verdict)
        sys.exit(any(row.verdict in show.FAILS for row in rows))


@main.command()
@work_options
@click.option("--budgets", type=FILE, default=BUDGETS, show_default=False, help="Default: benchmarks/budgets.toml.")
@click.option("--headroom", type=click.FloatRange(0.01, 0.5), default=budget_files.HEADROOM, show_default=True)
def record(
    only: str,
    sample: Path | None,
    model_key: str | None,
    model_registry_dir: Path | None,
    budgets: Path,
    headroom: float,
) -> None:
    """Write the counts of this tree as budgets, and show what changed."""
    with shown_errors():
        if only:
            raise GateError("budgets are recorded all at once", hint="leave out --only")
        counted = _count(_bundle(model_registry_dir, model_key), sample, "")
        here = budget_files.toolchain(counted.forest_path)
        made = budget_files.record(counted.counts, here, headroom)
        try:
            old = budget_files.read_budgets(budgets)
        except GateError:
            old = budget_files.Budgets({}, headroom, {})
        names = dict.fromkeys([*made.recorded, *old.recorded])
        rows = []
        for name in names:
            unit = (made.recorded.get(name) or old.recorded[name])[0]
            before, now = (found[1] if (found := side.recorded.get(name)) else None for side in (old, made))
            rows.append(Row(*name, unit, before, now, budget_files.verdict_of(before, now, 1 + headroom)))
        budget_files.write_budgets(made, budgets)
        show.print_tables(rows, before="what was recorded before")
        click.echo(f"recorded {len(made.recorded)} counts in {budgets}")


@main.command("compare")
@click.argument("base", required=False)
@work_options
@report_options
@click.option("--pairs", type=click.IntRange(0), default=timing.N_PAIRS, show_default=True, help="0: count only.")
def compare_command(
    base: str | None,
    only: str,
    sample: Path | None,
    model_key: str | None,
    model_registry_dir: Path | None,
    pairs: int,
    json_file: Path | None,
    table: Path | None,
) -> None:
    """Compare this tree with that of a commit; exit 1 if something takes more.

    BASE defaults to where this branch left origin/main, else to the last commit.
    """
    with shown_errors():
        if 0 < pairs < timing.MIN_PAIRS:
            raise GateError(f"{pairs} pairs say nothing", hint=f"--pairs {timing.MIN_PAIRS} or more, or 0")
        commit = trees.resolve(base or trees.default_base())
        _warn_of_stale_kernels()
        about = trees.describe(commit)
        bundle = _bundle(model_registry_dir, model_key) if model_registry_dir else None
        _tell(f"building {about}")
        with trees.checkout(commit) as tree:
            found = compare.compare_trees(
                tree, ROOT, bundle=bundle, sample=sample, only=only, n_pairs=pairs, tell=_tell
            )
        verdict = show.in_one_line(found.rows, found.timed, fails=("over",))
        show.print_tables(found.rows, found.timed, before=about)
        show.write_reports(found.rows, found.timed, before=about, verdict=verdict, json=json_file, table=table)
        for name, reason in found.unknown.items():
            click.echo(f"{name!r} cannot be run with the base: {reason}", err=True)
        click.echo(verdict)
        sys.exit(bool(found.over))


@main.command("prove")
@click.option("--times", type=click.IntRange(1), default=10, show_default=True, help="Runs of an unchanged tree.")
def prove_command(times: int) -> None:
    """Show that an unchanged tree passes, and that slowed-down kernels, and only they, do not."""
    with shown_errors(), tempfile.TemporaryDirectory(prefix="etacore-gate-") as folder:
        sys.exit(not prove.prove(Path(folder), times, click.echo))


@main.command("sample")
@redis_options
@click.option("--model-registry-dir", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--model-key", help="Default: the registry's only one.")
@click.option("--vehicles", type=click.IntRange(1, 20_000), default=2_000, show_default=True)
@click.option("--wait", type=click.FloatRange(0), default=20.0, show_default=True, help="Seconds between two looks.")
@click.option("--output", type=FILE, required=True)
def sample_command(
    model_registry_dir: Path, model_key: str | None, vehicles: int, wait: float, output: Path, **redis_settings: Any
) -> None:
    """Keep vehicles and routes of a running system in a file, to be measured on; only reads."""
    from benchmarks.gate.sample import take_sample, write_sample

    with shown_errors():
        bundle = _bundle(model_registry_dir, model_key)
        config = RuntimeConfig.from_mapping(redis_settings)
        sample = take_sample(config, Registry(bundle.registry).load(bundle.key), n=vehicles, wait_s=wait)
        write_sample(sample, output)
        click.echo(f"{len(sample.moments[-1].keys)} vehicles and {len(sample.routes)} routes in {output}")


@contextmanager
def shown_errors() -> Iterator[None]:
    """End with a message and exit code 2 where something could not be measured."""
    try:
        yield
    except EtacoreError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _bundle(registry: Path | None, key: str | None) -> Bundle:
    if registry is None:
        return prepare(ROOT)
    keys = Registry(registry).keys()
    if key is None and len(keys) != 1:
        raise GateError(f"{registry} holds {len(keys)} models", hint="say which: --model-key")
    return Bundle(registry.resolve(), key or keys[0])


def _count(bundle: Bundle, sample: Path | None, only: str) -> callgrind.Counted:
    _warn_of_stale_kernels()
    counted = callgrind.count(bundle, tree=ROOT, sample=sample, only=only)
    compare.check_all_ran(counted)
    return counted


def _warn_of_stale_kernels() -> None:
    if stale := trees.stale_kernels():
        click.echo(f"warning: older than their sources, or missing: {', '.join(stale)}; `make build`", err=True)


def _say_what_differs(other: dict[str, tuple[str, str]]) -> None:
    parts = ", ".join(f"{name} {here} (recorded with {recorded})" for name, (recorded, here) in other.items())
    click.echo(f"not all is compared, the budgets were recorded with others: {parts}; see `make bench-gate`")


def _say_what_to_record(rows: list[Row]) -> None:
    changed = [row.verdict for row in rows if row.verdict in ("gone", "new", "less")]
    if changed:
        parts = ", ".join(f"{changed.count(verdict)} {verdict}" for verdict in dict.fromkeys(changed))
        click.echo(f"{parts}: `python -m benchmarks.gate record` brings the budgets up to date")


def _tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
