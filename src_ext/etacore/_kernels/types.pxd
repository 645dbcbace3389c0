# The vocabulary that every kernel shares: C types, sentinels, status codes.
# etacore/schema.py spells the same numbers for Python; tests/unit/test_schema.py pins the two together.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

# A piece of text in an arena (one uint8 buffer per batch), UTF-8, already unescaped, never NUL-terminated.
# `escape` is 1 when JSON output has to escape some of its bytes. length 0 = no text.
cdef packed struct text_t:
    int64_t start
    int32_t length
    int32_t escape

# A payload where it lies. start NULL: there is none (the key is gone, or holds no string).
cdef struct span_t:
    const uint8_t* start
    int64_t length

cdef enum:
    NO_SEQUENCE = -2147483648     # stop_sequence not given
    NO_STOP = -1                  # no stop, pattern or vehicle at this index
    NO_START_DATE = 0             # the start of the run not given
    NO_START_TIME = -1

# GTFS-Realtime VehicleStopStatus, and "not given" (which GTFS-Realtime reads as IN_TRANSIT_TO).
cdef enum stop_status_t:
    INCOMING_AT = 0
    STOPPED_AT = 1
    IN_TRANSIT_TO = 2
    STOP_STATUS_UNKNOWN = -1

# What became of a row. Everything but OK keeps the row out of the later stages.
cdef enum status_t:
    OK = 0
    UNCHANGED = 1
    EXPIRED = 2
    WRONG_TYPE = 3
    TOO_LARGE = 4
    INVALID_JSON = 5
    NOT_AN_OBJECT = 6
    MISSING_VEHICLE_ID = 7
    MISSING_POSITION = 8
    INVALID_POSITION = 9
    POSITION_OUT_OF_RANGE = 10
    MISSING_TIMESTAMP = 11
    INVALID_TIMESTAMP = 12
    FUTURE_TIMESTAMP = 13
    TOO_OLD = 14
    MISSING_ROUTE = 15
    DUPLICATE = 16
    OUT_OF_ORDER = 17
    UNKNOWN_ROUTE = 18
    TOO_FEW_STOPS = 19
    STOP_WITHOUT_COORDINATES = 20
    OFF_ROUTE = 21
    TRIP_FINISHED = 22
    PREDICTION_FAILED = 23
    WRITE_FAILED = 24
    NO_MODEL = 25
    DIRECTION_UNKNOWN = 26
    GUESSED_PATTERN = 27
    N_STATUS = 28

# What became of the stop that a vehicle names.
cdef enum stop_hint_t:
    NO_HINT = 0
    HINT_FOLLOWED = 1
    HINT_UNKNOWN = 2
    HINT_CONTRADICTED = 3

# Feature codes: the columns the vectorizer can fill. A model names the ones it wants, in its own order.
cdef enum feature_t:
    F_DISTANCE_TO_STOP = 0
    F_PROGRESS_ON_SEGMENT = 1
    F_PROGRESS_RATIO = 2
    F_HOUR = 3
    F_DAY_OF_WEEK = 4
    F_IS_WEEKEND = 5
    F_IS_PEAK_HOUR = 6
    F_TEMPERATURE_C = 7
    F_PRECIPITATION_MM = 8
    F_WIND_SPEED_KMH = 9
    F_IS_HOLIDAY = 10
    F_CURRENT_SPEED_KMH = 11
    F_ALONG_ROUTE_DISTANCE_M = 12
    F_STOPS_AHEAD = 13
    F_RECENT_SPEED_MPS = 14
    F_SINCE_LAST_STOP_S = 15
    F_LEG_LEFT = 16
    F_TYPICAL_TRAVEL_S = 17
    F_ROUTE_CODE = 18
    F_STOP_SEQUENCE = 19
    N_FEATURES = 20
