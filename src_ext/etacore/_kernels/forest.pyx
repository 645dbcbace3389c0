"""Compiled forests: open a shared library, check what it says of itself, predict a matrix."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.math cimport INFINITY
from libc.string cimport memcpy, strcmp

cimport numpy as cnp

from etacore.errors import ModelLoadError

cnp.import_array()

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* filename, int flags)
    void* dlsym(void* handle, const char* symbol)
    int dlclose(void* handle)
    char* dlerror()
    int RTLD_NOW
    int RTLD_LOCAL

cdef enum:
    MAX_FEATURES_C = 64
    FEW_ROWS = 32    # take less time than giving the GIL away and getting it back

MAX_FEATURES = MAX_FEATURES_C

ctypedef int32_t (*get_number_t)() noexcept nogil
ctypedef void (*get_numbers_t)(int32_t* out) noexcept nogil
ctypedef const char* (*get_text_t)() noexcept nogil


@cython.final
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
    kernel_path : str
        Which of the library's paths predicts: ``auto``, or one of those that the library and this CPU have.

    Attributes
    ----------
    n_features : int
    kernel_path : str
        The path that predicts; ``branches`` in a library that predicts row by row and has no choice of paths.

    Raises
    ------
    ModelLoadError
        If the file cannot be mapped, lacks a function, is not a float32 forest with one output and `n_features`
        inputs, or has no such path here.
    """

    def __cinit__(self, bytes path not None, int n_features, str kernel_path not None="auto"):
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
            self._choose_path(kernel_path)
        except ModelLoadError:
            # Nobody has called into it but us, just now: here closing is safe.
            dlclose(self.handle)
            self.handle = NULL
            raise
        self.n_features = n_features

    cdef int _choose_path(self, str wanted) except -1:
        cdef void* list_paths = dlsym(self.handle, b"forest_paths")
        self.predict_rows = NULL
        self.kernel_path = "branches"
        if list_paths == NULL:
            return 0
        paths = (<bytes>(<get_text_t>list_paths)()).decode().split()
        if wanted == "auto":
            wanted = paths[0]
        elif wanted not in paths:
            raise ModelLoadError(
                f"the library cannot take the path {wanted!r} on this CPU, only {', '.join(paths)}",
                hint="leave the choice to the library: auto",
            )
        self.predict_rows = <predict_rows_t>self._symbol(f"forest_predict_{wanted}".encode())
        self.kernel_path = wanted
        return 0

    cdef void* _symbol(self, bytes name) except NULL:
        cdef void* address = dlsym(self.handle, name)
        if address == NULL:
            raise ModelLoadError(
                f"the library has no function {name.decode()!r}",
                hint="it was not made by `etacore compile`",
            )
        return address

    def predict(self, X not None, out not None, float low=-INFINITY, float high=INFINITY):
        """Predict every row, clipped to [low, high]. Many rows release the GIL; `X` is only read.

        Parameters
        ----------
        X : ndarray of float32, shape (n_rows, n_features), C-contiguous
        out : ndarray of float32, shape (n_rows,), C-contiguous
            Overwritten.
        low, high : float
            Bounds of the result; NaN passes through.

        Raises
        ------
        ValueError
            If a type or shape does not fit.
        """
        # For a few rows, typed memoryviews would take as long as the forest.
        if not (cnp.PyArray_Check(X) and cnp.PyArray_TYPE(X) == cnp.NPY_FLOAT32 and cnp.PyArray_ISCARRAY_RO(X)
                and cnp.PyArray_NDIM(X) == 2):
            raise ValueError("X is no C-contiguous matrix of float32")
        if not (cnp.PyArray_Check(out) and cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT32 and cnp.PyArray_ISCARRAY(out)
                and cnp.PyArray_NDIM(out) == 1):
            raise ValueError("out is no contiguous, writable vector of float32")
        cdef Py_ssize_t n_rows = cnp.PyArray_DIM(X, 0)
        cdef const float* rows = <const float*>cnp.PyArray_DATA(X)
        cdef float* results = <float*>cnp.PyArray_DATA(out)
        if cnp.PyArray_DIM(X, 1) != self.n_features:
            raise ValueError(f"X has {cnp.PyArray_DIM(X, 1)} columns, the forest takes {self.n_features}")
        if cnp.PyArray_DIM(out, 0) != n_rows:
            raise ValueError(f"out has {cnp.PyArray_DIM(out, 0)} rows, X has {n_rows}")
        if n_rows == 0:
            return
        if n_rows <= FEW_ROWS:
            self.run(rows, n_rows, results, low, high)
        else:
            with nogil:
                self.run(rows, n_rows, results, low, high)

    cdef void run(
        self, const float* rows, Py_ssize_t n_rows, float* results, float low, float high
    ) noexcept nogil:
        if self.predict_rows != NULL:
            self.predict_rows(rows, n_rows, results)
            clip(results, n_rows, low, high)
        else:
            predict_one_by_one(self.predict_row, rows, n_rows, self.n_features, results, low, high)


cdef void clip(float* out, Py_ssize_t n_rows, float low, float high) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n_rows):
        out[i] = low if out[i] < low else (high if out[i] > high else out[i])


cdef void predict_one_by_one(
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
