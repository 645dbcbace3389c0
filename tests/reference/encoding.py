"""Prediction documents, one at a time, with nothing but dicts, datetime and round(); and batches to try them on."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson

from etacore._kernels import batch as kernel
from etacore._kernels.encode import encode_documents
from etacore._kernels.routes import PatternTable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_PREDICTION = "The model gave no usable prediction"


def rounded(value, decimals):
    return round(value, decimals) if abs(value) < 1e12 else None  # NaN compares false


def usable(eta_s, time_us):
    if not (math.isfinite(eta_s) and 0.0 <= eta_s <= 1e9):
        return False
    try:
        moment(time_us, eta_s)
    except OverflowError:
        return False
    return True


def moment(time_us, eta_s):
    return EPOCH + timedelta(microseconds=time_us) + timedelta(seconds=eta_s)


def duration(seconds):
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    return f"{whole // 3600}h {whole % 3600 // 60}m"


def stop(stop_id, sequence, distance_m, eta_s, time_us):
    """One element of `predictions`. eta_s is the double value of the model's float32."""
    found = {
        "stop_id": stop_id,
        "stop_sequence": sequence,
        "distance_to_stop_m": rounded(distance_m, 1),
    }
    if not usable(eta_s, time_us):
        return found | {
            "eta_seconds": None,
            "eta_minutes": None,
            "eta_formatted": None,
            "eta_timestamp": None,
            "error": NO_PREDICTION,
        }
    return found | {
        "eta_seconds": round(eta_s, 1),
        "eta_minutes": round(eta_s / 60, 2),
        "eta_formatted": duration(eta_s),
        "eta_timestamp": moment(time_us, eta_s).isoformat(),
    }


def run(start_date, start_time_s, is_guessed):
    """The members that follow where there is something to say."""
    found = {}
    if start_date:
        found["start_date"] = f"{start_date:08}"
    if start_time_s >= 0:
        found["start_time"] = f"{start_time_s // 3600:02}:{start_time_s // 60 % 60:02}:{start_time_s % 60:02}"
    return found | ({"pattern": "guessed"} if is_guessed else {})


def ascending(etas_s):
    """The ascending ETAs nearest to these in least squares: min over ends of max over starts of the mean between."""
    chosen = [i for i, eta_s in enumerate(etas_s) if 0.0 <= eta_s <= 1e9]
    values, found = [etas_s[i] for i in chosen], list(etas_s)
    for k, i in enumerate(chosen):
        found[i] = min(max(sum(values[a : b + 1]) / (b + 1 - a) for a in range(k + 1)) for b in range(k, len(values)))
    return found


def document(*, vehicle_id, route_id, trip_id, timestamp, time_us, key, stops, envelope, members=None):
    """The whole document; stops are (stop_id, sequence, distance_m, eta_s). None if no stop can be predicted."""
    if not any(usable(eta_s, time_us) for *_, eta_s in stops):
        return None
    return {
        "vehicle_id": vehicle_id,
        "route_id": route_id,
        "trip_id": trip_id,
        "computed_at": envelope.computed_at,
        "model_key": envelope.model_key,
        "model_type": envelope.model_type,
        "model_scope": envelope.model_scope,
        "predictions": [stop(*given, time_us) for given in stops],
        "source": envelope.source,
        "redis_key": key.decode("utf-8", "replace"),
        "fetched_at": envelope.fetched_at,
        "persisted_at": envelope.persisted_at,
        "source_timestamp": timestamp,
        "prefect_pipeline_latency_ms": round(envelope.latency_ms, 3),
        **(members or {}),
    }


def text(found):
    return b"" if found is None else orjson.dumps(found)


def set_command(key, value, ttl_s):
    """SET key value EX ttl, as a Redis client would send it."""
    parts = [b"SET", key, value, b"EX", str(ttl_s).encode()]
    return b"*5\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def run_of(row):
    return row.get("run", (0, -1, False))


# -- batches as the kernel takes them ----------------------------------------------------------------------------------


class Batch:
    """Columns, keys, patterns and predictions of a batch, from rows given as dicts.

    A row has status, vehicle_id, route_id, trip_id (str or None), timestamp (str, or a number's literal as bytes),
    time_us, key (bytes) and stops: (stop_id, sequence, distance_m, eta_s); and may have run: start date, start time in
    seconds, whether the pattern is a guess.
    """

    def __init__(self, rows):
        self.rows = rows
        n = len(rows)
        arena = bytearray(b"??")  # so that no text begins at 0
        self.columns = columns = kernel.Batch(max(n, 1))
        columns.n = n
        columns.start(0, [row["key"] for row in rows])
        columns.status[:] = [row.get("status", 0) for row in rows]
        columns.time_us[:] = [row["time_us"] for row in rows]
        columns.timestamp_is_number[:] = [isinstance(row["timestamp"], bytes) for row in rows]
        for i, name in enumerate(("start_date", "start_time_s", "is_guessed")):
            getattr(columns, name)[:] = [run_of(row)[i] for row in rows]
        for name in ("vehicle_id", "route_id", "trip_id", "timestamp"):
            for i, row in enumerate(rows):
                given = row[name] or ""
                content = given if isinstance(given, bytes) else given.encode()
                escape = not isinstance(given, bytes) and len(orjson.dumps(given)) != len(content) + 2
                getattr(columns, name)[i] = (len(arena), len(content), escape)
                arena += content
        columns.text = np.frombuffer(bytes(arena), np.uint8)
        self.patterns = PatternTable()
        columns.pattern_ix[:] = [self.add_pattern(row["stops"]) for row in rows]
        counts = [len(row["stops"]) for row in rows]
        self.row_offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.stop_ix = np.array([i for count in counts for i in range(count)], np.int32)
        self.distance_m = np.array([stop[2] for row in rows for stop in row["stops"]], np.float64)
        self.eta_s = np.array([stop[3] for row in rows for stop in row["stops"]], np.float32)

    def encode(self, envelope, part=None, *, prefix, ttl_s):
        """The documents of the kernel, in a part of its own or in one that served another batch."""
        part = kernel.Part() if part is None else part
        part.resize(len(self.rows), len(self.stop_ix), 1)
        for name in ("row_offset", "stop_ix", "distance_m", "eta_s"):
            getattr(part, name)[:] = getattr(self, name)
        encode_documents(self.columns, part, self.patterns, envelope=envelope.parts(), prefix=prefix, ttl_s=ttl_s)
        return part.documents

    def add_pattern(self, stops):
        """A pattern of these stops on a line to the north, with one more stop at its end."""
        stops = [*stops, ("last", 0, 0.0, 0.0)]
        if len(stops) < 2:
            return -1
        text, spans = bytearray(), []
        for stop_id, sequence, *_ in stops:
            shown = orjson.dumps({"stop_id": stop_id, "stop_sequence": sequence, "distance_to_stop_m": 0})[:-2]
            spans.append((len(text), 0, len(text), len(shown)))
            text += shown
        return self.patterns.add(
            0,
            np.linspace(10.0, 11.0, len(stops)),
            np.zeros(len(stops)),
            np.array([stop[1] for stop in stops], np.int32),
            np.frombuffer(bytes(text), np.uint8),
            np.array(spans, np.int32),
        )

    def expected(self, envelope):
        """The document of each row as text, b"" where there is none."""
        found = []
        for row in self.rows:
            if row.get("status", 0) or not row["stops"]:
                found.append(b"")
                continue
            given = row["timestamp"]
            one = document(
                vehicle_id=row["vehicle_id"],
                route_id=row["route_id"],
                trip_id=row["trip_id"] or None,
                timestamp=orjson.Fragment(given) if isinstance(given, bytes) else given,
                time_us=row["time_us"],
                key=row["key"],
                stops=[(*stop[:3], float(np.float32(stop[3]))) for stop in row["stops"]],
                envelope=envelope,
                members=run(*run_of(row)),
            )
            found.append(text(one))
        return found

    def expected_commands(self, envelope, prefix, ttl_s):
        """The commands that store these documents, back to back."""
        return b"".join(
            set_command(prefix + row["vehicle_id"].encode(), document, ttl_s)
            for row, document in zip(self.rows, self.expected(envelope), strict=True)
            if document
        )
