// Without a GIL: a lock for each end, which keeps what the GIL keeps where there is one.
//
//   tx.loan()   m.release()   m.n = 1   m.array   the last view gone   ──▶   the lock of their end
//   Imu(n=1)    m.copy()      what has no end                          ──▶   the lock of the message itself
//
// It is a critical section of Python's: whoever waits lets it go, as it does the GIL. The method tables take it (and
// nanobind, where it says lock), and what runs when a last reference goes; what these call is inside. Ends have no lock
// order: a critical section that would wait for another lets its own go, so nothing is to be half done when Python runs.
#pragma once

#include "message.hpp"

namespace psyne::python {

#ifdef Py_GIL_DISABLED

/// Has the lock of an end or a message in its scope; of two, where the second is a message, too.
class Guard {
public:
    explicit Guard(PyObject* o) : Guard(o, nullptr) {}
    Guard(PyObject* o, PyObject* other) {
        PyObject *lock = lock_of(o), *second = other && is_message(other) ? lock_of(other) : lock;
        take_gil([&] { PyCriticalSection2_Begin(&section_, lock, second); });
    }
    ~Guard() {
        take_gil([this] { PyCriticalSection2_End(&section_); });
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

private:
    PyCriticalSection2 section_;

    static PyObject* lock_of(PyObject* o) {
        if (!is_message(o)) return o;
        MessageObject* m = root(reinterpret_cast<MessageObject*>(o));
        return m->end ? m->end : reinterpret_cast<PyObject*>(m);
    }
};

template <auto function>
struct Guarded;
template <class Result, class... Args, Result (*function)(PyObject*, Args...)>
struct Guarded<function> {
    static Result call(PyObject* self, Args... args) {
        const Guard guard(self);
        return function(self, args...);
    }
};
/// A method of an end or a message that has its lock.
template <auto function>
constexpr auto guarded = &Guarded<function>::call;

#else

struct Guard {
    explicit Guard(PyObject*, PyObject* = nullptr) {}
};
template <auto function>
constexpr auto guarded = function;

#endif

}  // namespace psyne::python
