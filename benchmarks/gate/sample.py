"""What the workloads work on: the seeded fleet of the benchmarks, or a sample of a real one, kept in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import orjson

from benchmarks.fleet import NOW_US, make_fleet
from etacore.config import RuntimeConfig
from etacore.errors import ConfigError
from etacore.models.choice import Models
from etacore.models.model import Model
from etacore.pipeline.engine import Engine, system_clock_us
from etacore.store.store import connect

N_VEHICLES: Final = 2_000
N_MOMENTS: Final = 2
KEYS_PER_CALL: Final = 500


@dataclass(frozen=True, slots=True)
class Moment:
    """The snapshots of a fleet at a time, microseconds since the epoch."""

    time_us: int
    keys: list[bytes]
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """A fleet at two moments or more, and everything else that the engine looked up for it.

    Attributes
    ----------
    moments : sequence of Moment
        Ascending; the last one is measured, those before are what the engine remembers.
    values : dict
        Keys such as ``route_stops:*`` to their values.
    """

    moments: Sequence[Moment]
    values: dict[bytes, bytes]

    @property
    def routes(self) -> dict[bytes, bytes]:
        """The values that are the stops of a route or a pattern."""
        return {key: value for key, value in self.values.items() if b"_stops:" in key}

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Answer as Redis' MGET would; no prediction is stored."""
        return [self.values.get(key) for key in keys]


def seeded_sample(n: int = N_VEHICLES) -> Sample:
    """The fleet of `benchmarks.fleet`, one second apart."""
    fleets = [make_fleet(n, tick) for tick in range(N_MOMENTS)]
    return Sample([Moment(NOW_US, fleet.keys, fleet.payloads) for fleet in fleets], fleets[0].routes)


def take_sample(config: RuntimeConfig, model: Model, *, n: int, wait_s: float) -> Sample:
    """Read a fleet from Redis at two moments; only reads.

    Parameters
    ----------
    config : RuntimeConfig
        Which Redis, and how its keys are called.
    model : Model
        One that can be served: the engine is asked which keys it looks up.
    n : int
        Vehicles, at most.
    wait_s : float
        Seconds between the moments: long enough for most vehicles to report again.

    Raises
    ------
    ConfigError
        If there is no vehicle.
    """
    client = connect(config)
    values: dict[bytes, bytes] = {}

    def mget(keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), KEYS_PER_CALL):
            found += cast("list[bytes | None]", client.mget(keys[start : start + KEYS_PER_CALL]))
        return found

    def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
        predictions = config.keys.predictions.encode()
        found = [None if key.startswith(predictions) else value for key, value in zip(keys, mget(keys), strict=True)]
        values.update((key, value) for key, value in zip(keys, found, strict=True) if value is not None)
        return found

    try:
        known = sorted(client.scan_iter(match=config.keys.vehicle_pattern, count=1_000))[:n]
        moments = []
        for i in range(N_MOMENTS):
            time.sleep(wait_s if i else 0.0)
            there = [(key, payload) for key, payload in zip(known, mget(known), strict=True) if payload is not None]
            moments.append(Moment(system_clock_us(), [key for key, _ in there], [payload for _, payload in there]))
        if not moments[-1].keys:
            raise ConfigError(
                f"no vehicle under {config.keys.vehicle_pattern}", hint="sample while the producer is running"
            )
        for moment in moments:
            engine = Engine(Models(model), config, lambda: moment.time_us)  # noqa: B023  used up within the turn
            engine.process(moment.keys, moment.payloads, fetch)
        return Sample(moments, values)
    finally:
        client.close()


def write_sample(sample: Sample, path: Path) -> None:
    """Keep a sample; bytes are kept as Latin-1 text, which loses none."""
    content = {
        "moments": [
            {"time_us": moment.time_us, "vehicles": _text(zip(moment.keys, moment.payloads, strict=True))}
            for moment in sample.moments
        ],
        "values": _text(sample.values.items()),
    }
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_sample(path: Path) -> Sample:
    """Read what `write_sample` wrote.

    Raises
    ------
    ConfigError
        If the file is no such sample.
    """
    try:
        content = orjson.loads(path.read_bytes())
        moments = []
        for moment in content["moments"]:
            vehicles = _bytes(moment["vehicles"])
            moments.append(Moment(int(moment["time_us"]), list(vehicles), list(vehicles.values())))
        moments[-1]  # at least one
        return Sample(moments, _bytes(content["values"]))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no sample of a fleet: {type(error).__name__}: {error}",
            hint="take one with `python -m benchmarks.gate sample`",
        ) from None


def _text(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in pairs}


def _bytes(pairs: dict[str, str]) -> dict[bytes, bytes]:
    return {key.encode("latin-1"): value.encode("latin-1") for key, value in pairs.items()}
