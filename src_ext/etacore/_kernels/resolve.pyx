"""What is known about trips, routes and patterns by name, and which pattern a row follows."""

import numpy as np

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport INT64_MAX, int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from etacore._kernels.batch cimport Batch, columns_t
from etacore._kernels.index cimport StringIndex, hash_text
from etacore._kernels.names cimport MAX_NAME, MAX_ROUTE, RUN_BYTE, direction_name, run_key, run_name
from etacore._kernels.routes cimport PatternTable, is_guess, pattern_at, pattern_t
from etacore._kernels.text cimport inside
from etacore._kernels.types cimport (
    GUESSED_PATTERN, NO_START_DATE, NO_START_TIME, NO_STOP, OK, UNKNOWN_ROUTE, text_t,
)

cdef enum:
    MAX_NAMES = 1 << 30
    SLACK = 32               # what is due within this part of the refresh time is taken along
    N_DIRECTIONS = 2         # GTFS knows 0 and 1

cdef enum source_kind_t:
    OF_ROUTE = 0
    OF_DIRECTION = 1
    OF_PATTERN = 2

ROUTE, DIRECTION, PATTERN = OF_ROUTE, OF_DIRECTION, OF_PATTERN

RUN_MARK = bytes([RUN_BYTE])

# Where a pattern comes from: a route, a direction of a route ("<direction>:<route>"), or a pattern id.
cdef struct source_t:
    int64_t used_us
    int64_t checked_us
    int64_t due_us           # when to look at it again, if it is in use
    int32_t pattern_ix       # NO_STOP: Redis has none
    int32_t entry            # its name: this entry of the names of its kind
    # Of a route: its directions' sources (NO_STOP until a vehicle needs them), which are looked at again with it; and,
    # while settled, the patterns of a vehicle that names no direction.
    int32_t directions[N_DIRECTIONS]
    int32_t candidate, other
    bint is_settled
    uint32_t asked           # the call of `missing` that asked for it
    uint8_t kind
    bint tells_route         # Redis' value, or its key, cannot be another route's
    bint known
    bint in_use              # since it was looked at

# The trip or run in slot i has entry i of `trip_names` for its name.
cdef struct trip_t:
    int64_t used_us
    int64_t checked_us
    int64_t due_us
    int32_t source           # NO_STOP: Redis names no pattern
    uint32_t asked
    bint known
    bint in_use


cdef inline bint _names_start(const columns_t* given, Py_ssize_t i) noexcept nogil:
    return given.start_date[i] != NO_START_DATE or given.start_time_s[i] != NO_START_TIME


cdef bint _has_start(const columns_t* given, Py_ssize_t n) noexcept nogil:
    # Whether any row names the start of its run. Most fleets never do, and must not pay for it row by row.
    cdef const int32_t* dates = given.start_date
    cdef const int32_t* times_s = given.start_time_s
    cdef int32_t differs = 0
    cdef Py_ssize_t i
    for i in range(n):
        differs |= (dates[i] ^ <int32_t>NO_START_DATE) | (times_s[i] ^ <int32_t>NO_START_TIME)
    return differs != 0


@cython.final
cdef class NameTable:
    """Trips and sources of patterns. Absence is knowledge too, until it is due to be looked at again.

    A source is a route, a direction of a route or a pattern, and has a kind: `ROUTE`, `DIRECTION` or `PATTERN`. A run
    without a trip id is a trip whose name is `RUN_MARK` and ``<direction or ->:<HH:MM:SS>:<route>``.

    Parameters
    ----------
    refresh_us, trip_refresh_us : int
        After this time a source or a trip in use is due.
    """

    cdef StringIndex trip_names, route_names, direction_names, pattern_names
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
        self.direction_names = StringIndex()
        self.pattern_names = StringIndex()

    def __dealloc__(self):
        PyMem_RawFree(self.trips)
        PyMem_RawFree(self.sources)

    @property
    def nbytes(self):
        """Bytes held."""
        return (self.trip_names.nbytes + self.route_names.nbytes + self.direction_names.nbytes
                + self.pattern_names.nbytes
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

    cdef StringIndex _names_of(self, int kind):
        if kind == OF_ROUTE:
            return self.route_names
        return self.direction_names if kind == OF_DIRECTION else self.pattern_names

    cdef int32_t _add_source(self, int kind, const char* name, int32_t length) except -2:
        # Slot of a source, a new one if the name is new.
        cdef StringIndex names = self._names_of(kind)
        cdef int32_t slot = names.find(name, length)
        cdef source_t* source
        if slot >= 0:
            return slot
        if self.n_sources == self.source_capacity:
            self.sources = <source_t*>_grown(self.sources, &self.source_capacity, sizeof(source_t))
        slot = self.n_sources
        source = &self.sources[slot]
        source.entry = names.put(name, length, slot)
        source.kind = <uint8_t>kind
        source.used_us = source.checked_us = source.due_us = self._clock_us
        source.pattern_ix = source.directions[0] = source.directions[1] = NO_STOP
        source.asked = 0
        source.tells_route = source.known = source.in_use = source.is_settled = False
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

    def learn_source(self, bytes name not None, int kind, int32_t pattern_ix, bint tells_route=True):
        """Remember what a source holds now (-1: nothing). Returns the pattern number it held before.

        `tells_route` goes with a new pattern: whether its key or its value says whose it is, so that it can stand for
        a vehicle that names no direction.
        """
        cdef int32_t slot = self._add_source(kind, PyBytes_AS_STRING(name), _name_length(name))
        cdef source_t* source = &self.sources[slot]
        cdef int32_t before = source.pattern_ix
        cdef Py_ssize_t begin
        if pattern_ix != before:
            source.tells_route = tells_route
        source.pattern_ix = pattern_ix
        source.checked_us = self._clock_us
        source.due_us = _due_us(
            self._clock_us, self.refresh_us, source.known, self._names_of(kind).entries[source.entry].hash)
        source.known = True
        source.in_use = source.is_settled = False
        if kind == OF_DIRECTION:
            begin = name.find(b":") + 1
            slot = self.route_names.find(PyBytes_AS_STRING(name) + begin, <int32_t>(PyBytes_GET_SIZE(name) - begin))
            if slot >= 0:
                self.sources[slot].is_settled = False
        return before

    def learn_trip(self, bytes name not None, pattern_id):
        """Remember a trip's pattern id (bytes, or None). Returns whether that pattern has still to be looked up."""
        cdef int32_t slot = self._add_trip(PyBytes_AS_STRING(name), _name_length(name))
        cdef int32_t source = NO_STOP
        cdef trip_t* trip = &self.trips[slot]
        if pattern_id is not None:
            source = self._add_source(OF_PATTERN, PyBytes_AS_STRING(pattern_id), _name_length(pattern_id))
        trip.source = source
        trip.checked_us = self._clock_us
        trip.due_us = _due_us(
            self._clock_us, self.trip_refresh_us, trip.known, self.trip_names.entries[slot].hash)
        trip.known = True
        trip.in_use = False
        return source >= 0 and not self.sources[source].known

    def knows(self, bytes name not None, int kind):
        """Whether a source has been looked at, if only to find nothing."""
        cdef int32_t slot = self._names_of(kind).find(PyBytes_AS_STRING(name), _name_length(name))
        return slot >= 0 and self.sources[slot].known

    def needs(self, bytes name not None, int kind):
        """Whether a vehicle has needed a source, looked at or not."""
        return self._names_of(kind).find(PyBytes_AS_STRING(name), _name_length(name)) >= 0

    def pattern_of(self, bytes name not None, int kind):
        """Pattern number of a source by name; -1 if it has none or is unknown."""
        cdef int32_t slot = self._names_of(kind).find(PyBytes_AS_STRING(name), _name_length(name))
        return NO_STOP if slot < 0 else self.sources[slot].pattern_ix

    def missing(self, Batch batch not None):
        """Names that the OK rows need and of which nothing is known.

        Parameters
        ----------
        batch : Batch
            IN: ``status``, ``route_id``, ``trip_id``, ``direction_id``, ``start_time_s``.

        Returns
        -------
        tuple of four lists of bytes
            Trips and runs, routes, directions, patterns.

        Raises
        ------
        ValueError
            If a text lies outside the arena.
        """
        cdef const columns_t* given = checked_names(batch)
        cdef Py_ssize_t i
        cdef int32_t slot, source, length
        cdef int direction
        cdef const char* text = <const char*>given.text
        cdef const char* route
        cdef char name[MAX_NAME]
        cdef text_t trip
        cdef tuple asked = ([], [], [], [])
        self.call += 1
        for i in range(batch.n_rows):
            if given.status[i] != OK:
                continue
            trip = given.trip_id[i]
            route = text + given.route_id[i].start
            length = given.route_id[i].length
            slot = NO_STOP
            if trip.length > 0:
                slot = self._add_trip(text + trip.start, trip.length)
            elif length > 0:
                length = run_name(name, route, length, given.direction_id[i], given.start_time_s[i])
                if length > 0:
                    slot = self._add_trip(name, length)
                length = given.route_id[i].length
            if slot >= 0:
                if not self.trips[slot].known:
                    if self.trips[slot].asked != self.call:
                        self.trips[slot].asked = self.call
                        (<list>asked[0]).append(_key(self.trip_names, slot))
                else:
                    source = self.trips[slot].source
                    if source >= 0:
                        if self.sources[source].pattern_ix >= 0:
                            continue
                        self._ask(source, asked)
            if length <= 0:
                continue
            # Direction and route as well, in the same round: the trip may turn out to have no pattern.
            if given.direction_id[i] >= 0:
                length = direction_name(name, route, length, given.direction_id[i])
                if length > 0:
                    slot = self._add_source(OF_DIRECTION, name, length)
                    self._ask(slot, asked)
                    if self.sources[slot].pattern_ix >= 0:
                        continue
                length = given.route_id[i].length
            slot = self._add_source(OF_ROUTE, route, length)
            self._ask(slot, asked)
            if given.direction_id[i] < 0 and length <= MAX_ROUTE:
                for direction in range(N_DIRECTIONS):
                    if self.sources[slot].directions[direction] < 0:
                        length = direction_name(name, route, given.route_id[i].length, <int8_t>direction)
                        source = self._add_source(OF_DIRECTION, name, length)
                        self.sources[slot].directions[direction] = source
                    self._ask(self.sources[slot].directions[direction], asked)
        return asked

    cdef int _ask(self, int32_t slot, tuple asked) except -1:
        # Put a source's name on the list of its kind, once a call, unless it is known.
        cdef source_t* source = &self.sources[slot]
        if not source.known and source.asked != self.call:
            source.asked = self.call
            (<list>asked[1 + source.kind]).append(_key(self._names_of(source.kind), source.entry))
        return 0

    def resolve(
        self, Batch batch not None, PatternTable table not None, bint only_if_known=False, bint reject_guessed=False,
    ):
        """Give every row the number of its pattern, and of its run.

        Parameters
        ----------
        batch : Batch
            IN: ``route_id``, ``trip_id``, ``direction_id``, ``start_date``, ``start_time_s``. OUT: ``pattern_ix`` (-1
            for rows that are not OK afterwards), ``other_pattern_ix`` (-1, but for rows without a trip of a known
            pattern and without a direction on a route of two: there ``pattern_ix`` is direction 0, this one direction
            1), ``is_guessed``, ``run_key`` (0 for rows that were not OK). ``status`` of OK rows becomes
            ``UNKNOWN_ROUTE`` where nothing is known, what is wrong with the pattern's stops, or ``GUESSED_PATTERN``.
        table : PatternTable
            Whose patterns the numbers are.
        only_if_known : bool, optional
            Give up, and leave `status` alone, when there is a name for `missing` to ask for.
        reject_guessed : bool, optional
            Set rows aside whose pattern is a guess.

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
            memset(batch.columns.other_pattern_ix, 0xFF, <size_t>n * sizeof(int32_t))
            memset(batch.columns.is_guessed, 0, <size_t>n)
            for i in range(n):
                found[i] = NO_STOP
                code = 0
                if statuses[i] == OK:
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
            if _has_start(given, n):
                for i in range(n):
                    if statuses[i] == OK and _names_start(given, i):
                        keys[i] = max(run_key(keys[i], given.start_date[i], given.start_time_s[i]), <uint64_t>1)
            for i in range(n):
                if statuses[i] != OK:
                    continue
                pattern = pattern_at(table, found[i])
                if pattern == NULL:
                    statuses[i] = UNKNOWN_ROUTE
                elif pattern.is_plain:
                    continue
                elif pattern.status != OK:
                    statuses[i] = pattern.status
                else:
                    _judge(&batch.columns, i, table, reject_guessed)
                if statuses[i] != OK:
                    found[i] = batch.columns.other_pattern_ix[i] = NO_STOP
        return True

    cdef int32_t _find(
        self, const columns_t* given, Py_ssize_t i, uint64_t trip_code, bint* known,
    ) noexcept nogil:
        # Pattern number of a row, NO_STOP without one; `known` becomes False where `missing` would have to ask.
        cdef char name[MAX_NAME]
        cdef text_t trip = given.trip_id[i]
        cdef text_t route = given.route_id[i]
        cdef const char* text = <const char*>given.text
        cdef int32_t slot, length
        if trip.length > 0:
            slot = self._of_trip(trip_code, text + trip.start, trip.length, known)
            if slot >= 0:
                return slot
        if route.length <= 0:
            return NO_STOP
        if trip.length <= 0 and given.start_time_s[i] != NO_START_TIME:
            length = run_name(name, text + route.start, route.length, given.direction_id[i], given.start_time_s[i])
            if length > 0:
                slot = self._of_trip(hash_text(name, length), name, length, known)
                if slot >= 0:
                    return slot
        if given.direction_id[i] < 0:
            return self._of_route(text + route.start, route.length, &given.other_pattern_ix[i], known)
        length = direction_name(name, text + route.start, route.length, given.direction_id[i])
        if length > 0:
            slot = self.direction_names.find(name, length)
            if slot < 0:
                known[0] = False
            slot = self._use(slot, known)
            if slot >= 0:
                return slot
        slot = self.route_names.find(text + route.start, route.length)
        if slot < 0:
            known[0] = False
        return self._use(slot, known)

    cdef inline int32_t _of_trip(self, uint64_t code, const char* name, int32_t length, bint* known) noexcept nogil:
        cdef int32_t slot = self.trip_names.find_entry(code, name, length)
        if slot < 0:
            known[0] = False
            return NO_STOP
        slot = self.trip_names.entries[slot].value
        known[0] = known[0] and self.trips[slot].known
        self._use_trip(&self.trips[slot])
        return self._use(self.trips[slot].source, known)

    cdef inline int32_t _of_route(self, const char* route, int32_t length, int32_t* other, bint* known) noexcept nogil:
        # Of a row that names no direction.
        cdef int32_t slot = self.route_names.find(route, length)
        if slot < 0:
            known[0] = False
            return NO_STOP
        self._use(slot, known)
        if not self.sources[slot].is_settled:
            self._settle(&self.sources[slot], length, known)
        other[0] = self.sources[slot].other
        return self.sources[slot].candidate

    cdef void _settle(self, source_t* route, int32_t length, bint* known) noexcept nogil:
        # Both directions' patterns, or that of the route, or that of its only direction.
        cdef int32_t direction, slot
        cdef int32_t found[N_DIRECTIONS]
        route.is_settled = route.known
        for direction in range(N_DIRECTIONS):
            slot = route.directions[direction]
            found[direction] = NO_STOP
            if slot >= 0 and self.sources[slot].known:
                if self.sources[slot].tells_route:
                    found[direction] = self.sources[slot].pattern_ix
            elif length <= MAX_ROUTE:
                route.is_settled = known[0] = False
        route.candidate = route.pattern_ix if route.pattern_ix >= 0 else max(found[0], found[1])
        route.other = NO_STOP
        if found[0] >= 0 and found[1] >= 0:
            route.candidate, route.other = found[0], found[1]

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
        """Names used since they were last looked at, and that not lately: four lists as those of `missing`.

        At most `limit` names; the next call goes on where this one stopped, so every name gets its turn.
        """
        # A pass over all slots that finds nothing says when the next one is worth while, and until then a call costs
        # nothing. That moment must not be the next microsecond: a pass takes along what is due a little later.
        cdef int64_t now_us = self._clock_us
        cdef int64_t soonest_us = INT64_MAX
        cdef int64_t slack_us = min(self.refresh_us, self.trip_refresh_us) // SLACK
        cdef int64_t checked_us, due_us
        cdef int32_t n = self.n_sources + self.n_trips
        cdef int32_t left, slot, direction, entry
        cdef source_t* source
        cdef trip_t* trip
        cdef tuple names = ([], [], [], [])
        if now_us < self.idle_until_us:
            return names
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
                (<list>names[0]).append(_key(self.trip_names, slot))
            else:
                (<list>names[1 + source.kind]).append(_key(self._names_of(source.kind), source.entry))
                for direction in range(N_DIRECTIONS):
                    if source.directions[direction] >= 0:
                        entry = self.sources[source.directions[direction]].entry
                        (<list>names[1 + OF_DIRECTION]).append(_key(self.direction_names, entry))
        if not any(names) and limit > 0:
            self.idle_until_us = soonest_us
        return names

    def forget(self, int64_t before_us, int32_t max_names):
        """Drop what was not used since `before_us`, and of more than `max_names` trips or sources the longest unused.

        Returns the numbers of the patterns that nobody needs now.
        """
        cdef int32_t i, slot, direction, n = 0
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
            source = &self.sources[i]
            source.used_us = min(source.used_us, self._clock_us)
            for direction in range(N_DIRECTIONS):
                slot = source.directions[direction]
                if slot >= 0:
                    self.sources[slot].used_us = max(self.sources[slot].used_us, source.used_us)
        for i in range(self.n_sources):
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
        for i in range(n):
            source = &self.sources[i]
            source.is_settled = False
            for direction in range(N_DIRECTIONS):
                if source.directions[direction] >= 0:
                    source.directions[direction] = moved[source.directions[direction]]
        for names in (self.route_names, self.direction_names, self.pattern_names):
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


cdef void _judge(columns_t* columns, Py_ssize_t i, PatternTable table, bint reject_guessed) noexcept nogil:
    # Of a row that got the stops of its route or direction: whether they are a guess. Of two directions both have to
    # be usable: else the vehicle, which may be on either, would be told the stops of the other one.
    cdef bint has_trip = columns.trip_id[i].length > 0
    cdef const pattern_t* other = pattern_at(table, columns.other_pattern_ix[i])
    columns.is_guessed[i] = is_guess(pattern_at(table, columns.pattern_ix[i]), has_trip)
    if other != NULL:
        if other.status != OK:
            columns.status[i] = other.status
        elif is_guess(other, has_trip):
            columns.is_guessed[i] = 1
    if columns.status[i] == OK and reject_guessed and columns.is_guessed[i]:
        columns.status[i] = GUESSED_PATTERN


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
