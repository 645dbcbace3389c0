"""Say what the loop makes of one vehicle, and why."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from etacore.cli.options import guessed_patterns_option, redis_options, registry_option
from etacore.config import RuntimeConfig

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from etacore.loop.explanation import Explanation

PLAIN_WIDTH: Final = 200
"""Of lines into a pipe, so that no key is broken."""
MAX_EARLIER: Final = 20
MAX_CELL: Final = 256
_COLOURS: Final = {"predicted": "green", "unchanged": "cyan", "rejected": "yellow", "failed": "red"}


@click.command()
@click.argument("vehicle", required=False)
@click.option(
    "--file", "source", type=click.File("rb"), help="Explain snapshots of a file: one JSON object, or one a line."
)
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object a vehicle, each on its line.")
@click.option(
    "--model-key",
    help="Predict with this model (key or short id); default: the promoted one, else the registry's best.",
)
@click.option(
    "--max-stops", "max_stops_per_vehicle", type=int, help="Stops per vehicle, as the loop has it. Default 5."
)
@click.option("--max-age", "max_age_seconds", type=float, help="As the loop has it; seconds, 0 = none. Default 900.")
@click.option("--max-future", "max_future_seconds", type=float, help="As the loop has it; seconds. Default 60.")
@guessed_patterns_option
@redis_options
@registry_option
def explain(vehicle: str | None, source: BinaryIO | None, as_json: bool, **options: Any) -> None:
    """Read VEHICLE as the loop would, and say step by step what becomes of it and why.

    VEHICLE is a key (vehicle:7) or a vehicle id (7); - reads snapshots from the standard input, as --file does from a
    file. Those are played in their order, each one second after its own time, so that progress and direction can be
    explained, too. Nothing is written.
    """
    from etacore.loop.explain import explain_file, explain_key

    config = RuntimeConfig.from_mapping(options)
    logging.getLogger("etacore.runtime").addHandler(logging.NullHandler())  # what it would log is among the notes
    if vehicle == "-" and source is None:
        vehicle, source = None, sys.stdin.buffer
    if source is not None and vehicle is None:
        found = explain_file(config, source.read())
    elif vehicle is not None and source is None:
        found = [explain_key(config, vehicle)]
    else:
        raise click.UsageError("name a vehicle, or give --file (or - for the standard input)")
    if as_json:
        import orjson

        for explanation in found:
            click.echo(orjson.dumps(explanation.to_dict()))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH)
    for number, explanation in enumerate(found):
        if number:
            console.print()
        show(explanation, console)


def show(explanation: Explanation, console: Console) -> None:
    """Print an explanation: the verdict first, then how it came about."""
    from rich.text import Text

    counted = ", ".join([explanation.status, *explanation.remarks])
    verdict = (f"{explanation.counted_as}: {counted}", _COLOURS[explanation.counted_as])
    lines: list[RenderableType] = [Text.assemble((explanation.key, "bold"), "  ", verdict), f"  {explanation.meaning}"]
    lines += [f"  - {detail}" for detail in explanation.details]
    if explanation.advice:
        lines.append(f"  -> {explanation.advice}")
    lines += [Text(f"  note: {note}", "dim") for note in explanation.notes]
    for title, step in _steps(explanation):
        lines += [Text(title, "bold"), *step]
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)


def _steps(explanation: Explanation) -> list[tuple[str, list[RenderableType]]]:
    steps = [
        ("earlier snapshots", _earlier(explanation)),
        ("1 snapshot", _snapshot(explanation)),
        ("2 pattern", _pattern(explanation)),
        ("3 place", _place(explanation)),
        ("4 prediction", _prediction(explanation)),
        ("5 stored now", _stored(explanation)),
    ]
    return [(title, lines) for title, lines in steps if lines]


def _rows(*rows: tuple[object, ...], header: tuple[str, ...] = (), right: tuple[int, ...] = ()) -> RenderableType:
    """A small table without lines, two places in."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from etacore.loop.reasons import cut

    table = Table(box=None, show_header=bool(header), pad_edge=False, header_style="dim")
    for ix in range(max(map(len, rows))):
        table.add_column(header[ix] if header else "", justify="right" if ix in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else cut(str(cell), MAX_CELL)) for cell in row))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _earlier(explanation: Explanation) -> list[RenderableType]:
    if not explanation.earlier:
        return []
    shown = explanation.earlier[-MAX_EARLIER:]
    rows = [(each.time, each.status, each.progress_m, each.next_stop) for each in shown]
    left_out = len(explanation.earlier) - len(shown)
    head: list[RenderableType] = [f"  the last {len(shown)} of {len(shown) + left_out}"] if left_out else []
    return [*head, _rows(*rows, header=("time", "status", "at m", "next stop"), right=(2,))]


def _snapshot(explanation: Explanation) -> list[RenderableType]:
    snapshot = explanation.snapshot
    if snapshot is None:
        return []
    lines: list[RenderableType] = [f"  {snapshot.n_bytes} bytes: {snapshot.raw}"]
    rows = []
    for field in snapshot.fields:
        if field.value is not None:
            source = "" if field.said_by in (None, field.name) else f"from {field.said_by}"
            rows.append((field.name, field.value, "; ".join(filter(None, (source, field.note)))))
    if rows:
        lines.append(_rows(*rows))
    absent = [field.name for field in snapshot.fields if field.value is None]
    if absent:
        lines.append(f"  not known: {', '.join(absent)}")
    lines += [f"  passed over: {text}" for text in snapshot.passed_over]
    if snapshot.unused:
        lines.append(f"  not used: {', '.join(snapshot.unused)}")
    return lines


def _pattern(explanation: Explanation) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if pattern := explanation.pattern:
        lines.append(f"  {pattern.key}: {pattern.n_stops} stops, {pattern.length_m:.0f} m")
        lines.append(f"  {pattern.why}")
    lines += [f"  asked for {each.key}: {'there' if each.found else 'not there'}" for each in explanation.asked]
    return lines


def _place(explanation: Explanation) -> list[RenderableType]:
    place = explanation.place
    if place is None:
        return []
    from etacore.loop.explain_place import length_text

    lines: list[RenderableType] = []
    if place.progress_m is not None:
        share = "" if place.share is None else f" ({100 * place.share:.1f} % of the line)"
        lines.append(f"  at {place.progress_m:.0f} m{share}")
    if place.off_line_m is not None:
        lines.append(f"  {length_text(place.off_line_m)} from the nearest point of the line")
    rows = [
        (title, stop.stop_id, stop.name, f"stop {stop.position}, sequence {stop.sequence}, at {stop.at_m:.0f} m")
        for title, stop in (("previous stop", place.previous_stop), ("next stop", place.next_stop))
        if stop is not None
    ]
    if rows:
        lines.append(_rows(*rows))
    return [*lines, *(f"  {text}" for text in place.why)]


def _prediction(explanation: Explanation) -> list[RenderableType]:
    prediction = explanation.prediction
    if prediction is None:
        return []
    features = [(each.name, f"{each.value:.6g}", each.unit, each.meaning) for each in prediction.features]
    stops = [
        (stop.stop_id, stop.name, stop.distance_m, stop.eta_s, stop.arrival or "no usable number")
        for stop in prediction.stops
    ]
    return [
        f"  model {prediction.model_key} ({prediction.model_scope})",
        _rows(*stops, header=("stop", "name", "m", "ETA s", "arrival"), right=(2, 3)),
        "  what the model was asked for the next stop",
        _rows(*features, right=(1,)),
    ]


def _stored(explanation: Explanation) -> list[RenderableType]:
    stored = explanation.stored
    if stored is None:
        return []
    if not stored.found:
        return [f"  {stored.key}: nothing"]
    from etacore.loop.reasons import age_text

    age = "" if stored.age_s is None else f", {age_text(stored.age_s)} old"
    lines: list[RenderableType] = [
        f"  {stored.key}: of the snapshot of {stored.source_timestamp}{age}, computed at {stored.computed_at}"
    ]
    if stored.expires_in_s is not None:
        lines.append(f"  it expires in {age_text(stored.expires_in_s)}")
    return [*lines, *(f"  {note}" for note in stored.notes)]
