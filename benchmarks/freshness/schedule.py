"""What the producer writes, and when: made before the clock starts, so that writing is all it does then."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.fleet import Fleet, make_fleet

N_VEHICLES: Final = 10_000
PROBES_PER_S: Final = 1_000
"""The reader looks at about so many predictions a second, and the whole fleet where fewer are written."""
PREDICTIONS: Final = b"predictions:"
SEED_RATE: Final = 1e6
_DIGITS: Final = len("000000")


@dataclass(frozen=True, slots=True)
class Probes:
    """The vehicles that the reader watches: those whose id starts with one of some prefixes.

    Every vehicle is written equally often, in a shuffled order: the watched ones are a sample of all writes.

    Attributes
    ----------
    prefixes : list of str
        Of vehicle ids.
    n : int
        Vehicles that have one.
    """

    prefixes: list[str]
    n: int

    @classmethod
    def choose(cls, rate_per_s: float, n_vehicles: int = N_VEHICLES) -> Probes:
        """As many tenths or hundredths of the fleet as bring about `PROBES_PER_S` predictions a second."""
        share = min(PROBES_PER_S / rate_per_s, 1.0)
        n_digits = len(str(n_vehicles - 1))
        stem = "BUS-" + "0" * (_DIGITS - n_digits)
        if share >= 1 or n_digits < 3:
            return cls(["BUS-"], n_vehicles)
        digits = 1 if share >= 0.1 else 2
        unit = 10 ** (n_digits - digits)
        count = min(max(round(share * n_vehicles / unit), 1), 9)
        return cls([f"{stem}{i:0{digits}d}" for i in range(count)], min(count * unit, n_vehicles))

    def are(self, vehicle_ix: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the vehicles are watched."""
        return vehicle_ix < self.n


@dataclass(frozen=True, slots=True)
class Schedule:
    """Writes at a fixed rate; the i-th is due ``i / rate_per_s`` after the start.

    Attributes
    ----------
    rate_per_s : float
    commands : bytes
        ``SET`` commands back to back.
    ends : ndarray of int64, shape (n,)
        Where in `commands` each ends.
    vehicle_ix : ndarray of int64, shape (n,)
    event_us : ndarray of int64, shape (n,)
        Timestamp in each snapshot, microseconds since the epoch; no two are alike.
    n_warm : int
        So many writes at the start are not counted.
    """

    rate_per_s: float
    commands: bytes
    ends: NDArray[np.int64]
    vehicle_ix: NDArray[np.int64]
    event_us: NDArray[np.int64]
    n_warm: int

    def __len__(self) -> int:
        return len(self.ends)

    def due_s(self) -> NDArray[np.float64]:
        """When each write is due, seconds after the start."""
        return np.arange(len(self)) / self.rate_per_s


class Producer:
    """Makes schedules for a fleet that goes round and round, always in the same shuffled order.

    A vehicle's writes are then as far apart as they can be.

    Parameters
    ----------
    n : int
        Vehicles.
    """

    def __init__(self, n: int = N_VEHICLES, seed: int = 1) -> None:
        sweeps = [make_fleet(n, tick) for tick in (1, 6)]
        self.routes: Final = sweeps[0].routes
        self.keys: Final = sweeps[0].keys
        self._templates: Final = [_templates(fleet) for fleet in sweeps]
        self._order: Final = np.random.default_rng(seed).permutation(n)
        self._n_written = 0
        self._last_us = 0

    def __len__(self) -> int:
        return len(self.keys)

    def prediction_keys(self) -> list[bytes]:
        """Where the fleet's predictions are stored."""
        return [prediction_key(ix) for ix in range(len(self))]

    def seed(self, client: redis.Redis) -> None:
        """Store the routes and a first position of every vehicle."""
        first = self.schedule(SEED_RATE, len(self) / SEED_RATE)
        commands = zip([0, *first.ends.tolist()], first.ends.tolist(), strict=False)
        payloads = [first.commands[begin:end].split(b"\r\n")[-2] for begin, end in commands]
        client.mset(self.routes)
        client.mset({self.keys[ix]: payload for ix, payload in zip(first.vehicle_ix.tolist(), payloads, strict=True)})

    def schedule(self, rate_per_s: float, seconds: float, warm_s: float = 0.0) -> Schedule:
        """The next writes, `warm_s` and `seconds` of them; their timestamps start now."""
        n = max(round(rate_per_s * (warm_s + seconds)), 1)
        turn = self._n_written + np.arange(n)
        sweep, place = np.divmod(turn, len(self))
        vehicle_ix = self._order[place]
        start_us = max(time.time_ns() // 1_000, self._last_us + 1)
        # Rates of more than a million a second would need finer timestamps.
        event_us = start_us + np.floor(np.arange(n) * (1e6 / rate_per_s)).astype(np.int64)
        commands = [
            before + stamp + after
            for (before, after), stamp in zip(
                (self._templates[s % 2][v] for s, v in zip(sweep.tolist(), vehicle_ix.tolist(), strict=True)),
                iso_stamps(event_us),
                strict=True,
            )
        ]
        ends = np.cumsum(np.fromiter(map(len, commands), np.int64, n))
        self._n_written += n
        self._last_us = int(event_us[-1])
        return Schedule(rate_per_s, b"".join(commands), ends, vehicle_ix, event_us, round(rate_per_s * warm_s))


def prediction_key(vehicle_ix: int) -> bytes:
    """Where a vehicle's prediction is stored."""
    return b"%sBUS-%06d" % (PREDICTIONS, vehicle_ix)


def vehicle_of(key: bytes) -> int:
    """Index of a vehicle from its snapshot's or its prediction's key."""
    return int(key[-_DIGITS:])


def iso_stamps(us: NDArray[np.int64]) -> list[bytes]:
    """Microseconds since the epoch as ISO 8601 text, all of one length."""
    return [text.encode() + b"+00:00" for text in np.datetime_as_string(us.astype("datetime64[us]")).tolist()]


def read_stamps(stamps: list[bytes]) -> NDArray[np.int64]:
    """Microseconds since the epoch of such texts."""
    texts = np.array([stamp[:-6].decode() for stamp in stamps], "datetime64[us]")
    return texts.astype(np.int64)


def _templates(fleet: Fleet) -> list[tuple[bytes, bytes]]:
    """The SET command of each vehicle, before and after its timestamp."""
    templates = []
    width = len(iso_stamps(np.zeros(1, np.int64))[0])
    for key, payload in zip(fleet.keys, fleet.payloads, strict=True):
        before, _, rest = payload.partition(b'"timestamp":"')
        stamp, _, after = rest.partition(b'"')
        n_bytes = len(payload) - len(stamp) + width
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, n_bytes)
        templates.append((head + before + b'"timestamp":"', b'"' + after + b"\r\n"))
    return templates
