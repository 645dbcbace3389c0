"""Write the stops of a GTFS feed into Redis."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from etacore.cli.options import Number, need_modules, redis_options, stop_on_signals
from etacore.config import MAX_SECONDS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from etacore.errors import EtacoreError
    from etacore.mlops.transit.seeding import Seeded

EXIT_STOPPED: Final = 1
WATCH_S: Final = 300.0
NOTES: Final = 20
"""Notes of a feed that are shown."""
NOTE_LENGTH: Final = 200


@click.command()
@click.argument("gtfs", envvar="ETA_GTFS_PATH")
@redis_options
@click.option(
    "--name", default="default", show_default=True, help="Of this feed: several in one Redis need a name each."
)
@click.option(
    "--ttl",
    type=click.IntRange(0, MAX_SECONDS),
    default=0,
    show_default=True,
    help="Seconds after which the keys go away unless they are seeded again; 0 = they stay.",
)
@click.option(
    "--watch",
    is_flag=False,
    flag_value=WATCH_S,
    type=Number(0.1, MAX_SECONDS),
    metavar="[SECONDS]",
    help=f"Go on, and look for a new version every so often (every {WATCH_S:g} s without a number).",
)
def seed(gtfs: str, name: str, ttl: int, watch: float | None, **redis_settings: Any) -> None:
    """Write stops, lines and patterns of GTFS (a zip file, a folder or an http(s) address) into Redis.

    This is all that `etacore run` needs to know of a timetable. Run it again
    for a new version of the feed: keys that are gone are removed, and a
    vehicle has stops at every moment. A feed that has not changed is
    recognised, and nothing is written.
    """
    need_modules("polars", *(("httpx",) if "://" in gtfs else ()))
    from contextlib import ExitStack, closing

    from rich.console import Console

    from etacore.config import RuntimeConfig
    from etacore.errors import FeedError, SeedingStoppedError
    from etacore.mlops.progress import console_progress
    from etacore.mlops.transit.seeding import Seeder
    from etacore.mlops.transit.seeding.feed_place import feed_source
    from etacore.mlops.transit.seeding.ledger import SeedLock
    from etacore.store.store import connect

    console = Console()

    def say(event: Seeded | EtacoreError) -> None:
        if isinstance(event, Exception):
            outcome = "Redis keeps what it has" if isinstance(event, FeedError) else "trying again"
            click.echo(f"{datetime.now():%H:%M:%S} {_text(event)}; {outcome}", err=True)
            return
        for part in described(name, event):
            console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))

    config = RuntimeConfig.from_mapping(redis_settings)
    stop = stop_on_signals()
    with closing(connect(config)) as client, SeedLock(client, name) as lock, ExitStack() as bars:
        show = bars.enter_context(console_progress())

        def progress(stage: str, done: int, total: int) -> None:
            if not said:  # a watch shows its first look only
                show(stage, done, total)

        said = False
        source = feed_source(gtfs, stop=stop, progress=progress)
        seeder = Seeder(client, source, name, lock, keys=config.keys, ttl_s=ttl, stop=stop, progress=progress)
        try:
            for event in seeder.watch(watch) if watch else (seeder.look(),):
                bars.close()
                said = True
                say(event)
        except SeedingStoppedError as error:
            bars.close()
            click.echo(f"etacore: {_text(error)}", err=True)
            raise click.exceptions.Exit(EXIT_STOPPED) from None


def _text(error: EtacoreError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def described(name: str, seeded: Seeded) -> list[RenderableType]:
    """What a look came to: a table and lines of text, or one line if nothing had changed."""
    from rich.table import Table

    from etacore.mlops.transit.seeding import RETIRED_S

    held, before = seeded.manifest, seeded.before
    stay = f"live for {held.ttl_s} s" if held.ttl_s else "stay"
    if not seeded.is_changed:
        n_keys = sum(held.n_keys.values())
        return [f"{held.source} is in Redis already ({name}, of {held.seeded_at}): {n_keys} keys, which {stay}"]
    table = Table("keys", "number", "new", "removed")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in sorted({*held.n_keys, *seeded.n_gone}):
        counts = (held.n_keys, seeded.n_new, seeded.n_gone)
        table.add_row(
            f"{held.prefixes[kind]}*" if kind in held.prefixes else kind, *(str(of.get(kind, 0)) for of in counts)
        )
    n_gone = sum(seeded.n_gone.values())
    lines = [
        f"{held.source} is in Redis now ({name}): "
        f"{held.n_routes} routes, {held.n_patterns} patterns, {held.n_trips} trips; the keys {stay}"
    ]
    if n_gone:
        was_elsewhere = before is not None and before.source != held.source
        place = f" ({short(before.source)}; --name keeps feeds side by side)" if before and was_elsewhere else ""
        lines.append(
            f"{n_gone} keys of the feed before{place} were removed; its patterns lapse in {RETIRED_S // 60} min"
        )
    if before is not None and held.n_trips < before.n_trips / 2:
        lines.append(f"note: the feed before had {before.n_trips} trips; is this one whole?")
    lines += [
        f"note: {n} keys are written by the seeding {other}, too: whoever writes last counts"
        for other, n in seeded.n_shared.items()
    ]
    lines += [f"note: {short(note)}" for note in held.notes[:NOTES]]
    if len(held.notes) > NOTES:
        lines.append(f"... and {len(held.notes) - NOTES} more notes")
    return [table, *lines]


def short(text: str) -> str:
    """One printable line of text from outside, cut to `NOTE_LENGTH`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= NOTE_LENGTH else f"{line[:NOTE_LENGTH]}..."
