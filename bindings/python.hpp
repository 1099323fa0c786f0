// What all binding files share: numpy's C API, errors as Python exceptions, time-outs, the fork guard.
#pragma once

#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL psyne_numpy_api
#ifndef PSYNE_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <numpy/arrayobject.h>

#include <psyne/opening.hpp>

namespace nb = nanobind;

namespace psyne::python {

#ifdef Py_GIL_DISABLED
inline constexpr bool kGil = false;
#else
inline constexpr bool kGil = true;
#endif

/// Of an object that nobody else has yet. Without a GIL, CPython counts the references of the thread that made an object
/// apart, and leaves its end to that thread. These are counted as one: exactly, and whoever drops the last frees it.
inline void count_as_one([[maybe_unused]] PyObject* o) {
#ifdef Py_GIL_DISABLED
    o->ob_tid = 0;
    Py_SET_REFCNT(o, 1);
#endif
}

/// References to what is counted as one. Whoever dropped others has read what it wanted to read.
inline Py_ssize_t references(PyObject* o) {
#ifdef Py_GIL_DISABLED
    return __atomic_load_n(&o->ob_ref_shared, __ATOMIC_ACQUIRE) >> _Py_REF_SHARED_SHIFT;
#else
    return Py_REFCNT(o);
#endif
}

/// What a module of psyne calls `name`, looked up once for each `cache`; borrowed. Null with an exception set.
PyObject* imported(std::atomic<PyObject*>& cache, const char* module, const char* name = nullptr);
/// An exception class of psyne.errors, by name; borrowed. Null with an exception set.
PyObject* error_class(const char* name);
/// Whether the exception that is set is of this class; clears it if so.
bool caught(const char* class_name);
/// What people call a channel that has an address of its own in here: errors and warnings say that. "": no more.
void show_as(const std::string& address, const std::string& shown);
/// A text with the addresses that people know.
std::string shown(const std::string& text);
/// Sets a Python exception; always null, so that slots can `return raise(...)`.
PyObject* raise(const char* class_name, const std::string& text);

/// Text that another process wrote: what is no UTF-8 in it is replaced. Null with an exception set.
PyObject* text_of(std::string_view bytes);
/// Turns the C++ exception in flight into a Python one.
PyObject* raise_current();

/// A thread that wants the GIL while the interpreter ends is told to exit, by an unwinding that no destructor may let
/// through, and with Python objects in its frames. It stands still instead until the process is gone.
template <class Take>
void take_gil(Take&& take) noexcept {
    try {
        take();
    } catch (...) {
        for (;;) ::pause();
    }
}
/// Lets the GIL go in its scope.
struct WithoutGil {
    PyThreadState* state = PyEval_SaveThread();
    WithoutGil() = default;
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;
    ~WithoutGil() {
        take_gil([this] { PyEval_RestoreThread(state); });
    }
};
/// Has the GIL in its scope, inside one without it.
struct WithGil {
    PyGILState_STATE state;
    WithGil() {
        take_gil([this] { state = PyGILState_Ensure(); });
    }
    WithGil(const WithGil&) = delete;
    WithGil& operator=(const WithGil&) = delete;
    ~WithGil() { PyGILState_Release(state); }
};

/// Lets signal handlers run, and what other threads left for this one to do. False when a handler raised.
bool run_pending();

/// A time-out in seconds as a deadline: None waits for ever, 0 not at all. False with an exception set.
bool deadline_from(PyObject* seconds, uint64_t& deadline);

/// Counted up in a forked child: what was joined before belongs to the parent.
extern std::atomic<uint64_t> fork_generation;

/// A decoded keyword call: the positional arguments and the keywords by name, or nothing.
struct Call {
    const char* function;
    PyObject* const* args;
    Py_ssize_t count;
    PyObject* names;
    /// The values of up to N parameters; absent ones are null. False with a TypeError set.
    template <size_t N>
    bool parse(const char* const (&parameters)[N], PyObject* (&values)[N], Py_ssize_t required = 0) const;
};

template <size_t N>
bool Call::parse(const char* const (&parameters)[N], PyObject* (&values)[N], Py_ssize_t required) const {
    if (count > static_cast<Py_ssize_t>(N)) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zu arguments (%zd given)", function, N, count);
        return false;
    }
    for (size_t i = 0; i < N; ++i) values[i] = static_cast<Py_ssize_t>(i) < count ? args[i] : nullptr;
    for (Py_ssize_t k = 0; names && k < PyTuple_GET_SIZE(names); ++k) {
        PyObject* name = PyTuple_GET_ITEM(names, k);
        size_t i = 0;
        while (i < N && PyUnicode_CompareWithASCIIString(name, parameters[i]) != 0) ++i;
        if (i == N || values[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
            return false;
        }
        values[i] = args[count + k];
    }
    for (Py_ssize_t i = 0; i < required; ++i)
        if (!values[i]) {
            PyErr_Format(PyExc_TypeError, "%s() misses the argument '%s'", function, parameters[i]);
            return false;
        }
    return true;
}

/// A METH_FASTCALL | METH_KEYWORDS function as the method table wants it.
template <class Function>
PyCFunction method(Function f) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

void bind_layout(nb::module_& m);
void bind_message(nb::module_& m);
void bind_dlpack(nb::module_& m);
void bind_private(nb::module_& m);
void bind_region(nb::module_& m);
void bind_allocator(nb::module_& m);
void bind_sender(nb::module_& m);
void bind_after(nb::module_& m);
void bind_call(nb::module_& m);
void bind_receiver(nb::module_& m);
void bind_runs(nb::module_& m);
void bind_tap(nb::module_& m);
void bind_opening(nb::module_& m);
void bind_statistics(nb::module_& m);
void bind_inspect(nb::module_& m);
void bind_waiting(nb::module_& m);
void bind_network(nb::module_& m);

}  // namespace psyne::python
