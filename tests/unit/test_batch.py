import numpy as np
import pytest

from etacore._kernels.batch import Batch, Part
from etacore.schema import TEXT_DTYPE
from etacore.status import Status
from tests.reference.columns import columns_of


def test_a_column_has_a_place_for_every_row():
    batch = Batch(5)
    assert (batch.n, batch.capacity) == (0, 5)
    for n in (3, 5, 0, 1):
        batch.n = n
        assert {len(column) for column in (batch.lat, batch.status, batch.vehicle_id, batch.prev_stop)} == {n}
    for n in (-1, 6):
        with pytest.raises(ValueError, match=f"{n} rows do not fit into a batch for 5"):
            batch.n = n
    assert batch.n == 1


@pytest.mark.parametrize("capacity", [0, -1, 2**30])
def test_a_batch_has_a_capacity(capacity):
    with pytest.raises(ValueError, match="capacity"):
        Batch(capacity)


def test_columns_are_written_to_and_not_replaced():
    batch = Batch(2)
    batch.n = 2
    batch.lat[:] = [1.0, 2.0]
    batch.n = 1
    batch.n = 2
    assert batch.lat.tolist() == [1.0, 2.0]
    for name in ("lat", "status", "capacity", "keys", "parts"):
        with pytest.raises(AttributeError):
            setattr(batch, name, np.zeros(2))
    with pytest.raises(AttributeError, match="no column 'latitude'"):
        _ = batch.latitude


def test_a_batch_begins_anew():
    batch = Batch(2)
    batch.start(7, [b"vehicle:1"])
    first = batch.add_part("a model")
    assert (batch.now_us, batch.keys, batch.parts, first.model, first.ix) == (7, (b"vehicle:1",), [first], "a model", 0)
    assert batch.add_part("another").ix == 1
    batch.start(8)
    assert (batch.now_us, batch.keys, batch.parts) == (8, (), [])
    assert batch.add_part("a third") is first, "its memory serves again"
    assert first.model == "a third"
    with pytest.raises(TypeError, match="must be bytes, not str"):
        batch.start(9, ["vehicle:1"])
    assert batch.now_us == 8


def test_rows_are_counted_by_status():
    batch = columns_of([b"A"] * 6, status=[0, 3, 0, 25, 0, 3])
    assert batch.counts() == {Status.OK: 3, Status.WRONG_TYPE: 2, Status.NO_MODEL: 1}
    assert list(batch.counts()) == [Status.OK, Status.WRONG_TYPE, Status.NO_MODEL]
    assert Batch(3).counts() == {}


@pytest.mark.parametrize(
    "text", [np.zeros((2, 2), np.uint8), np.zeros(4, np.int8), np.zeros(8, np.uint8)[::2], np.zeros(4)]
)
def test_an_arena_is_bytes_in_a_row(text):
    batch = Batch(1)
    before = batch.text
    with pytest.raises(ValueError, match="arena"):
        batch.text = text
    assert batch.text is before


def test_a_part_grows_and_keeps_what_it_has():
    part = Part()
    assert part.row_offset.tolist() == [0]
    part.resize(2, 3, 4)
    assert part.features.shape == (3, 4)
    arrays = (part.row_offset, part.distance_m, part.stop_ix, part.eta_s)
    assert [(len(array), array.dtype.str) for array in arrays] == [(3, "<i4"), (3, "<f8"), (3, "<i4"), (3, "<f4")]
    part.features[:] = np.arange(12).reshape(3, 4)
    part.resize(1, 2, 6)
    assert part.features.ravel().tolist() == list(range(12))
    assert part.row_offset.shape == (2,)
    part.resize(100, 1000, 6)
    assert part.features.shape == (1000, 6)
    assert part.features.flags.c_contiguous
    for wrong in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**30, 0, 0), (0, 2**30, 0)):
        with pytest.raises(ValueError, match="a part cannot have"):
            part.resize(*wrong)
    assert part.features.shape == (1000, 6)


def test_columns_of_text_have_the_dtype_of_the_kernels():
    batch = Batch(1)
    for name in ("vehicle_id", "route_id", "trip_id", "stop_id", "timestamp"):
        assert getattr(batch, name).dtype == TEXT_DTYPE
