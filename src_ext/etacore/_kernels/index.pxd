from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

# SipHash-1-3 of the bytes, keyed once per process with random bits: who chooses the ids cannot choose the collisions.
# One function for all modules, so that a hash made in one can be compared in another. Not stable over processes.
cdef uint64_t hash_text(const char* text, int32_t length) noexcept nogil

cdef struct entry_t:
    uint64_t hash
    int64_t start      # of the key in the arena
    int32_t length
    int32_t value

cdef struct slot_t:
    uint32_t tag       # upper half of the hash: a mismatch is seen without touching the entry
    int32_t entry      # -1 = free


cdef class StringIndex:
    cdef readonly int32_t n
    cdef entry_t* entries
    cdef slot_t* slots
    cdef char* arena
    cdef int32_t entry_capacity
    cdef int64_t n_slots, arena_size, arena_capacity

    # Value of a key, NO_STOP (-1) if absent.
    cdef int32_t find(self, const char* text, int32_t length) noexcept nogil

    # Inserts or overwrites. Returns the entry's number: 0, 1, 2 ... in order of first insertion.
    # `text` must not point into this index's own arena. Raises MemoryError, and the index is then as before.
    cdef int32_t put(self, const char* text, int32_t length, int32_t value) except -2 nogil

    # For batches that have the hash already: find by number, and a hint to the cache.
    cdef int32_t find_entry(self, uint64_t code, const char* text, int32_t length) noexcept nogil
    cdef int32_t put_hashed(self, uint64_t code, const char* text, int32_t length, int32_t value) except -2 nogil

    # The key of entry i (0 <= i < n), valid until the next put.
    cdef const char* key(self, int32_t i, int32_t* length) noexcept nogil

    cdef int reserve(self, int64_t n_entries, int64_t n_bytes) except -1 nogil
    cdef int place(self, int64_t n_slots) except -1 nogil

    # Forgets the entries i with keep[i] == 0; the others move up, in order. Needs no memory, so it cannot fail.
    cdef void retain_entries(self, const uint8_t* keep) noexcept nogil
