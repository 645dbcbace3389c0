"""What is known about trips, routes and patterns by name, and which pattern a row follows."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from etacore._index cimport StringIndex
from etacore._routes cimport PatternTable, pattern_at, pattern_t
from etacore._types cimport NO_STOP, OK, UNKNOWN_ROUTE, text_t

cdef enum:
    MAX_NAME = 1024          # of a route with its direction; longer ones have no direction of their own

# Where a pattern comes from: a route, a route with a direction, or a pattern id.
cdef struct source_t:
    int64_t used_us
    int64_t checked_us
    int32_t pattern_ix       # NO_STOP: Redis has none
    uint32_t asked           # the call of `missing` that asked for it
    bint known

cdef struct trip_t:
    int64_t used_us
    int64_t checked_us
    int32_t source           # NO_STOP: Redis names no pattern
    uint32_t asked
    bint known


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
    """Trips and sources of patterns. Absence is knowledge too, until it is due to be looked at again."""

    cdef StringIndex trip_names, route_names, pattern_names
    cdef trip_t* trips
    cdef source_t* sources
    cdef readonly int32_t n_trips, n_sources
    cdef int32_t trip_capacity, source_capacity
    cdef uint32_t call
    cdef public int64_t clock_us

    def __cinit__(self):
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

    cdef int32_t _add_source(self, StringIndex names, const char* name, int32_t length) except -2:
        # Slot of a source, a new one if the name is new.
        cdef int32_t slot = names.find(name, length)
        cdef source_t* moved
        if slot >= 0:
            return slot
        if self.n_sources == self.source_capacity:
            moved = <source_t*>PyMem_RawRealloc(
                self.sources, <size_t>(2 * self.source_capacity + 64) * sizeof(source_t))
            if moved == NULL:
                raise MemoryError()
            self.sources = moved
            self.source_capacity = 2 * self.source_capacity + 64
        slot = self.n_sources
        names.put(name, length, slot)
        self.sources[slot] = source_t(self.clock_us, self.clock_us, NO_STOP, 0, False)
        self.n_sources += 1
        return slot

    cdef int32_t _add_trip(self, const char* name, int32_t length) except -2:
        cdef int32_t slot = self.trip_names.find(name, length)
        cdef trip_t* moved
        if slot >= 0:
            return slot
        if self.n_trips == self.trip_capacity:
            moved = <trip_t*>PyMem_RawRealloc(self.trips, <size_t>(2 * self.trip_capacity + 64) * sizeof(trip_t))
            if moved == NULL:
                raise MemoryError()
            self.trips = moved
            self.trip_capacity = 2 * self.trip_capacity + 64
        slot = self.n_trips
        self.trip_names.put(name, length, slot)
        self.trips[slot] = trip_t(self.clock_us, self.clock_us, NO_STOP, 0, False)
        self.n_trips += 1
        return slot

    def learn_source(self, bytes name not None, bint is_pattern, int32_t pattern_ix):
        """Remember what a source holds now (-1: nothing). Returns the pattern number it held before."""
        cdef int32_t slot = self._add_source(
            self.pattern_names if is_pattern else self.route_names,
            PyBytes_AS_STRING(name), <int32_t>PyBytes_GET_SIZE(name))
        cdef int32_t before = self.sources[slot].pattern_ix
        self.sources[slot].pattern_ix = pattern_ix
        self.sources[slot].checked_us = self.clock_us
        self.sources[slot].known = True
        return before

    def learn_trip(self, bytes name not None, pattern_id):
        """Remember a trip's pattern id (bytes, or None). Returns whether that pattern has still to be looked up."""
        cdef int32_t slot = self._add_trip(PyBytes_AS_STRING(name), <int32_t>PyBytes_GET_SIZE(name))
        cdef int32_t source = NO_STOP
        if pattern_id is not None:
            source = self._add_source(
                self.pattern_names, PyBytes_AS_STRING(pattern_id), <int32_t>PyBytes_GET_SIZE(pattern_id))
        self.trips[slot].source = source
        self.trips[slot].checked_us = self.clock_us
        self.trips[slot].known = True
        return source >= 0 and not self.sources[source].known

    def pattern_of(self, bytes name not None, bint is_pattern):
        """Pattern number of a source by name; -1 if it has none or is unknown."""
        cdef StringIndex names = self.pattern_names if is_pattern else self.route_names
        cdef int32_t slot = names.find(
            PyBytes_AS_STRING(name), <int32_t>PyBytes_GET_SIZE(name))
        return NO_STOP if slot < 0 else self.sources[slot].pattern_ix

    def missing(
        self, const uint8_t[::1] arena not None, const uint8_t[::1] status not None, text_t[::1] route_id not None,
        text_t[::1] trip_id not None, const int8_t[::1] direction_id not None, int32_t n,
    ):
        """Names that the OK rows need and of which nothing is known: (trips, routes, patterns), lists of bytes."""
        cdef int32_t i, k, slot, source, length
        cdef const char* text
        cdef const char* route
        cdef const char* asked_name
        cdef char name[MAX_NAME]
        cdef list trips = [], routes = [], patterns = []
        _check(n, status, route_id, trip_id, direction_id)
        if n == 0 or arena.shape[0] == 0:
            return trips, routes, patterns
        text = <const char*>&arena[0]
        self.call += 1
        for i in range(n):
            if status[i] != OK:
                continue
            if trip_id[i].length > 0:
                slot = self._add_trip(text + trip_id[i].start, trip_id[i].length)
                if not self.trips[slot].known:
                    if self.trips[slot].asked != self.call:
                        self.trips[slot].asked = self.call
                        trips.append(PyBytes_FromStringAndSize(text + trip_id[i].start, trip_id[i].length))
                else:
                    source = self.trips[slot].source
                    if source >= 0:
                        if self.sources[source].pattern_ix >= 0:
                            continue
                        if not self.sources[source].known and self.sources[source].asked != self.call:
                            self.sources[source].asked = self.call
                            patterns.append(self._pattern_id(source))
            # The route as well, in the same round: the trip may turn out to have no pattern.
            route = text + route_id[i].start
            for k in range(2):
                if k == 0:
                    length = _with_direction(name, route, route_id[i].length, direction_id[i])
                    asked_name = name
                else:
                    length = route_id[i].length
                    asked_name = route
                if length == 0:
                    continue
                slot = self._add_source(self.route_names, asked_name, length)
                if not self.sources[slot].known and self.sources[slot].asked != self.call:
                    self.sources[slot].asked = self.call
                    routes.append(PyBytes_FromStringAndSize(asked_name, length))
                if self.sources[slot].pattern_ix >= 0:
                    break
        return trips, routes, patterns

    cdef bytes _pattern_id(self, int32_t source):
        # Rare: only when the second round of a look-up failed.
        cdef int32_t i, length = 0
        cdef const char* name
        for i in range(self.pattern_names.n):
            if self.pattern_names.entries[i].value == source:
                name = self.pattern_names.key(i, &length)
                return PyBytes_FromStringAndSize(name, length)
        return b""

    def resolve(
        self, PatternTable table not None, const uint8_t[::1] arena not None, uint8_t[::1] status not None,
        text_t[::1] route_id not None, text_t[::1] trip_id not None, const int8_t[::1] direction_id not None,
        int32_t[::1] pattern_ix not None,
    ):
        """Pattern number of every OK row; the others, and those without one, get -1 and a status."""
        cdef int32_t i, n = <int32_t>pattern_ix.shape[0]
        cdef const char* text
        cdef pattern_t* pattern
        _check(n, status, route_id, trip_id, direction_id)
        if n == 0:
            return
        text = <const char*>&arena[0] if arena.shape[0] else NULL
        with nogil:
            for i in range(n):
                pattern_ix[i] = NO_STOP
                if status[i] != OK:
                    continue
                pattern_ix[i] = self._find(text, trip_id[i], route_id[i], direction_id[i])
                pattern = pattern_at(table, pattern_ix[i])
                if pattern == NULL:
                    status[i] = UNKNOWN_ROUTE
                elif pattern.status != OK:
                    status[i] = pattern.status
                if status[i] != OK:
                    pattern_ix[i] = NO_STOP

    cdef int32_t _find(self, const char* text, text_t trip, text_t route, int8_t direction) noexcept nogil:
        cdef char name[MAX_NAME]
        cdef int32_t slot, length
        if trip.length > 0:
            slot = self.trip_names.find(text + trip.start, trip.length)
            if slot >= 0:
                self.trips[slot].used_us = self.clock_us
                slot = self._use(self.trips[slot].source)
                if slot >= 0:
                    return slot
        length = _with_direction(name, text + route.start, route.length, direction)
        if length > 0:
            slot = self._use(self.route_names.find(name, length))
            if slot >= 0:
                return slot
        if route.length <= 0:
            return NO_STOP
        return self._use(self.route_names.find(text + route.start, route.length))

    cdef inline int32_t _use(self, int32_t source) noexcept nogil:
        if source < 0:
            return NO_STOP
        self.sources[source].used_us = self.clock_us
        return self.sources[source].pattern_ix

    def due(self, int64_t refresh_us, int64_t trip_refresh_us, Py_ssize_t limit):
        """Names used since they were last looked at, and that not lately: (trips, routes, patterns), lists of bytes.

        At most `limit` names, those that have waited longest.
        """
        cdef int64_t before_us = self.clock_us - refresh_us
        cdef int32_t i, length = 0
        cdef int kind
        cdef const char* name
        cdef source_t* source
        cdef trip_t* trip
        cdef list found = []
        cdef StringIndex index
        for kind in range(1, 3):
            index = self.route_names if kind == 1 else self.pattern_names
            for i in range(index.n):
                source = &self.sources[index.entries[i].value]
                if source.known and source.checked_us <= before_us and source.used_us >= source.checked_us:
                    found.append((source.checked_us, kind, i))
        before_us = self.clock_us - trip_refresh_us
        for i in range(self.trip_names.n):
            trip = &self.trips[self.trip_names.entries[i].value]
            if trip.known and trip.checked_us <= before_us and trip.used_us >= trip.checked_us:
                found.append((trip.checked_us, 0, i))
        if len(found) > limit:
            found.sort()
            del found[limit:]
        names = ([], [], [])
        for _, kind, i in found:
            index = self.trip_names if kind == 0 else self.route_names if kind == 1 else self.pattern_names
            name = index.key(i, &length)
            names[kind].append(PyBytes_FromStringAndSize(name, length))
        return names

    def forget(self, int64_t before_us):
        """Drop what was not used since `before_us`; returns the numbers of the patterns that nobody needs now."""
        cdef int32_t i, slot, n_sources = 0, n_trips = 0, length = 0
        cdef const char* name
        cdef StringIndex index
        cdef int32_t[::1] moved = np.full(self.n_sources + 1, NO_STOP, np.int32)
        cdef list dropped = []
        # What a trip in use points to is in use.
        for i in range(self.n_trips):
            if self.trips[i].used_us >= before_us and self.trips[i].source >= 0:
                if self.sources[self.trips[i].source].used_us < before_us:
                    self.sources[self.trips[i].source].used_us = before_us
        for i in range(self.n_sources):
            if self.sources[i].used_us >= before_us:
                moved[i] = n_sources
                self.sources[n_sources] = self.sources[i]
                n_sources += 1
            elif self.sources[i].pattern_ix >= 0:
                dropped.append(self.sources[i].pattern_ix)
        self.route_names = _renumbered(self.route_names, moved)
        self.pattern_names = _renumbered(self.pattern_names, moved)
        index = StringIndex()
        for i in range(self.trip_names.n):
            slot = self.trip_names.entries[i].value
            if self.trips[slot].used_us < before_us:
                continue
            # Slots ascend with the entries, so a trip never moves onto one that is still to be read.
            name = self.trip_names.key(i, &length)
            index.put(name, length, n_trips)
            self.trips[n_trips] = self.trips[slot]
            if self.trips[n_trips].source >= 0:
                self.trips[n_trips].source = moved[self.trips[n_trips].source]
            n_trips += 1
        self.trip_names = index
        self.n_trips = n_trips
        self.n_sources = n_sources
        return dropped


cdef StringIndex _renumbered(StringIndex names, const int32_t[::1] moved):
    # The names whose slot is still there, with their new slots.
    cdef StringIndex kept = StringIndex()
    cdef int32_t i, length = 0
    cdef const char* name
    for i in range(names.n):
        if moved[names.entries[i].value] >= 0:
            name = names.key(i, &length)
            kept.put(name, length, moved[names.entries[i].value])
    return kept


cdef int _check(
    int32_t n, const uint8_t[::1] status, text_t[::1] route_id, text_t[::1] trip_id, const int8_t[::1] direction_id,
) except -1:
    if n < 0 or status.shape[0] < n or route_id.shape[0] < n or trip_id.shape[0] < n or direction_id.shape[0] < n:
        raise ValueError("the columns are shorter than the batch")
    return 0
