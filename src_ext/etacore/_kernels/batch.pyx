"""The batch: all columns of the vehicles that are served together, from their payloads to their documents.

Kernels take the batch and what varies. The columns are allocated and checked here, once, so a kernel neither checks
them nor asks Python for them. A new column is a line in `columns_t`, one in `Batch` and one in the stub.
"""

import numpy as np

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize

cimport numpy as cnp

from etacore._kernels.index cimport hash_text
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport HINT_CONTRADICTED, HINT_UNKNOWN, N_STATUS, OK, TRIP_FINISHED, text_t

from etacore.schema import TEXT_DTYPE
from etacore.status import Remark, Status

cnp.import_array()

cdef tuple STATUSES = tuple(Status)
cdef enum:
    MAX_CAPACITY = 1 << 30


cdef void* place(dict arrays, str name, object dtype, Py_ssize_t n) except NULL:
    # A new column, and where it lies; `arrays` keeps it.
    cdef cnp.ndarray array = np.zeros(max(n, 1), dtype)
    arrays[name] = array
    return cnp.PyArray_DATA(array)


cdef object first_rows(dict arrays, dict views, str name, Py_ssize_t n, str whose):
    # The rows of a column that are in use. A view costs as much as a kernel does for one vehicle, so it is kept.
    view = views.get(name)
    if view is None:
        if name not in arrays:
            raise AttributeError(f"a {whose} has no column {name!r}")
        view = arrays[name][:n]
        views[name] = view
    return view


cdef class Documents:
    """The documents of one part inside the commands that store them; the memory serves the next batch.

    Attributes
    ----------
    buffer : bytearray
        ``SET <prefix><vehicle_id> <document> EX <seconds>`` for every row with a document, as RESP, back to back. Grows
        as needed; only the first ``size`` bytes count. It cannot grow while a view of it is held.
    n : int
        Rows of the batch.
    n_found : int
        Rows with a document.
    size : int
        Bytes of all commands.
    """

    def __cinit__(self):
        self.buffer = bytearray()
        self.capacity = -1
        self.begin(0)

    cdef int begin(self, Py_ssize_t n) except -1:
        cdef cnp.ndarray starts, ends, found
        self.n = self.n_found = 0
        self.size = 0
        if n > self.capacity:
            starts, ends, found = (np.zeros(n + n // 2 + 1, np.int64) for _ in range(3))
            self._starts, self._ends, self._found = starts, ends, found
            self.start_of = <int64_t*>cnp.PyArray_DATA(starts)
            self.end_of = <int64_t*>cnp.PyArray_DATA(ends)
            self.row_of = <int64_t*>cnp.PyArray_DATA(found)
            self.capacity = n + n // 2 + 1
        return 0

    @property
    def commands(self):
        """The commands, ready to be sent. Release the view before the next batch is written."""
        return memoryview(self.buffer)[:self.size]

    def __len__(self):
        """How many rows have a document: as many commands are sent, as many replies follow."""
        return self.n_found

    def rows(self):
        """Rows that have a document, ascending: the order of the commands. Holds until the next batch is written."""
        return self._found[:self.n_found]

    def __getitem__(self, Py_ssize_t row):
        """The document of a row, b"" if it has none."""
        if not 0 <= row < self.n:
            raise IndexError(row)
        return bytes(self.buffer[self.start_of[row]:self.end_of[row]])


cdef class Part:
    """The rows of a batch that one model predicts, and what came out. Its memory serves the next batch.

    Attributes
    ----------
    model : object
        Who predicts.
    ix : int
        Position among the parts of the batch; its vehicles have it in ``Batch.part_ix``.
    n : int
        Vehicles of the batch.
    n_rows, n_features : int
        Shape of the feature matrix.
    row_offset : ndarray of int32, shape (n + 1,)
        Feature rows of vehicle i: ``row_offset[i]:row_offset[i + 1]``.
    features : ndarray of float32, shape (n_rows, n_features)
    distance_m : ndarray of float64, shape (n_rows,)
        Metres to the stop, as the model sees it.
    stop_ix : ndarray of int32, shape (n_rows,)
        Position of the stop in the vehicle's pattern.
    eta_s : ndarray of float32, shape (n_rows,)
        Seconds from the snapshot's time to the arrival, clipped.
    documents : Documents
    """

    def __cinit__(self):
        self.documents = Documents()
        self._arrays = {}
        self._views = {}
        self.room = self.row_room = self.value_room = -1
        self.reserve(0)
        self.resize(0, 0, 0)

    cdef int reserve(self, Py_ssize_t n) except -1:
        if n > self.room:
            self.room = n + n // 2
            self.offsets = <int32_t*>place(self._arrays, "row_offset", np.int32, self.room + 1)
            self._views.clear()
        return 0

    def resize(self, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t n_features):
        """Make room for so many vehicles, feature rows and features; what was in the arrays may be gone."""
        if not (0 <= n < MAX_CAPACITY and 0 <= n_rows < MAX_CAPACITY and 0 <= n_features < 2**15):
            raise ValueError(f"a part cannot have {n} vehicles and {n_rows} rows of {n_features} features")
        self.reserve(n)
        if n_rows > self.row_room:
            self.row_room = n_rows + n_rows // 2
            self.distances = <double*>place(self._arrays, "distance_m", np.float64, self.row_room)
            self.stops = <int32_t*>place(self._arrays, "stop_ix", np.int32, self.row_room)
            self.etas = <float*>place(self._arrays, "eta_s", np.float32, self.row_room)
            self._views.clear()
        if n_rows * n_features > self.value_room:
            self.value_room = n_rows * n_features + n_rows * n_features // 2
            self.values = <float*>place(self._arrays, "features", np.float32, self.value_room)
            self._views.clear()
        if n != self.n or n_rows != self.n_rows or n_features != self.n_features:
            self.n, self.n_rows, self.n_features = n, n_rows, n_features
            self._views.clear()

    @property
    def row_offset(self):
        return first_rows(self._arrays, self._views, "row_offset", self.n + 1, "part")

    @property
    def features(self):
        view = self._views.get("features")
        if view is None:
            view = self._arrays["features"][:self.n_rows * self.n_features].reshape(self.n_rows, self.n_features)
            self._views["features"] = view
        return view

    @property
    def distance_m(self):
        return first_rows(self._arrays, self._views, "distance_m", self.n_rows, "part")

    @property
    def stop_ix(self):
        return first_rows(self._arrays, self._views, "stop_ix", self.n_rows, "part")

    @property
    def eta_s(self):
        return first_rows(self._arrays, self._views, "eta_s", self.n_rows, "part")


cdef class Batch:
    """The columns of one batch; made once for a capacity and used again.

    Each column is an attribute: an ndarray with a place for every row, that may be written to but not replaced.

    Parameters
    ----------
    capacity : int
        The largest number of rows.

    Attributes
    ----------
    capacity : int
    n : int
        Rows in use; may be set, from 0 to `capacity`.
    keys : tuple of bytes
        Redis keys of the snapshots; only `encode_documents` needs them.
    now_us : int
        Time at which the batch had been fetched, microseconds since 1970 UTC; ages are counted from here.
    computed_us : int
        Time at which it was predicted.
    parts : list of Part
        What each model predicts of it.
    text : ndarray of uint8
        The arena: UTF-8 bytes of all texts, one after another. A larger one takes its place when a batch needs it.
    status : ndarray of uint8, shape (n,)
        `etacore.status.Status`.
    vehicle_id, route_id, trip_id, stop_id, timestamp : ndarray of TEXT_DTYPE, shape (n,)
        Where in the arena a text lies; length 0 is none. ``timestamp`` is verbatim.
    timestamp_is_number : ndarray of uint8, shape (n,)
        1 if the timestamp was a JSON number.
    direction_id : ndarray of int8, shape (n,)
        0..127, or -1 if not given.
    lat, lon : ndarray of float64, shape (n,)
        Degrees; NaN if not given or not a number.
    speed_mps : ndarray of float32, shape (n,)
        Metres a second, 0.0 if not given, negative or bad.
    bearing_deg : ndarray of float32, shape (n,)
        Degrees as given, NaN if not given or bad.
    time_us : ndarray of int64, shape (n,)
        Time of the snapshot in microseconds since 1970-01-01 UTC; 0 if there is none.
    stop_sequence : ndarray of int32, shape (n,)
        The current stop sequence, or `etacore.schema.NO_SEQUENCE`.
    current_status : ndarray of int8, shape (n,)
        GTFS-Realtime VehicleStopStatus 0..2, or -1 if not given or unknown.
    start_date : ndarray of int32, shape (n,)
        Service date of the run, YYYYMMDD as a number, or `etacore.schema.NO_START_DATE`.
    start_time_s : ndarray of int32, shape (n,)
        Start of the run, seconds since noon minus 12 h of that date, or `etacore.schema.NO_START_TIME`.
    vehicle_ix : ndarray of int32, shape (n,)
        The vehicle's number in the fleet, -1 without one. Good until the next `Fleet.evict`.
    is_new : ndarray of uint8, shape (n,)
        1 on the first row of each vehicle that was never restored nor committed.
    pattern_ix : ndarray of int32, shape (n,)
        Number of the pattern that the vehicle follows; -1 for none.
    other_pattern_ix : ndarray of int32, shape (n,)
        The pattern of the other direction, for a vehicle that names neither trip nor direction; -1 for none.
    is_guessed : ndarray of uint8, shape (n,)
        1 if patterns are seeded and none of them is known to be that of the vehicle's trip.
    run_key : ndarray of uint64, shape (n,)
        Number of the run of the trip: a hash of trip, start date and start time; 0 for no trip and no start.
    prev_progress_m : ndarray of float64, shape (n,)
        Metres along the pattern at the last fix of the same vehicle, run and pattern; NaN if there is none.
    prev_time_us : ndarray of int64, shape (n,)
        Time of that fix; 0 without one.
    prev_strikes : ndarray of uint8, shape (n,)
        ``strikes`` at that fix; 0 without one.
    prev_stop : ndarray of int32, shape (n,)
        Index of the next stop then, modulo 65536; -1 without one.
    prev_since_us : ndarray of int64, shape (n,)
        Time of the fix at which that stop had become the next one; 0 without one.
    prev_speed_mps : ndarray of float32, shape (n,)
        Smoothed speed then; NaN without one.
    prev_fallback_m : ndarray of float32, shape (n,)
        ``fallback_m`` then; NaN without one.
    first_stop : ndarray of int32, shape (n,)
        Index of the next stop in the pattern; the number of stops when the trip is finished, -1 without one.
    progress_m : ndarray of float64, shape (n,)
        Metres along the pattern's line; NaN for rows that were not OK.
    strikes : ndarray of uint8, shape (n,)
        Low four bits: fixes in a row that look like a new begin; high four bits: fixes that confirmed the vehicle on
        its trip. Both stop at 15.
    fallback_m : ndarray of float32, shape (n,)
        Metres along the line of the earlier place that the last strike saw; NaN without strikes.
    stop_hint : ndarray of uint8, shape (n,)
        What became of the stop that the vehicle names: `etacore.status.StopHint`.
    since_us : ndarray of int64, shape (n,)
        Time of the fix at which the next stop became the next one, microseconds.
    recent_speed_mps : ndarray of float32, shape (n,)
        Smoothed speed: the feature of that name. NaN until there are two fixes of different times, and for rows that
        are neither ``OK`` nor ``TRIP_FINISHED``.
    since_s : ndarray of float64, shape (n,)
        Seconds since ``since_us``: the feature ``since_last_stop_s``. NaN where ``recent_speed_mps`` is.
    part_ix : ndarray of int32, shape (n,)
        Which of the parts predicts the row; -1 for none.

    Raises
    ------
    ValueError
        If ``capacity`` is below 1.
    """

    def __cinit__(self, Py_ssize_t capacity):
        if not 1 <= capacity < MAX_CAPACITY:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.keys = ()
        self.parts = []
        self._made = []
        self._views = {}
        cdef dict a = {}
        cdef columns_t* c = &self.columns
        self._arrays = a
        c.status = <uint8_t*>place(a, "status", np.uint8, capacity)
        c.vehicle_id = <text_t*>place(a, "vehicle_id", TEXT_DTYPE, capacity)
        c.route_id = <text_t*>place(a, "route_id", TEXT_DTYPE, capacity)
        c.trip_id = <text_t*>place(a, "trip_id", TEXT_DTYPE, capacity)
        c.stop_id = <text_t*>place(a, "stop_id", TEXT_DTYPE, capacity)
        c.timestamp = <text_t*>place(a, "timestamp", TEXT_DTYPE, capacity)
        c.timestamp_is_number = <uint8_t*>place(a, "timestamp_is_number", np.uint8, capacity)
        c.direction_id = <int8_t*>place(a, "direction_id", np.int8, capacity)
        c.lat = <double*>place(a, "lat", np.float64, capacity)
        c.lon = <double*>place(a, "lon", np.float64, capacity)
        c.speed_mps = <float*>place(a, "speed_mps", np.float32, capacity)
        c.bearing_deg = <float*>place(a, "bearing_deg", np.float32, capacity)
        c.time_us = <int64_t*>place(a, "time_us", np.int64, capacity)
        c.stop_sequence = <int32_t*>place(a, "stop_sequence", np.int32, capacity)
        c.current_status = <int8_t*>place(a, "current_status", np.int8, capacity)
        c.start_date = <int32_t*>place(a, "start_date", np.int32, capacity)
        c.start_time_s = <int32_t*>place(a, "start_time_s", np.int32, capacity)
        c.vehicle_ix = <int32_t*>place(a, "vehicle_ix", np.int32, capacity)
        c.is_new = <uint8_t*>place(a, "is_new", np.uint8, capacity)
        c.pattern_ix = <int32_t*>place(a, "pattern_ix", np.int32, capacity)
        c.other_pattern_ix = <int32_t*>place(a, "other_pattern_ix", np.int32, capacity)
        c.is_guessed = <uint8_t*>place(a, "is_guessed", np.uint8, capacity)
        c.run_key = <uint64_t*>place(a, "run_key", np.uint64, capacity)
        c.prev_progress_m = <double*>place(a, "prev_progress_m", np.float64, capacity)
        c.prev_time_us = <int64_t*>place(a, "prev_time_us", np.int64, capacity)
        c.prev_strikes = <uint8_t*>place(a, "prev_strikes", np.uint8, capacity)
        c.prev_stop = <int32_t*>place(a, "prev_stop", np.int32, capacity)
        c.prev_since_us = <int64_t*>place(a, "prev_since_us", np.int64, capacity)
        c.prev_speed_mps = <float*>place(a, "prev_speed_mps", np.float32, capacity)
        c.prev_fallback_m = <float*>place(a, "prev_fallback_m", np.float32, capacity)
        c.first_stop = <int32_t*>place(a, "first_stop", np.int32, capacity)
        c.progress_m = <double*>place(a, "progress_m", np.float64, capacity)
        c.strikes = <uint8_t*>place(a, "strikes", np.uint8, capacity)
        c.fallback_m = <float*>place(a, "fallback_m", np.float32, capacity)
        c.stop_hint = <uint8_t*>place(a, "stop_hint", np.uint8, capacity)
        c.since_us = <int64_t*>place(a, "since_us", np.int64, capacity)
        c.recent_speed_mps = <float*>place(a, "recent_speed_mps", np.float32, capacity)
        c.since_s = <double*>place(a, "since_s", np.float64, capacity)
        c.part_ix = <int32_t*>place(a, "part_ix", np.int32, capacity)
        a["other_pattern_ix"].fill(-1)
        a["start_time_s"].fill(-1)
        self.text = np.empty(256 * min(capacity, 16), np.uint8)

    def __getattr__(self, str name):
        return first_rows(self._arrays, self._views, name, self.n_rows, "batch")

    @property
    def n(self):
        return self.n_rows

    @n.setter
    def n(self, Py_ssize_t n):
        self.resize(n)

    cdef int resize(self, Py_ssize_t n) except -1:
        if not 0 <= n <= self.capacity:
            raise ValueError(f"{n} rows do not fit into a batch for {self.capacity}")
        if n != self.n_rows:
            self.n_rows = n
            self._views.clear()
        return 0

    @property
    def text(self):
        return self._text

    @text.setter
    def text(self, cnp.ndarray text not None):
        if (
            cnp.PyArray_NDIM(text) != 1 or cnp.PyArray_TYPE(text) != cnp.NPY_UINT8
            or not cnp.PyArray_CHKFLAGS(text, cnp.NPY_ARRAY_C_CONTIGUOUS)
        ):
            raise ValueError("the arena of a batch has to be a contiguous array of uint8")
        self._text = text
        self._owns_text = cnp.PyArray_CHKFLAGS(text, cnp.NPY_ARRAY_WRITEABLE)   # that of a pool is not ours to write in
        self.columns.text = <uint8_t*>cnp.PyArray_DATA(text)
        self.columns.n_text = cnp.PyArray_SIZE(text)

    cdef int reserve_text(self, int64_t n_bytes) except -1:
        if self.columns.n_text < n_bytes or not self._owns_text:
            self.text = np.empty(n_bytes + n_bytes // 2 + 1, np.uint8)
        return 0

    def start(self, int64_t now_us, keys=()):
        """Begin anew, at the time `now_us`.

        `Engine.parse` does this and fills the columns from JSON. Who has the columns already calls it, then
        `fill_snapshots`, then `Engine.advance`.

        Raises
        ------
        TypeError
            If a key is not bytes.
        """
        cdef tuple held = tuple(keys)
        for key in held:
            if not PyBytes_CheckExact(key):
                raise TypeError(f"a Redis key must be bytes, not {type(key).__name__}")
        self.keys = held
        self.now_us = now_us
        self.parts.clear()

    def add_part(self, model):
        """Add a part for a model; its memory is this batch's own, so it can be sent while the next one is computed.

        Returns
        -------
        Part
        """
        cdef Part part
        cdef Py_ssize_t ix = len(self.parts)
        if ix == len(self._made):
            self._made.append(Part())
        part = self._made[ix]
        part.model, part.ix = model, <int32_t>ix
        self.parts.append(part)
        return part

    def counts(self):
        """Rows by status, only those that occur.

        Returns
        -------
        dict of Status to int
        """
        cdef Py_ssize_t[256] found
        cdef Py_ssize_t i
        cdef dict counted = {}
        for i in range(256):
            found[i] = 0
        for i in range(self.n_rows):
            found[self.columns.status[i]] += 1
        for i in range(<Py_ssize_t>N_STATUS):
            if found[i]:
                counted[STATUSES[i]] = found[i]
        return counted

    def remarks(self):
        """What was odd about rows that are OK or at the end of their trip, only what occurs.

        Returns
        -------
        dict of Remark to int
        """
        cdef Py_ssize_t i
        cdef Py_ssize_t n_unknown = 0, n_contradicted = 0, n_guessed = 0
        cdef const columns_t* columns = &self.columns
        for i in range(self.n_rows):
            if columns.status[i] == OK or columns.status[i] == TRIP_FINISHED:
                n_unknown += columns.stop_hint[i] == HINT_UNKNOWN
                n_contradicted += columns.stop_hint[i] == HINT_CONTRADICTED
                n_guessed += columns.is_guessed[i]
        found = (
            (Remark.STOP_HINT_UNKNOWN, n_unknown),
            (Remark.STOP_HINT_CONTRADICTED, n_contradicted),
            (Remark.PATTERN_GUESSED, n_guessed),
        )
        return {remark: n for remark, n in found if n}

    def text_keys(self, str column):
        """Numbers of the texts of a column, so that two rows can be compared by a number.

        Parameters
        ----------
        column : str
            A text column, such as ``trip_id``.

        Returns
        -------
        ndarray of uint64, shape (n,)
            0 where there is no text, never 0 otherwise. The numbers are those of this process only.

        Raises
        ------
        ValueError
            If a text lies outside the arena.
        """
        cdef const text_t* texts = self.texts_of(column)
        cdef cnp.ndarray keys = np.empty(self.n_rows, np.uint64)
        cdef uint64_t* out = <uint64_t*>cnp.PyArray_DATA(keys)
        cdef Py_ssize_t row, bad = -1
        with nogil:
            for row in range(self.n_rows):
                if texts[row].length <= 0:
                    out[row] = 0
                    continue
                if not inside(texts[row], self.columns.n_text):
                    bad = row
                    break
                out[row] = hash_text(<const char*>self.columns.text + texts[row].start, texts[row].length)
                if out[row] == 0:
                    out[row] = 1
        if bad >= 0:
            raise ValueError(f"the text of row {bad} lies outside the arena")
        return keys

    def texts(self, str column, const int64_t[::1] rows not None, bytes prefix not None=b""):
        """Texts of some rows in UTF-8, each behind ``prefix``; for Redis keys.

        Parameters
        ----------
        column : str
            Name of one of the text columns.
        rows : ndarray of int64, shape (m,)
            Rows of the batch.
        prefix : bytes, optional
            Start of every text.

        Returns
        -------
        list of bytes, length m

        Raises
        ------
        IndexError
            If the batch has no such row.
        ValueError
            If a text lies outside the arena.
        """
        cdef const text_t* texts = self.texts_of(column)
        cdef Py_ssize_t i, n_prefix = len(prefix)
        cdef text_t text
        cdef bytes item
        cdef char* to
        cdef list items = []
        for i in range(rows.shape[0]):
            text = self.text_of(texts, rows[i])
            item = PyBytes_FromStringAndSize(NULL, n_prefix + text.length)
            to = PyBytes_AS_STRING(item)
            memcpy(to, PyBytes_AS_STRING(prefix), n_prefix)
            memcpy(to + n_prefix, self.columns.text + text.start, text.length)
            items.append(item)
        return items

    def text_at(self, str column, Py_ssize_t row):
        """A text as ``str``; empty if the row has none. Errors as for `texts`."""
        cdef text_t text = self.text_of(self.texts_of(column), row)
        return PyBytes_FromStringAndSize(<const char*>self.columns.text + text.start, text.length).decode()

    cdef text_t text_of(self, const text_t* texts, int64_t row) except *:
        if not 0 <= row < self.n_rows:
            raise IndexError(f"row {row} of a batch of {self.n_rows}")
        if not inside(texts[row], self.columns.n_text):
            raise ValueError(f"the text of row {row} lies outside the arena")
        return texts[row]

    cdef const text_t* texts_of(self, str column) except NULL:
        array = self._arrays.get(column)
        if array is None or array.dtype != TEXT_DTYPE:
            raise AttributeError(f"a batch has no texts {column!r}")
        return <const text_t*>cnp.PyArray_DATA(array)
