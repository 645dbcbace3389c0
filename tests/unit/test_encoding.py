import numpy as np
import orjson
import pytest

from etacore._kernels.batch import Part
from etacore._kernels.encode import encode_documents
from etacore.pipeline.encoding import Envelope
from etacore.status import Status
from tests.reference.encoding import Batch

ENVELOPE = Envelope("key", "xgboost", "global", "c", "f", "p", 1.25)


def row(i=0, **changes):
    return {
        "vehicle_id": f"v{i}",
        "route_id": "171",
        "trip_id": None,
        "timestamp": "2026-01-20T12:00:00Z",
        "time_us": 1_768_910_400_000_000,
        "key": b"vehicle:v%d" % i,
        "stops": [("S1", 1, 123.45, 45.2), ("S2", 2, 300.0, 75.0)],
    } | changes


def encode(batch, part=None, *, prefix=b"p:", ttl_s=300, pattern_ix=None, **changes):
    if pattern_ix is not None:
        batch.columns.pattern_ix[:] = pattern_ix
    for name, values in changes.items():
        setattr(batch, name, values)
    return batch.encode(ENVELOPE, part, prefix=prefix, ttl_s=ttl_s)


def test_a_document_has_the_fields_in_order():
    document = encode(Batch([row(trip_id="T")]))[0]
    assert document == (
        b'{"vehicle_id":"v0","route_id":"171","trip_id":"T","computed_at":"c","model_key":"key","model_type":"xgboost",'
        b'"model_scope":"global","predictions":['
        b'{"stop_id":"S1","stop_sequence":1,"distance_to_stop_m":123.5,"eta_seconds":45.2,"eta_minutes":0.75,'
        b'"eta_formatted":"45s","eta_timestamp":"2026-01-20T12:00:45.200001+00:00"},'
        b'{"stop_id":"S2","stop_sequence":2,"distance_to_stop_m":300.0,"eta_seconds":75.0,"eta_minutes":1.25,'
        b'"eta_formatted":"1m 15s","eta_timestamp":"2026-01-20T12:01:15+00:00"}],'
        b'"source":"prefect","redis_key":"vehicle:v0","fetched_at":"f","persisted_at":"p",'
        b'"source_timestamp":"2026-01-20T12:00:00Z","prefect_pipeline_latency_ms":1.25}'
    )


def test_a_stop_without_prediction_says_so():
    document = orjson.loads(encode(Batch([row(stops=[("S1", 1, 10.0, np.nan), ("S2", 2, 20.0, 5.0)])]))[0])
    failed, good = document["predictions"]
    assert failed == {
        "stop_id": "S1",
        "stop_sequence": 1,
        "distance_to_stop_m": 10.0,
        "eta_seconds": None,
        "eta_minutes": None,
        "eta_formatted": None,
        "eta_timestamp": None,
        "error": "The model gave no usable prediction",
    }
    assert good["eta_seconds"] == 5.0


@pytest.mark.parametrize("eta_s", [np.nan, np.inf, -np.inf, -1.0, 2e9])
def test_a_row_without_any_prediction_fails(eta_s):
    batch = Batch([row(0, stops=[("S1", 1, 10.0, eta_s)]), row(1)])
    documents = encode(batch)
    assert documents[0] == b""
    assert documents[1] != b""
    assert len(documents) == 1
    assert batch.columns.status.tolist() == [Status.PREDICTION_FAILED, Status.OK]


@pytest.mark.parametrize("changes", [{"pattern_ix": [7, 1]}, {"pattern_ix": [-1, 1]}, {"stop_ix": [0, 3, 0, 1]}])
def test_what_points_nowhere_fails_its_row_only(changes):
    batch = Batch([row(0), row(1)])
    documents = encode(batch, **{name: np.array(value, np.int32) for name, value in changes.items()})
    assert documents[0] == b""
    assert documents[1] == batch.expected(ENVELOPE)[1]
    assert batch.columns.status.tolist() == [Status.PREDICTION_FAILED, Status.OK]


def test_keys_and_parts_of_another_batch_are_refused():
    batch = Batch([row(0), row(1)])
    batch.columns.start(0, batch.columns.keys[:1])
    with pytest.raises(ValueError, match="1 keys for 2 rows"):
        encode(batch)
    with pytest.raises(TypeError, match="bytes"):
        batch.columns.start(0, ["vehicle:v0", "vehicle:v1"])
    part = Part()
    part.resize(1, 4, 1)
    with pytest.raises(ValueError, match="a part of 1 vehicles for a batch of 2"):
        encode_documents(
            Batch([row(0), row(1)]).columns, part, batch.patterns, envelope=ENVELOPE.parts(), prefix=b"", ttl_s=1
        )


@pytest.mark.parametrize(
    "row_offset", [[-100_000, 2, 4], [-1, 0, 4], [0, 5000, 4], [0, 3, 2], [2**31 - 1, -(2**31), 4], [0, 2, -1]]
)
def test_row_offsets_that_leave_the_rows_are_refused(row_offset):
    batch = Batch([row(0), row(1)])
    with pytest.raises(ValueError, match="offsets"):
        encode(batch, row_offset=np.array(row_offset, np.int32))
    assert batch.columns.status.tolist() == [Status.OK, Status.OK]


def test_an_envelope_has_four_parts_of_bytes():
    batch = Batch([row(0)])
    for parts in ((b"", None, b"", b""), (b"",) * 3):
        with pytest.raises((TypeError, ValueError), match=r"envelope|unpack"):
            encode_documents(batch.columns, Part(), batch.patterns, envelope=parts, prefix=b"p:", ttl_s=1)


OUTSIDE = [(2**40, 3, 0), (-1, 3, 0), (2**63 - 1, 3, 0), (0, -1, 0), (0, 2**31 - 1, 1)]


@pytest.mark.parametrize("column", ["vehicle_id", "route_id", "trip_id", "timestamp"])
@pytest.mark.parametrize("text", OUTSIDE)
def test_a_text_outside_the_arena_is_refused(column, text):
    batch = Batch([row(0), row(1), row(2)])
    getattr(batch.columns, column)[1] = text
    with pytest.raises(ValueError, match=r"row 1: .* outside the arena"):
        encode(batch)
    # A row that is left out is not looked at.
    batch.columns.status[1] = Status.TOO_OLD
    assert len(encode(batch)) == 2


def test_a_buffer_is_reused_and_grows():
    part = Part()
    large = Batch([row(i) for i in range(50)])
    small = Batch([row(3)])
    documents = encode(small, part)
    first = bytes(documents[0])
    encode(large, part)
    assert [documents[i] for i in range(50)] == large.expected(ENVELOPE)
    capacity = len(documents.buffer)
    assert encode(small, part) is documents
    assert documents.n == 1
    assert documents[0] == first
    assert len(documents.buffer) == capacity
    with pytest.raises(IndexError):
        documents[1]


def test_a_buffer_that_is_looked_at_does_not_grow():
    part = Part()
    documents = encode(Batch([row()]), part)
    view = documents.commands
    with pytest.raises(BufferError):
        encode(Batch([row(i) for i in range(100)]), part)
    assert len(documents) == 0
    assert documents.rows().tolist() == []
    view.release()
    encode(Batch([row(i) for i in range(100)]), part)
    assert len(documents) == 100


def test_after_a_refusal_there_are_no_documents():
    part = Part()
    documents = encode(Batch([row()]), part)
    with pytest.raises(ValueError, match="offsets"):
        encode(Batch([row(0), row(1)]), part, row_offset=np.array([0, 3, 2], np.int32))
    assert (len(documents), documents.n, bytes(documents.commands)) == (0, 0, b"")
    with pytest.raises(IndexError):
        documents[0]


def test_an_empty_batch():
    documents = encode(Batch([]))
    assert len(documents) == 0
    assert documents.rows().tolist() == []
    assert bytes(documents.commands) == b""


def test_commands_expire():
    documents = encode(Batch([row()]))
    head, _, tail = bytes(documents.commands).partition(documents[0])
    assert head == b"*5\r\n$3\r\nSET\r\n$4\r\np:v0\r\n$%d\r\n" % len(documents[0])
    assert tail == b"\r\n$2\r\nEX\r\n$3\r\n300\r\n"
    with pytest.raises(ValueError, match="time to live"):
        encode(Batch([row()]), ttl_s=0)


def test_rows_without_a_document_have_no_command():
    batch = Batch(
        [row(0), row(1, status=Status.TOO_OLD), row(2, stops=[]), row(3, stops=[("S", 1, 1.0, np.nan)]), row(4)]
    )
    documents = encode(batch)
    assert documents.rows().tolist() == [0, 4]
    assert bytes(documents.commands) == batch.expected_commands(ENVELOPE, b"p:", 300)
