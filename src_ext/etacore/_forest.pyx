"""Compiled forests: open a shared library, check what it says of itself, predict a matrix."""

from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, strcmp

from etacore.errors import ModelLoadError

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* filename, int flags)
    void* dlsym(void* handle, const char* symbol)
    int dlclose(void* handle)
    char* dlerror()
    int RTLD_NOW
    int RTLD_LOCAL

cdef enum:
    MAX_FEATURES_C = 64

MAX_FEATURES = MAX_FEATURES_C

# One cell of a row as the generated code reads it: a float, or the bit pattern of -1 for "missing".
cdef union entry_t:
    uint32_t bits
    float value

ctypedef void (*predict_t)(entry_t* row, int margin_only, float* result) noexcept nogil
ctypedef int32_t (*get_number_t)() noexcept nogil
ctypedef void (*get_numbers_t)(int32_t* out) noexcept nogil
ctypedef const char* (*get_text_t)() noexcept nogil


cdef class Library:
    """A forest's shared library, mapped and checked.

    It stays mapped until the process ends: a library is about as large as its model, a process meets few of
    them, and nothing then depends on no thread being inside it.

    Parameters
    ----------
    path : bytes
        What ``dlopen`` is given.
    n_features : int
        Columns that the caller will pass.

    Raises
    ------
    ModelLoadError
        If the file cannot be mapped, lacks a function, or is not a float32 forest with one output and
        `n_features` inputs.
    """

    cdef void* handle
    cdef predict_t predict_row
    cdef readonly int n_features

    def __cinit__(self, bytes path not None, int n_features):
        cdef int32_t n_classes = 0
        cdef int32_t n_targets
        cdef int32_t found
        self.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)
        if self.handle == NULL:
            reason = (<bytes>dlerror()).decode("utf-8", "replace")
            raise ModelLoadError(
                f"the system refuses the library: {reason}",
                hint="compile the model again on a machine like this one: etacore compile MODEL",
            )
        try:
            self.predict_row = <predict_t>self._symbol(b"predict")
            found = (<get_number_t>self._symbol(b"get_num_feature"))()
            n_targets = (<get_number_t>self._symbol(b"get_num_target"))()
            if n_targets != 1:
                raise ModelLoadError(f"the library predicts {n_targets} targets, not one")
            (<get_numbers_t>self._symbol(b"get_num_class"))(&n_classes)
            if n_classes != 1:
                raise ModelLoadError(f"the library predicts {n_classes} classes, not one number")
            for symbol in (b"get_threshold_type", b"get_leaf_output_type"):
                if strcmp((<get_text_t>self._symbol(symbol))(), b"float32") != 0:
                    raise ModelLoadError(f"{symbol.decode()} of the library is not float32")
            if found != n_features or not 0 < n_features <= MAX_FEATURES_C:
                raise ModelLoadError(
                    f"the library takes {found} features, the model names {n_features} (at most {MAX_FEATURES_C})",
                    hint="the manifest and the library do not belong together: compile the model again",
                )
        except ModelLoadError:
            # Nobody has called into it but us, just now: here closing is safe.
            dlclose(self.handle)
            self.handle = NULL
            raise
        self.n_features = n_features

    cdef void* _symbol(self, bytes name) except NULL:
        cdef void* address = dlsym(self.handle, name)
        if address == NULL:
            raise ModelLoadError(
                f"the library has no function {name.decode()!r}",
                hint="it was not made by `etacore compile`",
            )
        return address

    def predict(self, const float[:, ::1] X not None, float[::1] out not None, float low, float high):
        """Predict every row, clipped to [low, high]. The GIL is released; `X` is only read.

        Parameters
        ----------
        X : float32, shape (n_rows, n_features), C-contiguous
        out : float32, shape (n_rows,)
            Overwritten.
        low, high : float
            Bounds of the result; NaN passes through.

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        cdef Py_ssize_t n_rows = X.shape[0]
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]} columns, the forest takes {self.n_features}")
        if out.shape[0] != n_rows:
            raise ValueError(f"out has {out.shape[0]} rows, X has {n_rows}")
        if n_rows == 0:
            return
        with nogil:
            predict_rows(self.predict_row, &X[0, 0], n_rows, self.n_features, &out[0], low, high)


cdef void predict_rows(
    predict_t predict_row, const float* X, Py_ssize_t n_rows, int k, float* out, float low, float high
) noexcept nogil:
    # A row is copied to the stack because the generated code knows no NaN: its "missing" is the bit pattern -1.
    # Any NaN, of either sign and any payload, becomes that pattern, which is itself a NaN.
    cdef entry_t row[MAX_FEATURES_C]
    cdef float result
    cdef Py_ssize_t i
    cdef int j
    for i in range(n_rows):
        memcpy(row, X + i * k, k * sizeof(float))
        for j in range(k):
            if (row[j].bits & <uint32_t>0x7FFFFFFF) > <uint32_t>0x7F800000:
                row[j].bits = <uint32_t>0xFFFFFFFF
        result = 0.0  # the generated code adds to what it finds
        predict_row(row, 0, &result)
        if result < low:
            result = low
        elif result > high:
            result = high
        out[i] = result
