"""Byte strings -> int32, open addressing, exact comparison; what vehicles, trips and patterns are found by."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from etacore._kernels.types cimport NO_STOP

cdef enum:
    MIN_ENTRIES = 16
    MIN_ARENA = 256
    MAX_ENTRIES = 1 << 30

cdef uint64_t _seed[2]
_random_bits = os.urandom(16)
memcpy(&_seed[0], PyBytes_AS_STRING(_random_bits), 16)
del _random_bits


cdef inline uint64_t _rotate(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void _sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = _rotate(v[1], 13) ^ v[0]
    v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] = _rotate(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = _rotate(v[1], 17) ^ v[2]
    v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] = _rotate(v[2], 32)


cdef uint64_t _sip13(uint64_t k0, uint64_t k1, const char* text, int32_t length) noexcept nogil:
    # SipHash-1-3 (Aumasson and Bernstein, 2012; one round a word, three to finish), as Rust and CPython use it.
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint64_t last = <uint64_t>length << 56
    cdef int32_t i = 0
    cdef int shift = 0
    v[0] = k0 ^ <uint64_t>0x736F6D6570736575
    v[1] = k1 ^ <uint64_t>0x646F72616E646F6D
    v[2] = k0 ^ <uint64_t>0x6C7967656E657261
    v[3] = k1 ^ <uint64_t>0x7465646279746573
    while i + 8 <= length:
        memcpy(&word, text + i, 8)
        v[3] ^= word
        _sip_round(v)
        v[0] ^= word
        i += 8
    while i < length:
        last |= <uint64_t>(<uint8_t>text[i]) << shift
        shift += 8
        i += 1
    v[3] ^= last
    _sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    _sip_round(v)
    _sip_round(v)
    _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef uint64_t hash_text(const char* text, int32_t length) noexcept nogil:
    return _sip13(_seed[0], _seed[1], text, length)


def hash_bytes(bytes text not None, seed=None):
    """Hash of `text` with this process's seed, or with a given one (for tests against published vectors)."""
    if PyBytes_GET_SIZE(text) > 0x7FFFFFFF:
        raise ValueError("a key is limited to 2**31 - 1 bytes")
    cdef int32_t length = <int32_t>PyBytes_GET_SIZE(text)
    if seed is None:
        return hash_text(PyBytes_AS_STRING(text), length)
    return _sip13(seed[0], seed[1], PyBytes_AS_STRING(text), length)


cdef class StringIndex:
    """Dictionary from bytes to int32, kept in three flat arrays.

    Slots point to entries, entries to key bytes in an arena; entries keep the order of first insertion. Nothing is
    removed singly: `retain` drops many at once and closes the gaps.

    Parameters
    ----------
    capacity : int
        Entries to make room for at once.
    """

    def __cinit__(self, capacity=0):
        if not 0 <= capacity <= MAX_ENTRIES:
            raise ValueError(f"capacity must be in [0, {MAX_ENTRIES}], not {capacity}")
        self.reserve(max(capacity, MIN_ENTRIES), MIN_ARENA)

    def __dealloc__(self):
        PyMem_RawFree(self.entries)
        PyMem_RawFree(self.slots)
        PyMem_RawFree(self.arena)

    def __len__(self):
        return self.n

    @property
    def nbytes(self):
        """Bytes held, free room included."""
        return (self.entry_capacity * <int64_t>sizeof(entry_t) + self.n_slots * <int64_t>sizeof(slot_t)
                + self.arena_capacity)

    def get(self, bytes key not None, code=None):
        """Value of `key`, -1 if absent. `code` stands in for the key's hash (tests make keys collide with it)."""
        cdef int32_t length = _key_length(key)
        cdef uint64_t hashed = hash_text(PyBytes_AS_STRING(key), length) if code is None else code
        cdef int32_t i = self.find_entry(hashed, PyBytes_AS_STRING(key), length)
        return NO_STOP if i < 0 else self.entries[i].value

    def set(self, bytes key not None, int32_t value, code=None):
        """Insert `key` or overwrite its value; `code` as in `get`."""
        cdef int32_t length = _key_length(key)
        cdef uint64_t hashed = hash_text(PyBytes_AS_STRING(key), length) if code is None else code
        self.put_hashed(hashed, PyBytes_AS_STRING(key), length, value)

    def items(self):
        """All (key, value) pairs, in the order of first insertion."""
        return [
            (PyBytes_FromStringAndSize(self.arena + self.entries[i].start, self.entries[i].length),
             self.entries[i].value)
            for i in range(self.n)
        ]

    def retain(self, const uint8_t[::1] keep not None):
        """Forget entry i (in the order of `items`) where ``keep[i]`` is 0; `keep` is uint8, shape (n,)."""
        if keep.shape[0] != self.n:
            raise ValueError(f"keep has {keep.shape[0]} flags for {self.n} entries")
        if self.n:
            self.retain_entries(&keep[0])

    def clear(self):
        """Forget everything and give the memory back."""
        PyMem_RawFree(self.entries)
        PyMem_RawFree(self.slots)
        PyMem_RawFree(self.arena)
        self.entries = NULL
        self.slots = NULL
        self.arena = NULL
        self.n = self.entry_capacity = 0
        self.n_slots = self.arena_size = self.arena_capacity = 0
        self.reserve(MIN_ENTRIES, MIN_ARENA)

    cdef int32_t find_entry(self, uint64_t code, const char* text, int32_t length) noexcept nogil:
        cdef uint64_t mask = <uint64_t>self.n_slots - 1
        cdef uint64_t at = code & mask
        cdef uint32_t tag = <uint32_t>(code >> 32)
        cdef int32_t i
        cdef entry_t* entry
        # n_slots == 0 only after a clear() that found no memory.
        if self.n_slots == 0:
            return NO_STOP
        while True:
            i = self.slots[at].entry
            if i < 0:
                return NO_STOP
            if self.slots[at].tag == tag:
                entry = &self.entries[i]
                if (entry.hash == code and entry.length == length
                        and (length == 0 or memcmp(self.arena + entry.start, text, length) == 0)):
                    return i
            at = (at + 1) & mask

    cdef int32_t find(self, const char* text, int32_t length) noexcept nogil:
        cdef int32_t i = self.find_entry(hash_text(text, length), text, length)
        return NO_STOP if i < 0 else self.entries[i].value

    cdef int32_t put(self, const char* text, int32_t length, int32_t value) except -2 nogil:
        return self.put_hashed(hash_text(text, length), text, length, value)

    cdef int32_t put_hashed(self, uint64_t code, const char* text, int32_t length, int32_t value) except -2 nogil:
        cdef int32_t i = self.find_entry(code, text, length)
        if i < 0:
            self.reserve(<int64_t>self.n + 1, self.arena_size + length)
            i = self.n
            self.entries[i].hash = code
            self.entries[i].start = self.arena_size
            self.entries[i].length = length
            if length > 0:
                memcpy(self.arena + self.arena_size, text, length)
            self.arena_size += length
            self.n += 1
            _occupy(self.slots, self.n_slots, code, i)
        self.entries[i].value = value
        return i

    cdef const char* key(self, int32_t i, int32_t* length) noexcept nogil:
        length[0] = self.entries[i].length
        return self.arena + self.entries[i].start

    cdef int reserve(self, int64_t n_entries, int64_t n_bytes) except -1 nogil:
        # Each array grows on its own and stays valid if the next one finds no memory.
        cdef int64_t capacity
        cdef int64_t n_slots = self.n_slots
        cdef void* moved
        if n_entries > MAX_ENTRIES:
            with gil:
                raise MemoryError(f"an index is limited to {MAX_ENTRIES} keys")
        if n_entries > self.entry_capacity:
            capacity = max(n_entries, self.entry_capacity + (self.entry_capacity >> 1))
            moved = PyMem_RawRealloc(self.entries, <size_t>capacity * sizeof(entry_t))
            if moved == NULL:
                with gil:
                    raise MemoryError()
            self.entries = <entry_t*>moved
            self.entry_capacity = <int32_t>capacity
        if n_bytes > self.arena_capacity:
            capacity = max(n_bytes, self.arena_capacity + (self.arena_capacity >> 1))
            moved = PyMem_RawRealloc(self.arena, <size_t>capacity)
            if moved == NULL:
                with gil:
                    raise MemoryError()
            self.arena = <char*>moved
            self.arena_capacity = capacity
        # At most 3/4 of the slots are taken, which keeps runs short and guarantees a free slot to stop at.
        if 4 * n_entries > 3 * n_slots:
            n_slots = max(n_slots, 2 * MIN_ENTRIES)
            while 4 * n_entries > 3 * n_slots:
                n_slots *= 2
            self.place(n_slots)
        return 0

    cdef int place(self, int64_t n_slots) except -1 nogil:
        cdef slot_t* slots = <slot_t*>PyMem_RawMalloc(<size_t>n_slots * sizeof(slot_t))
        if slots == NULL:
            with gil:
                raise MemoryError()
        PyMem_RawFree(self.slots)
        self.slots = slots
        self.n_slots = n_slots
        _fill(slots, n_slots, self.entries, self.n)
        return 0

    cdef void retain_entries(self, const uint8_t* keep) noexcept nogil:
        cdef int32_t i
        cdef int32_t n = 0
        cdef int64_t size = 0
        cdef int64_t n_slots = self.n_slots
        cdef entry_t* entry
        for i in range(self.n):
            if keep[i]:
                entry = &self.entries[n]
                entry[0] = self.entries[i]
                memmove(self.arena + size, self.arena + entry.start, entry.length)
                entry.start = size
                size += entry.length
                n += 1
        self.n = n
        self.arena_size = size
        # What has become mostly empty is given back, so that a flood of ids does not hold its memory for ever.
        if self.entry_capacity > 4 * <int64_t>n + MIN_ENTRIES:
            self.entry_capacity = 2 * n + MIN_ENTRIES
            self.entries = <entry_t*>_shrink(self.entries, <size_t>self.entry_capacity * sizeof(entry_t))
        if self.arena_capacity > 4 * size + MIN_ARENA:
            self.arena_capacity = 2 * size + MIN_ARENA
            self.arena = <char*>_shrink(self.arena, <size_t>self.arena_capacity)
        while n_slots > 2 * MIN_ENTRIES and n_slots > 4 * <int64_t>n:
            n_slots >>= 1
        if n_slots < self.n_slots:
            self.slots = <slot_t*>_shrink(self.slots, <size_t>n_slots * sizeof(slot_t))
            self.n_slots = n_slots
        _fill(self.slots, self.n_slots, self.entries, self.n)


cdef inline void _occupy(slot_t* slots, int64_t n_slots, uint64_t code, int32_t entry) noexcept nogil:
    cdef uint64_t mask = <uint64_t>n_slots - 1
    cdef uint64_t at = code & mask
    while slots[at].entry >= 0:
        at = (at + 1) & mask
    slots[at].tag = <uint32_t>(code >> 32)
    slots[at].entry = entry


cdef void _fill(slot_t* slots, int64_t n_slots, const entry_t* entries, int32_t n) noexcept nogil:
    cdef int32_t i
    memset(slots, 0xFF, <size_t>n_slots * sizeof(slot_t))
    for i in range(n):
        _occupy(slots, n_slots, entries[i].hash, i)


cdef void* _shrink(void* block, size_t size) noexcept nogil:
    # A block that cannot be made smaller stays as it is and serves all the same.
    cdef void* moved = PyMem_RawRealloc(block, size)
    return block if moved == NULL else moved


cdef int32_t _key_length(bytes key) except -1:
    if PyBytes_GET_SIZE(key) > 0x7FFFFFFF:
        raise ValueError("a key is limited to 2**31 - 1 bytes")
    return <int32_t>PyBytes_GET_SIZE(key)
