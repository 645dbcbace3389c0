"""Redis' wire format (RESP), as far as a batch needs it: commands of many keys, and replies read where they lie.

Whoever receives does so for every reply alike::

    while not reply.is_complete:
        n_bytes = socket.recv_into(reply.room())
        reply.received(n_bytes)
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

from etacore._kernels.types cimport span_t

cdef const char* SET_HEAD = b"*5\r\n$3\r\nSET\r\n"

cdef enum:
    SET_HEAD_BYTES = 13
    GROUP_HEAD_BYTES = 64        # at most
    MIN_ROOM = 1 << 16           # less is not worth a system call
    MAX_LINE = 1 << 12           # of an error message, or a number
    MAX_VALUE = 1 << 29          # no string of Redis' is longer, unless somebody wants it to be
    MAX_KEPT = 1 << 26           # a larger buffer is given back after the reply
    OK_BYTES = 5                 # +OK\r\n


class ProtocolError(Exception):
    """The server sent what no reply to the command can be."""


cdef inline int64_t n_digits(int64_t number) noexcept nogil:
    cdef int64_t n = 1
    while number >= 10:
        number //= 10
        n += 1
    return n


cdef inline char* put_number(char* to, int64_t number) noexcept nogil:
    cdef int64_t i, n = n_digits(number)
    for i in range(n - 1, -1, -1):
        to[i] = <char>(c'0' + number % 10)
        number //= 10
    return to + n


cdef inline char* put_number_word(char* to, int64_t number) noexcept nogil:
    to[0] = c'$'
    to = put_number(to + 1, n_digits(number))
    memcpy(to, b"\r\n", 2)
    to = put_number(to + 2, number)
    memcpy(to, b"\r\n", 2)
    return to + 2


cdef inline char* put_word(char* to, const char* word, int64_t length) noexcept nogil:
    to[0] = c'$'
    to = put_number(to + 1, length)
    memcpy(to, b"\r\n", 2)
    memcpy(to + 2, word, length)
    memcpy(to + 2 + length, b"\r\n", 2)
    return to + length + 4


def pack_keys(bytes command not None, keys not None):
    """The RESP bytes of a command whose arguments are keys, such as MGET.

    TypeError for a key that is no bytes object.
    """
    cdef list held = list(keys)      # ours: nobody else can change it
    cdef Py_ssize_t n = len(held)
    cdef int64_t size = 1 + n_digits(n + 1) + 2 + 5 + n_digits(len(command)) + len(command)
    cdef char* to
    cdef bytes packed
    for key in held:
        if not PyBytes_CheckExact(key):
            raise TypeError(f"a key is {type(key).__name__}, not bytes")
        size += 5 + n_digits(PyBytes_GET_SIZE(key)) + PyBytes_GET_SIZE(key)
    packed = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(packed)
    to[0] = c'*'
    to = put_number(to + 1, n + 1)
    memcpy(to, b"\r\n", 2)
    to = put_word(to + 2, PyBytes_AS_STRING(command), len(command))
    for key in held:
        to = put_word(to, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    return packed


cdef inline int64_t word_end(const char* data, int64_t at, int64_t size) except -1 nogil:
    """Where the word ends that begins at a place: after $<length>, the word and both line ends."""
    cdef int64_t length = 0
    cdef int64_t i = at + 1
    if at < size and data[at] == c'$':
        while i < size and c'0' <= data[i] <= c'9' and i < at + 12:
            length = 10 * length + data[i] - c'0'
            i += 1
        if i > at + 1 and length <= size - i - 4:
            return i + length + 4
    with gil:
        raise ValueError("the commands are no SET commands of Redis' wire format")


def group_sets(const uint8_t[::1] sets not None, int64_t n, int64_t group, bytearray out not None):
    """Pack ``SET key value EX seconds`` commands into ``MSETEX n key value ... EX seconds``, `group` to one.

    The server then looks up a command and answers once for many documents.

    Returns the bytes written to `out`, and where each group's commands begin in `sets`, their end included.
    ValueError if `sets` are not n such commands. The time to live of a group is that of its last one.
    """
    cdef const char* data = <const char*>&sets[0] if sets.shape[0] else NULL
    cdef int64_t size = sets.shape[0]
    cdef int64_t at = 0, done = 0, inner, tail = 0, tail_length = 0, i, n_now
    cdef char* to
    cdef list begins = []
    if n < 1 or group < 1 or data == NULL:
        raise ValueError(f"{n} commands in groups of {group}")
    PyByteArray_Resize(out, max(PyByteArray_GET_SIZE(out), size + GROUP_HEAD_BYTES * (n // group + 1)))
    to = PyByteArray_AS_STRING(out)
    while done < n:
        begins.append(at)
        n_now = min(group, n - done)
        with nogil:
            to[0] = c'*'
            to = put_number(to + 1, 2 * n_now + 4)
            memcpy(to, b"\r\n$6\r\nMSETEX\r\n", 14)
            to = put_number_word(to + 14, n_now)
            for i in range(n_now):
                if size - at < SET_HEAD_BYTES or memcmp(data + at, SET_HEAD, SET_HEAD_BYTES) != 0:
                    with gil:
                        raise ValueError("the commands are no SET commands of Redis' wire format")
                inner = at + SET_HEAD_BYTES
                tail = word_end(data, word_end(data, inner, size), size)
                memcpy(to, data + inner, tail - inner)
                to += tail - inner
                at = word_end(data, word_end(data, tail, size), size)
            tail_length = at - tail
            memcpy(to, data + tail, tail_length)
            to += tail_length
        done += n_now
    if at != size:
        raise ValueError(f"more than {n} commands")
    begins.append(at)
    return to - PyByteArray_AS_STRING(out), begins


cdef inline int64_t line_length(const uint8_t* start, int64_t there) except -2:
    """Bytes of a line without its end, -1 if the end has not come yet."""
    cdef const uint8_t* end = <const uint8_t*>memchr(start, c'\r', min(there, MAX_LINE)) if there > 0 else NULL
    if end == NULL:
        if there >= MAX_LINE:
            raise ProtocolError(f"a line of more than {MAX_LINE} bytes")
        return -1
    if end + 1 == start + there:
        return -1
    if end[1] != c'\n':
        raise ProtocolError("a line without an end")
    return end - start


cdef inline int64_t line_number(const uint8_t* start, int64_t length) except? -2:
    """The number after the first byte of a line: digits, or -1."""
    cdef int64_t number = 0
    cdef int64_t i
    if length == 3 and start[1] == c'-' and start[2] == c'1':
        return -1
    if not 2 <= length <= 12:
        raise ProtocolError(f"no number: {start[:length]!r}")
    for i in range(1, length):
        if not c'0' <= start[i] <= c'9':
            raise ProtocolError(f"no number: {start[:length]!r}")
        number = 10 * number + start[i] - c'0'
    return number


@cython.final
cdef class Values:
    """The reply to one MGET: n values, or none for a key without a string, or for which a proxy has an error.

    One object serves any number of replies, one after another; its buffer is used again.

    Attributes
    ----------
    n : int
        Values asked for.
    is_complete : bool
        Whether the whole reply is there.
    error : bytes or None
        What the server says instead, without its leading ``-``.
    """

    def __cinit__(self):
        self.buffer = bytearray(MIN_ROOM)
        self.spans = NULL
        self.capacity = 0
        self.expect(0)

    def __dealloc__(self):
        free(self.spans)

    def __len__(self):
        return self.n

    def expect(self, int64_t n):
        """Begin anew, with the reply to an MGET of n keys. ValueError if n is negative."""
        cdef void* moved
        if n < 0:
            raise ValueError(f"{n} values")
        if n > self.capacity:
            moved = realloc(self.spans, n * sizeof(span_t))
            if moved == NULL:
                raise MemoryError
            self.spans = <span_t*>moved
            self.capacity = n
        if PyByteArray_GET_SIZE(self.buffer) > MAX_KEPT:
            PyByteArray_Resize(self.buffer, MIN_ROOM)
        self.n = n
        self.found = self.filled = self.read = self.awaited = 0
        self.has_header = False
        self.is_complete = False
        self.error = None

    def room(self):
        """A view of the bytes to receive into; drop it before the next call. ProtocolError if nothing is to come."""
        cdef int64_t size = PyByteArray_GET_SIZE(self.buffer)
        cdef int64_t needed = max(self.filled + MIN_ROOM, self.awaited)
        if self.is_complete:     # the values lie in the buffer: it must not move
            raise ProtocolError("more than one reply")
        if size < needed:
            PyByteArray_Resize(self.buffer, needed + needed // 2)
        return memoryview(self.buffer)[self.filled:]

    def received(self, int64_t n_bytes):
        """So many bytes have been received into `room`.

        ProtocolError if they cannot be a reply to MGET; ValueError if there was no room for so many.
        """
        if n_bytes < 0 or n_bytes > PyByteArray_GET_SIZE(self.buffer) - self.filled:
            raise ValueError(f"{n_bytes} bytes do not fit")
        self.filled += n_bytes
        if self.filled >= self.awaited:
            self.scan()

    cdef int scan(self) except -1:
        cdef const uint8_t* data = <const uint8_t*>PyByteArray_AS_STRING(self.buffer)
        cdef int64_t length, size, i
        if self.is_complete:
            raise ProtocolError("more than one reply")
        if not self.has_header:
            length = line_length(data, self.filled)
            if length < 0:
                return 0
            if data[0] == c'-':
                self.error = data[1:length]
                self.is_complete = True
                return self.check_end(length + 2)
            if data[0] != c'*' or line_number(data, length) != self.n:
                raise ProtocolError(f"{data[:min(length, 40)]!r} instead of {self.n} values")
            self.read = length + 2
            self.has_header = True
        while self.found < self.n:
            length = line_length(data + self.read, self.filled - self.read)
            if length < 0:
                return 0
            if data[self.read] == c'$':
                size = line_number(data + self.read, length)
                if size > MAX_VALUE:
                    raise ProtocolError(f"a value of {size} bytes")
            elif data[self.read] == c'-' or (data[self.read] == c'_' and length == 1):
                size = -1
            else:
                raise ProtocolError(f"{data[self.read:self.read + min(length, 40)]!r} instead of a value")
            if size < 0:
                self.spans[self.found].start = NULL
                self.spans[self.found].length = -1
                self.read += length + 2
            else:
                self.awaited = self.read + length + 4 + size
                if self.filled < self.awaited:
                    return 0
                if data[self.awaited - 2] != c'\r' or data[self.awaited - 1] != c'\n':
                    raise ProtocolError("a value without an end")
                self.spans[self.found].start = <const uint8_t*>(self.read + length + 2)
                self.spans[self.found].length = size
                self.read = self.awaited
            self.found += 1
        # The buffer stays where it is from now on.
        for i in range(self.n):
            if self.spans[i].length >= 0:
                self.spans[i].start = data + <int64_t>self.spans[i].start
        self.is_complete = True
        return self.check_end(self.read)

    cdef int check_end(self, int64_t end) except -1:
        if self.filled != end:
            raise ProtocolError("more than one reply")
        return 0

    def __getitem__(self, int64_t i):
        """A value as bytes, None for none; IndexError, ValueError before the reply is complete."""
        if not 0 <= i < self.n:
            raise IndexError(i)
        if not self.is_complete or self.error is not None:
            raise ValueError("there are no values yet")
        if self.spans[i].start == NULL:
            return None
        return self.spans[i].start[:self.spans[i].length]


@cython.final
cdef class Acknowledgements:
    """The replies to n commands that are each answered by ``+OK``, or ``:1`` (MSETEX), or an error.

    Attributes
    ----------
    n : int
        Replies asked for.
    is_complete : bool
        Whether all are there.
    errors : list of (int, bytes)
        Position of a command that failed, and what the server says, without its leading ``-``.
    """

    cdef bytearray buffer
    cdef int64_t filled, found
    cdef readonly int64_t n
    cdef readonly list errors

    def __cinit__(self):
        self.buffer = bytearray(MIN_ROOM)
        self.expect(0)

    def expect(self, int64_t n):
        """Begin anew, with the replies to n commands. ValueError if n is negative."""
        if n < 0:
            raise ValueError(f"{n} replies")
        self.n = n
        self.filled = self.found = 0
        self.errors = []

    @property
    def is_complete(self):
        return self.found == self.n

    def room(self):
        """A view of the bytes to receive into; drop it before the next call."""
        return memoryview(self.buffer)[self.filled:]

    def received(self, int64_t n_bytes):
        """So many bytes have been received into `room`.

        ProtocolError if they cannot be such replies; ValueError if there was no room for so many.
        """
        cdef const uint8_t* data = <const uint8_t*>PyByteArray_AS_STRING(self.buffer)
        cdef int64_t read = 0
        cdef int64_t length
        if n_bytes < 0 or n_bytes > PyByteArray_GET_SIZE(self.buffer) - self.filled:
            raise ValueError(f"{n_bytes} bytes do not fit")
        self.filled += n_bytes
        while self.found < self.n:
            if self.filled - read >= OK_BYTES and data[read + 1] == c'O' and data[read + 2] == c'K' \
                    and data[read] == c'+' and data[read + 3] == c'\r' and data[read + 4] == c'\n':
                read += OK_BYTES
                self.found += 1
                continue
            length = line_length(data + read, self.filled - read)
            if length < 0:
                break
            if length == 2 and data[read] == c':' and data[read + 1] == c'1':
                read += length + 2
                self.found += 1
                continue
            if data[read] != c'-':
                raise ProtocolError(f"{data[read:read + min(length, 40)]!r} instead of +OK")
            self.errors.append((self.found, data[read + 1:read + length]))
            read += length + 2
            self.found += 1
        if self.found == self.n and read != self.filled:
            raise ProtocolError("more replies than commands")
        self.filled -= read
        memmove(PyByteArray_AS_STRING(self.buffer), data + read, self.filled)
