// What the ends share that messages come out of: receivers and taps.
#pragma once

#include "ends.hpp"

namespace psyne::python {

/// n= and linger= of a call. False with an exception set.
bool limit_from(PyObject* value, uint64_t& limit);
bool linger_from(PyObject* seconds, uint64_t& ns);

/// Without a channel yet: lets Python look for it until the deadline. False with an exception set.
template <class E>
bool await_channel(PyObject* self, E& e, uint64_t deadline) {
    while (!core_of(e)) {
        PyObject* done = PyObject_CallMethod(self, "_await_channel", "K", static_cast<unsigned long long>(deadline));
        if (!done) return false;
        Py_DECREF(done);
        if (e.closed || e.forked()) return e.refuse();
    }
    return true;
}

/// LeaseLimit if this end itself holds up all that could be sent.
inline bool hoards(const ReceiverEnd& e) {
    if (!e.receiver->hoards()) return false;
    raise("LeaseLimit", "this receiver holds every slot of " + e.address + " (" + std::to_string(e.receiver->outstanding()) +
                            " messages not released), so nothing can be sent; release or copy() some");
    return true;
}
inline bool hoards(const TapEnd&) { return false; }

/// An ended wait as an exception.
template <class E>
bool no_message(E& e, Wait result) {
    if (e.signal && !e.closed) return core_of(e)->stopping.store(false), e.refuse_signal();
    if (result == Wait::timeout) return raise("Empty", "no message on " + e.address + " in time"), false;
    if (result != Wait::stopped) return false;  // interrupted: the exception is set
    if (e.closed) return e.refuse();
    if (e.interrupted.exchange(false)) {
        core_of(e)->stopping.store(false);
        raise("Empty", "the wait for " + e.address + " was interrupted");
    } else if (hoards(e)) {
    } else if (core_of(e)->sender_lost()) {
        raise("SenderLost", "a sender of " + e.address + " died or failed; all that it sent was received. "
                            "follow=True waits for the next one");
    } else {
        raise("EndOfChannel", e.address + " has ended: its last sender closed and all was received");
    }
    return false;
}

/// None instead of Empty.
inline PyObject* none_if_empty(PyObject* got) {
    if (got || !caught("Empty")) return got;
    Py_RETURN_NONE;
}

/// Takes up to a limit of messages: (self, limit, batch?, deadline, linger).
using ReceiveSome = PyObject*(PyObject*, uint64_t, bool, uint64_t, uint64_t);

template <ReceiveSome* receive_some>
PyObject* receive_many(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[3];
    uint64_t limit, deadline, linger;
    if (!Call{"receive_many", args, n, names}.parse({"n", "timeout", "linger"}, values, 1) ||
        !limit_from(values[0], limit) || !deadline_from(values[1], deadline) || !linger_from(values[2], linger))
        return nullptr;
    return receive_some(self, limit, true, deadline, linger);
} catch (...) {
    return raise_current();
}

template <ReceiveSome* receive_some>
PyObject* try_receive_many(PyObject* self, PyObject* arg) try {
    uint64_t limit;
    return limit_from(arg, limit) ? none_if_empty(receive_some(self, limit, true, 0, 0)) : nullptr;
} catch (...) {
    return raise_current();
}

/// Closing, waiting and looking at such an end.
template <class E>
void bind_reading(nb::class_<E>& c) {
    c.def(nb::init<>())
        .def("_close",
             [](E& e) {
                 if (e.closed || e.forked()) return;
                 e.closed = true;
                 if (e.bell) e.bell->ring();
                 auto* core = core_of(e);
                 if (!core) return close_now(e);
                 core->stopping.store(true);
                 if (e.busy)
                     wake(e);
                 else
                     close_now(e);
             },
             nb::lock_self())
        .def("fileno", &fileno_of, nb::lock_self(),
             "A descriptor, readable while receive() would not wait; for select(), selectors and event loops.")
        .def("_enter",
             [](nb::handle self) {
                 E& e = *nb::inst_ptr<E>(self);
                 if (!e.enter()) throw nb::python_error();
                 Inside<E> inside{e};
                 if (!await_channel(self.ptr(), e, 0)) throw nb::python_error();
             },
             nb::lock_self(), "Join now, not at the first use.")
        .def_prop_ro("closed", [](const E& e) { return e.closed; }, nb::lock_self())
        .def_prop_ro("address", [](const E& e) { return e.address; }, nb::lock_self())
        .def_prop_ro("joined", [](E& e) { return core_of(e) != nullptr; }, nb::lock_self());
}

}  // namespace psyne::python
