"""What became of every fix, stop and row on the way to a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from etacore.mlops.transit.left_out import MEANING as READER_MEANING
from etacore.status import Status

SECTIONS: Final = {
    "recording": "Recording",
    "fixes": "Fixes",
    "oddities": "Oddities, counted and not removed",
    "labels": "Stops of the runs (a run is one vehicle on one trip from one start)",
    "rows": "Rows",
}
MEANING: Final = {
    # recording
    "sampling_s": "median seconds between two fixes of a vehicle",
    "match_rate": "share of the fixes with a trip id whose trip the feed knows",
    # fixes
    "read": "fixes read",
    "not_needed": "of vehicles, times, routes or service dates that were not asked for",
    "accepted": "accepted by the engine",
    "without_trip": "accepted, without a trip id",
    "unknown_trip": "accepted, with a trip that the feed does not know",
    "other_route_or_date": "accepted, but of another route or service date",
    "not_sampled": "accepted, passed over by sample_every",
    "used": "accepted, with rows in the dataset",
    "without_rows": "accepted, all of their rows dropped",
    # oddities
    "sent_twice": "fixes of a vehicle with the time of the one before (the engine: unchanged)",
    "outliers": "single fixes off the way between their neighbours",
    "jumps": "other steps faster than 40 m/s: clock jumps, exchanged vehicle ids",
    "far_in_time": "fixes more than a week apart from all others: left out unless dates are asked for",
    "repeated_runs": "runs of a trip that the vehicle had run before on the service date",
    "returns_to_trip": "times that a vehicle came back to a run it had left for another trip",
    "trips_with_several_vehicles": "trips, not frequency-based, that more than one vehicle ran on one service date",
    "off_line_or_outside_run": "fixes off the line of their trip, or outside its run: no label from them",
    "runs_past_24h": "runs of trips with times above 24:00",
    "runs_with_repeated_stops": "runs of patterns that serve a stop twice",
    "rows_past_midnight": "rows whose local date is not their service date",
    "rows_without_weather": "rows whose weather nobody knew",
    # labels
    "runs": "runs observed",
    "stops_of_runs": "their stops: where a label may be",
    "passed_but_no_fix_near": "passed between two fixes, none of them near enough for the rule: label interpolated",
    "not_seen": "nobody seen there: no label",
    "interpolated_too": "with a label by rule and an interpolated time beside it",
    "stops_without_label": "stops of the served patterns at which nobody was ever seen",
    # rows
    "candidates": "stops ahead of the fixes used",
    "other_pattern": "engine followed another pattern than the trip's",
    "first_stop": "first stop of the trip",
    "not_under_way": "fixes before the vehicle arrived at its second stop",
    "run_not_observed": "fixes outside all runs of their trip",
    "stop_not_observed": "no label for the stop",
    "already_arrived": "label before the fix",
    "too_far_ahead": "more than 7200 s ahead",
    "too_near": "less than 10 m to the stop",
    "written": "rows written",
}
"""What the counters mean; engine reasons and label rules stand for themselves."""

UNREADABLE: Final = "unreadable: "
"""Before the counters of what the reader of the recording did not take."""
_STATUS: Final = {status.label for status in Status}


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Counts by section and reason.

    Attributes
    ----------
    name : str
        Of the dataset.
    recording, fixes, oddities, labels, rows : mapping
        Name of a counter to its value; see `MEANING`.
    examples : mapping of name to texts
        A few trip ids, stop ids and the like behind a counter.
    warnings : sequence of str
        What has to be said loudly.
    feed_notes : sequence of str
        What was odd in the timetable and how it was taken.
    days : sequence of mapping
        ``service_date, rows, trips, vehicles`` for each service date.
    seconds : mapping
        Wall time by stage; left out of `to_dict`, so that the same build gives the same file.
    """

    name: str
    recording: Mapping[str, Any]
    fixes: Mapping[str, int]
    oddities: Mapping[str, int]
    labels: Mapping[str, int]
    rows: Mapping[str, int]
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    feed_notes: Sequence[str] = ()
    days: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        sections = {section: dict(getattr(self, section)) for section in SECTIONS}
        examples = {name: list(texts) for name, texts in self.examples.items()}
        return {
            "name": self.name,
            "warnings": list(self.warnings),
            **sections,
            "examples": examples,
            "feed_notes": list(self.feed_notes),
            "days": [dict(day) for day in self.days],
        }

    def to_markdown(self) -> str:
        """The report as a Markdown document."""
        lines = [f"# Dataset {self.name}", ""]
        for warning in self.warnings:
            lines += ["```", warning, "```", ""]
        for section, title in SECTIONS.items():
            lines += [f"## {title}", "", "| counter | value | meaning |", "| --- | ---: | --- |"]
            lines += [f"| {name} | {text(value)} | {meaning(name)} |" for name, value in getattr(self, section).items()]
            lines.append("")
        if self.examples:
            lines += ["## Examples", ""]
            lines += [
                f"- {name}: {', '.join(f'`{example}`' for example in found)}" for name, found in self.examples.items()
            ]
            lines.append("")
        if self.feed_notes:
            lines += ["## Feed", "", "```", *self.feed_notes, "```", ""]
        if self.days:
            heads = list(self.days[0])
            lines += ["## Service dates", "", f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
            lines += [f"| {' | '.join(text(day[head]) for head in heads)} |" for day in self.days]
            lines.append("")
        if self.seconds:
            lines += ["## Time", ""]
            lines += [f"- {stage}: {value:.1f} s" for stage, value in self.seconds.items()]
            lines.append("")
        return "\n".join(lines)

    def __rich__(self) -> Group:
        """Tables for a terminal."""
        tables = []
        for section, title in SECTIONS.items():
            table = Table("", "", "", title=title, title_justify="left", box=box.SIMPLE, show_header=False)
            table.columns[1].justify = "right"
            for name, value in getattr(self, section).items():
                table.add_row(Text(name), text(value), meaning(name))
            tables.append(table)
        notes = [Text(f"  feed: {note}") for note in self.feed_notes]
        loud = [Text(warning, style="bold red") for warning in self.warnings]
        return Group(*tables, days_table(self.days), *notes, *loud)


def days_table(days: Sequence[Mapping[str, Any]]) -> Table:
    """Rows, trips and vehicles by service date, for a terminal."""
    table = Table(title="Service dates", title_justify="left", box=box.SIMPLE)
    for head in days[0] if days else ("service_date", "rows"):
        table.add_column(head, justify="left" if head == "service_date" else "right")
    for day in days:
        table.add_row(*(text(value) for value in day.values()))
    return table


def meaning(name: str) -> str:
    """What a counter counts."""
    if name in MEANING:
        return MEANING[name]
    if name.startswith(UNREADABLE):
        return READER_MEANING.get(name.removeprefix(UNREADABLE), "")
    return "set aside by the engine" if name in _STATUS else ""


def text(value: Any) -> str:
    """A value for a table: thousands apart, four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}".replace(",", " ")
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)
