"""What is known about trips, routes and patterns by name, and which pattern a row follows."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport INT64_MAX, int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.index cimport StringIndex, hash_text
from etacore._kernels.routes cimport PatternTable, pattern_at, pattern_t
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport NO_STOP, OK, UNKNOWN_ROUTE, text_t

cdef enum:
    MAX_NAME = 1024          # of a route with its direction; longer ones have no direction of their own
    MAX_NAMES = 1 << 30
    SLACK = 32               # what is due within this part of the refresh time is taken along

# Where a pattern comes from: a route, a route with a direction, or a pattern id.
cdef struct source_t:
    int64_t used_us
    int64_t checked_us
    int64_t due_us           # when to look at it again, if it is in use
    int32_t pattern_ix       # NO_STOP: Redis has none
    int32_t entry            # its name: this entry of `pattern_names` or `route_names`
    uint32_t asked           # the call of `missing` that asked for it
    bint is_pattern
    bint known
    bint in_use              # since it was looked at

# The trip in slot i has entry i of `trip_names` for its name.
cdef struct trip_t:
    int64_t used_us
    int64_t checked_us
    int64_t due_us
    int32_t source           # NO_STOP: Redis names no pattern
    uint32_t asked
    bint known
    bint in_use


cdef int32_t _with_direction(char* out, const char* route, int32_t length, int8_t direction) noexcept nogil:
    # "<route>:<direction>"; the length, 0 if there is no room or no direction.
    if direction < 0 or length > MAX_NAME - 4:
        return 0
    memcpy(out, route, <size_t>length)
    out[length] = c':'
    length += 1
    if direction >= 100:
        out[length] = c'1'
        length += 1
    if direction >= 10:
        out[length] = <char>(c'0' + direction // 10 % 10)
        length += 1
    out[length] = <char>(c'0' + direction % 10)
    return length + 1


cdef class NameTable:
    """Trips and sources of patterns. Absence is knowledge too, until it is due to be looked at again.

    Parameters
    ----------
    refresh_us, trip_refresh_us : int
        After this time a source or a trip in use is due.
    """

    cdef StringIndex trip_names, route_names, pattern_names
    cdef trip_t* trips
    cdef source_t* sources
    cdef readonly int32_t n_trips, n_sources
    cdef int32_t trip_capacity, source_capacity
    cdef uint32_t call
    cdef int32_t cursor              # where `due` goes on: sources first, then trips
    cdef int64_t idle_until_us       # nothing in use is due before
    cdef int64_t refresh_us, trip_refresh_us
    cdef int64_t _clock_us

    def __cinit__(self, int64_t refresh_us, int64_t trip_refresh_us):
        if refresh_us < 0 or trip_refresh_us < 0:
            raise ValueError("a refresh time cannot be negative")
        self.refresh_us = refresh_us
        self.trip_refresh_us = trip_refresh_us
        self.trip_names = StringIndex()
        self.route_names = StringIndex()
        self.pattern_names = StringIndex()

    def __dealloc__(self):
        PyMem_RawFree(self.trips)
        PyMem_RawFree(self.sources)

    @property
    def nbytes(self):
        """Bytes held."""
        return (self.trip_names.nbytes + self.route_names.nbytes + self.pattern_names.nbytes
                + self.trip_capacity * <int64_t>sizeof(trip_t) + self.source_capacity * <int64_t>sizeof(source_t))

    @property
    def clock_us(self):
        """Now, in microseconds since 1970 UTC."""
        return self._clock_us

    @clock_us.setter
    def clock_us(self, int64_t now_us):
        if now_us < self._clock_us:
            self.idle_until_us = now_us      # what was looked at in the future is due
        self._clock_us = now_us

    cdef int32_t _add_source(self, bint is_pattern, const char* name, int32_t length) except -2:
        # Slot of a source, a new one if the name is new.
        cdef StringIndex names = self.pattern_names if is_pattern else self.route_names
        cdef int32_t slot = names.find(name, length)
        cdef source_t* source
        if slot >= 0:
            return slot
        if self.n_sources == self.source_capacity:
            self.sources = <source_t*>_grown(self.sources, &self.source_capacity, sizeof(source_t))
        slot = self.n_sources
        source = &self.sources[slot]
        source.entry = names.put(name, length, slot)
        source.is_pattern = is_pattern
        source.used_us = source.checked_us = source.due_us = self._clock_us
        source.pattern_ix = NO_STOP
        source.asked = 0
        source.known = source.in_use = False
        self.n_sources += 1
        return slot

    cdef int32_t _add_trip(self, const char* name, int32_t length) except -2:
        cdef int32_t slot = self.trip_names.find(name, length)
        cdef trip_t* trip
        if slot >= 0:
            return slot
        if self.n_trips == self.trip_capacity:
            self.trips = <trip_t*>_grown(self.trips, &self.trip_capacity, sizeof(trip_t))
        slot = self.n_trips
        self.trip_names.put(name, length, slot)
        trip = &self.trips[slot]
        trip.used_us = trip.checked_us = trip.due_us = self._clock_us
        trip.source = NO_STOP
        trip.asked = 0
        trip.known = trip.in_use = False
        self.n_trips += 1
        return slot

    def learn_source(self, bytes name not None, bint is_pattern, int32_t pattern_ix):
        """Remember what a source holds now (-1: nothing). Returns the pattern number it held before."""
        cdef int32_t slot = self._add_source(is_pattern, PyBytes_AS_STRING(name), _name_length(name))
        cdef source_t* source = &self.sources[slot]
        cdef int32_t before = source.pattern_ix
        cdef StringIndex names = self.pattern_names if is_pattern else self.route_names
        source.pattern_ix = pattern_ix
        source.checked_us = self._clock_us
        source.due_us = _due_us(self._clock_us, self.refresh_us, source.known, names.entries[source.entry].hash)
        source.known = True
        source.in_use = False
        return before

    def learn_trip(self, bytes name not None, pattern_id):
        """Remember a trip's pattern id (bytes, or None). Returns whether that pattern has still to be looked up."""
        cdef int32_t slot = self._add_trip(PyBytes_AS_STRING(name), _name_length(name))
        cdef int32_t source = NO_STOP
        cdef trip_t* trip = &self.trips[slot]
        if pattern_id is not None:
            source = self._add_source(True, PyBytes_AS_STRING(pattern_id), _name_length(pattern_id))
        trip.source = source
        trip.checked_us = self._clock_us
        trip.due_us = _due_us(
            self._clock_us, self.trip_refresh_us, trip.known, self.trip_names.entries[slot].hash)
        trip.known = True
        trip.in_use = False
        return source >= 0 and not self.sources[source].known

    def knows(self, bytes name not None, bint is_pattern):
        """Whether a source has been looked at, if only to find nothing."""
        cdef StringIndex names = self.pattern_names if is_pattern else self.route_names
        cdef int32_t slot = names.find(PyBytes_AS_STRING(name), _name_length(name))
        return slot >= 0 and self.sources[slot].known

    def pattern_of(self, bytes name not None, bint is_pattern):
        """Pattern number of a source by name; -1 if it has none or is unknown."""
        cdef StringIndex names = self.pattern_names if is_pattern else self.route_names
        cdef int32_t slot = names.find(PyBytes_AS_STRING(name), _name_length(name))
        return NO_STOP if slot < 0 else self.sources[slot].pattern_ix

    def missing(self, Batch batch not None):
        """Names that the OK rows need and of which nothing is known.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``route_id``, ``trip_id``, ``direction_id``.

        Returns
        -------
        tuple of three lists of bytes
            Trips, routes, patterns.

        Raises
        ------
        ValueError
            If a text lies outside the arena.
        """
        cdef const columns_t* given = checked_names(batch)
        cdef int32_t n = <int32_t>batch.n_rows
        cdef int32_t i, k, slot, source, length
        cdef const char* text = <const char*>given.text
        cdef const char* route
        cdef const char* asked_name
        cdef char name[MAX_NAME]
        cdef text_t trip
        cdef list trips = [], routes = [], patterns = []
        self.call += 1
        for i in range(n):
            if given.status[i] != OK:
                continue
            trip = given.trip_id[i]
            if trip.length > 0:
                slot = self._add_trip(text + trip.start, trip.length)
                if not self.trips[slot].known:
                    if self.trips[slot].asked != self.call:
                        self.trips[slot].asked = self.call
                        trips.append(PyBytes_FromStringAndSize(text + trip.start, trip.length))
                else:
                    source = self.trips[slot].source
                    if source >= 0:
                        if self.sources[source].pattern_ix >= 0:
                            continue
                        if not self.sources[source].known and self.sources[source].asked != self.call:
                            self.sources[source].asked = self.call
                            patterns.append(_key(self.pattern_names, self.sources[source].entry))
            if given.route_id[i].length <= 0:
                continue
            # The route as well, in the same round: the trip may turn out to have no pattern.
            route = text + given.route_id[i].start
            for k in range(2):
                if k == 0:
                    length = _with_direction(name, route, given.route_id[i].length, given.direction_id[i])
                    asked_name = name
                else:
                    length = given.route_id[i].length
                    asked_name = route
                if length == 0:
                    continue
                slot = self._add_source(False, asked_name, length)
                if not self.sources[slot].known and self.sources[slot].asked != self.call:
                    self.sources[slot].asked = self.call
                    routes.append(PyBytes_FromStringAndSize(asked_name, length))
                if self.sources[slot].pattern_ix >= 0:
                    break
        return trips, routes, patterns

    def resolve(self, Batch batch not None, PatternTable table not None, bint only_if_known=False):
        """Give every row the number of its pattern.

        Parameters
        ----------
        batch : Batch
            IN: ``route_id``, ``trip_id``, ``direction_id``. OUT: ``pattern_ix`` (-1 for rows that are not OK
            afterwards), ``run_key`` (0 for rows that were not OK). ``status`` of OK rows becomes ``UNKNOWN_ROUTE``
            where nothing is known, or what is wrong with the pattern's stops.
        table : PatternTable
            Whose patterns the numbers are.
        only_if_known : bool, optional
            Give up, and leave `status` alone, when there is a name for `missing` to ask for.

        Returns
        -------
        bool
            Whether it was done.

        Raises
        ------
        ValueError
            If a text lies outside the arena.
        """
        cdef const columns_t* given = checked_names(batch)
        cdef Py_ssize_t i, n = batch.n_rows
        cdef uint8_t* statuses = batch.columns.status
        cdef int32_t* found = batch.columns.pattern_ix
        cdef uint64_t* keys = batch.columns.run_key
        cdef uint64_t code
        cdef pattern_t* pattern
        cdef bint known = True
        with nogil:
            for i in range(n):
                found[i] = NO_STOP
                code = 0
                if given.status[i] == OK:
                    if given.trip_id[i].length > 0:
                        code = hash_text(<const char*>given.text + given.trip_id[i].start, given.trip_id[i].length)
                    found[i] = self._find(given, i, code, &known)
                    if only_if_known and not known:
                        break
                    if given.trip_id[i].length > 0 and code == 0:
                        code = 1
                keys[i] = code
        if only_if_known and not known:
            return False
        with nogil:
            for i in range(n):
                if given.status[i] != OK:
                    continue
                pattern = pattern_at(table, found[i])
                if pattern == NULL:
                    statuses[i] = UNKNOWN_ROUTE
                elif pattern.status != OK:
                    statuses[i] = pattern.status
                if statuses[i] != OK:
                    found[i] = NO_STOP
        return True

    cdef int32_t _find(self, const columns_t* given, Py_ssize_t i, uint64_t trip_code, bint* known) noexcept nogil:
        # Pattern number of a row, NO_STOP without one; `known` becomes False where `missing` would have to ask.
        cdef char name[MAX_NAME]
        cdef text_t trip = given.trip_id[i]
        cdef text_t route = given.route_id[i]
        cdef const char* text = <const char*>given.text
        cdef int32_t slot, length
        if trip.length > 0:
            slot = self.trip_names.find_entry(trip_code, text + trip.start, trip.length)
            if slot < 0:
                known[0] = False
            else:
                slot = self.trip_names.entries[slot].value
                known[0] = known[0] and self.trips[slot].known
                self._use_trip(&self.trips[slot])
                slot = self._use(self.trips[slot].source, known)
                if slot >= 0:
                    return slot
        if route.length <= 0:
            return NO_STOP
        length = _with_direction(name, text + route.start, route.length, given.direction_id[i])
        if length > 0:
            slot = self._use_named(name, length, known)
            if slot >= 0:
                return slot
        return self._use_named(text + route.start, route.length, known)

    cdef inline int32_t _use_named(self, const char* name, int32_t length, bint* known) noexcept nogil:
        cdef int32_t slot = self.route_names.find(name, length)
        if slot < 0:
            known[0] = False
        return self._use(slot, known)

    cdef inline void _use_trip(self, trip_t* trip) noexcept nogil:
        trip.used_us = self._clock_us
        if trip.known and not trip.in_use:
            trip.in_use = True
            self.idle_until_us = min(self.idle_until_us, trip.due_us)

    cdef inline int32_t _use(self, int32_t slot, bint* known) noexcept nogil:
        cdef source_t* source
        if slot < 0:
            return NO_STOP
        source = &self.sources[slot]
        known[0] = known[0] and source.known
        source.used_us = self._clock_us
        if source.known and not source.in_use:
            source.in_use = True
            self.idle_until_us = min(self.idle_until_us, source.due_us)
        return source.pattern_ix

    def due(self, Py_ssize_t limit):
        """Names used since they were last looked at, and that not lately: (trips, routes, patterns), lists of bytes.

        At most `limit` names; the next call goes on where this one stopped, so every name gets its turn.
        """
        # A pass over all slots that finds nothing says when the next one is worth while, and until then a call costs
        # nothing. That moment must not be the next microsecond: a pass takes along what is due a little later.
        cdef int64_t now_us = self._clock_us
        cdef int64_t soonest_us = INT64_MAX
        cdef int64_t slack_us = min(self.refresh_us, self.trip_refresh_us) // SLACK
        cdef int64_t checked_us, due_us
        cdef int32_t n = self.n_sources + self.n_trips
        cdef int32_t left, slot
        cdef source_t* source
        cdef trip_t* trip
        cdef list trips = [], routes = [], patterns = []
        if now_us < self.idle_until_us:
            return trips, routes, patterns
        for left in range(n, 0, -1):
            if limit <= 0:
                break
            if self.cursor >= n:
                self.cursor = 0
            slot = self.cursor
            self.cursor += 1
            if slot < self.n_sources:
                source = &self.sources[slot]
                if not source.known or not source.in_use:
                    continue
                due_us, checked_us = source.due_us, source.checked_us
            else:
                slot -= self.n_sources
                source = NULL
                trip = &self.trips[slot]
                if not trip.known or not trip.in_use:
                    continue
                due_us, checked_us = trip.due_us, trip.checked_us
            # A clock that was set back must not make a name wait until it has caught up.
            if due_us - slack_us > now_us and checked_us <= now_us:
                soonest_us = min(soonest_us, due_us)
                continue
            limit -= 1
            if source == NULL:
                trips.append(_key(self.trip_names, slot))
            elif source.is_pattern:
                patterns.append(_key(self.pattern_names, source.entry))
            else:
                routes.append(_key(self.route_names, source.entry))
        if not (trips or routes or patterns) and limit > 0:
            self.idle_until_us = soonest_us
        return trips, routes, patterns

    def forget(self, int64_t before_us, int32_t max_names):
        """Drop what was not used since `before_us`, and of more than `max_names` trips or sources the longest unused.

        Returns the numbers of the patterns that nobody needs now.
        """
        cdef int32_t i, slot, n = 0
        cdef int64_t limit_us
        cdef StringIndex names
        cdef source_t* source
        cdef int64_t[::1] used_us = np.empty(self.n_trips + 1, np.int64)
        cdef uint8_t[::1] keep
        cdef int32_t[::1] moved = np.full(self.n_sources + 1, NO_STOP, np.int32)
        cdef list dropped = []

        for i in range(self.n_trips):
            # After a clock was set back nothing was used in the future.
            self.trips[i].used_us = min(self.trips[i].used_us, self._clock_us)
            used_us[i] = self.trips[i].used_us
        keep = _newest(np.asarray(used_us[:self.n_trips]), before_us, max_names)
        for i in range(self.n_trips):
            # What a trip in use points to is in use.
            if keep[i] and self.trips[i].source >= 0:
                source = &self.sources[self.trips[i].source]
                source.used_us = max(source.used_us, self.trips[i].used_us)
            if keep[i]:
                self.trips[n] = self.trips[i]
                n += 1
        self.trip_names.retain_entries(&keep[0])
        for i in range(n):
            self.trip_names.entries[i].value = i
        self.n_trips = n
        self.trips = <trip_t*>_shrunk(self.trips, &self.trip_capacity, n, sizeof(trip_t))

        used_us = np.empty(self.n_sources + 1, np.int64)
        for i in range(self.n_sources):
            self.sources[i].used_us = min(self.sources[i].used_us, self._clock_us)
            used_us[i] = self.sources[i].used_us
        keep = _newest(np.asarray(used_us[:self.n_sources]), before_us, max_names)
        n = 0
        for i in range(self.n_sources):
            if keep[i]:
                moved[i] = n
                self.sources[n] = self.sources[i]
                n += 1
            elif self.sources[i].pattern_ix >= 0:
                dropped.append(self.sources[i].pattern_ix)
        self.n_sources = n
        self.sources = <source_t*>_shrunk(self.sources, &self.source_capacity, n, sizeof(source_t))
        for names in (self.route_names, self.pattern_names):
            keep = np.zeros(names.n + 1, np.uint8)
            for i in range(names.n):
                keep[i] = moved[names.entries[i].value] >= 0
            names.retain_entries(&keep[0])
            for i in range(names.n):
                slot = moved[names.entries[i].value]
                names.entries[i].value = slot
                self.sources[slot].entry = i
        for i in range(self.n_trips):
            if self.trips[i].source >= 0:
                self.trips[i].source = moved[self.trips[i].source]
                if self.trips[i].source < 0:
                    self.trips[i].known = False
        return dropped


cdef uint8_t[::1] _newest(used_us, int64_t before_us, Py_ssize_t max_names):
    # Flags, and one more, of what was used since; of too many three quarters, so that it is long until the next time.
    cdef Py_ssize_t n = len(used_us)
    cdef Py_ssize_t n_old = n - max(max_names * 3 // 4, 1)
    keep = np.zeros(n + 1, np.uint8)
    keep[:n] = used_us >= before_us
    if n > max_names and np.count_nonzero(keep) > max_names:
        keep[np.argpartition(used_us, n_old)[:n_old]] = 0
    return keep


cdef inline int64_t _due_us(int64_t now_us, int64_t refresh_us, bint again, uint64_t code) noexcept nogil:
    # A whole fleet is learnt at once and must not come due at once: the first time comes earlier, by the hash.
    if again or refresh_us < 2:
        return now_us + refresh_us
    return now_us + refresh_us - <int64_t>(code % <uint64_t>(refresh_us // 2))


cdef bytes _key(StringIndex names, int32_t entry):
    cdef int32_t length = 0
    cdef const char* name = names.key(entry, &length)
    return PyBytes_FromStringAndSize(name, length)


cdef int32_t _name_length(name) except -1:
    if PyBytes_GET_SIZE(name) > 0x7FFFFFFF:
        raise ValueError("a name is limited to 2**31 - 1 bytes")
    return <int32_t>PyBytes_GET_SIZE(name)


cdef void* _grown(void* block, int32_t* capacity, size_t size) except NULL:
    cdef int64_t wanted = 2 * <int64_t>capacity[0] + 64
    cdef void* moved = NULL
    if wanted <= MAX_NAMES:
        moved = PyMem_RawRealloc(block, <size_t>wanted * size)
    if moved == NULL:
        raise MemoryError()
    capacity[0] = <int32_t>wanted
    return moved


cdef void* _shrunk(void* block, int32_t* capacity, int32_t n, size_t size) noexcept:
    # Mostly empty: given back. A block that cannot be made smaller serves all the same.
    cdef void* moved
    if capacity[0] <= 4 * <int64_t>n + 64:
        return block
    moved = PyMem_RawRealloc(block, <size_t>(2 * <int64_t>n + 64) * size)
    if moved == NULL:
        return block
    capacity[0] = 2 * n + 64
    return moved


cdef const columns_t* checked_names(Batch batch) except NULL:
    # The columns, once the names of OK rows are known to lie in the arena.
    cdef const columns_t* given = &batch.columns
    cdef Py_ssize_t i
    for i in range(batch.n_rows):
        if given.status[i] == OK and not (
            inside(given.route_id[i], given.n_text) and inside(given.trip_id[i], given.n_text)
        ):
            raise ValueError(f"the text of row {i} lies outside the arena")
    return given
