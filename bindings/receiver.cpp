// The receiving end: receive, batches, iteration. Decisions are the core's; this converts.
#include "guard.hpp"
#include "reading.hpp"

namespace psyne::python {

namespace {

/// Takes up to `limit` messages; false with an exception set.
bool take(PyObject* self, ReceiverEnd& e, uint64_t limit, Taken& t, uint64_t deadline) {
    for (;;) {
        if (!e.receiver && !await_channel(self, e, deadline)) return false;
        Receiver& r = *e.receiver;
        for (int i = e.gateway ? kPolls - 1 : 0; i < kPolls; ++i) {  // what comes over a network, this thread brings
            if (r.try_take(limit, t)) [[likely]]
                return true;
            if (deadline == 0) break;
            cpu_pause();
        }
        Wait result;
        const uint64_t since = sys::now_ns();
        if (deadline != 0 && r.outstanding() != 0) ++e.counts.held_while_waiting;
        {
            const WithoutGil nogil;
            result = e.gateway ? e.gateway->receive(r, limit, t, deadline, Tick{r.registry}) : r.receive(limit, t, deadline, Tick{r.registry});
        }
        if (deadline != 0) {
            ++e.counts.waits;
            e.counts.wait.add(sys::now_ns() - since);
        }
        if (result == Wait::ready) return true;
        if (result == Wait::stopped && !e.closed && !e.interrupted && e.follow && r.closed() && r.ended()) {
            r.close();  // replaced by a sender with other types: follow to its channel
            left(e);
            e.former.push_back(std::move(e.receiver));
            close_now(e);
            continue;
        }
        if (result == Wait::stopped && !e.closed && r.hoards()) {
            PyGC_Collect();
            if (!r.hoards()) continue;
        }
        if (result == Wait::stopped && !e.gateway && !r.over()) continue;  // another thread let go of a view meanwhile
        return no_message(e, result);
    }
}

void count(Counts& c, const Taken& t) {
    c.messages += t.count;
    const Slab& slab = t.lane->slab;
    if (slab.dropped) [[unlikely]]
        for (uint64_t i = 0; i < t.count; ++i) c.missed += slab.dropped[t.slot + i].load(relaxed);
    if (slab.stamps) {  // the first of a batch: the one that has waited longest
        const uint64_t now = sys::now_ns(), sent = t.stamp();
        c.latency.add(now > sent ? now - sent : 0);
    }
}

/// Is there room for a message of this layout where one was found? False with PeerCorrupted set: it is passed on unseen.
bool has_room(ReceiverEnd& e, const Taken& t, const Layout& layout, uint64_t room) {
    if (room >= layout.least()) [[likely]]
        return true;
    e.receiver->end(t, false);
    raise("PeerCorrupted", "a message of " + e.address + " lies in " + std::to_string(room) + " bytes, but " + layout.text() + " needs " +
                               std::to_string(layout.least()) + ". It was passed over; its sender is damaged or hostile");
    return false;
}

/// False with PeerCorrupted set: what lies there is passed on unseen.
bool fill(MessageObject* m, PyObject* self, ReceiverEnd& e, const Taken& t) {
    const Kind* kind = &e.kinds[0];
    const Slab& slab = t.lane->slab;
    if (e.kinds.size() > 1 || slab.variants) [[unlikely]] {
        if (!(kind = e.kind_of(slab.variants ? t.variant() : ~0ull))) {
            e.receiver->end(t, false);
            return false;
        }
    }
    const uint64_t room = kind->shape->columns ? slab.room : t.room();
    if (!has_room(e, t, *kind->shape, room)) return false;
    m->end = Py_NewRef(self);
    if (m->layout != kind->shape) [[unlikely]]
        retype(m, kind->type.ptr(), kind->shape);
    m->at = kind->shape->columns ? Place{slab.payload, slab.stride, slab.capacity, t.slot, room}
                                 : Place{t.data, slab.stride, 1, 0, room};
    m->count = t.count;
    m->open = true;
    m->writable = e.receiver->writes();
    m->hold.kind = Hold::Kind::taken;
    m->hold.receiver = e.receiver.get();
    m->hold.taken = t;
    link_taken(m);
    count(e.counts, t);
    return true;
}

MessageObject* empty(ReceiverEnd& e, bool batch) {
    const Kind& kind = e.kinds[0];
    if (batch) return new_batch(reinterpret_cast<PyTypeObject*>(e.batch_type.ptr()), kind.type.ptr(), kind.shape);
    return new_message(reinterpret_cast<PyTypeObject*>(kind.type.ptr()), kind.shape);
}

/// One message, or a batch of up to `limit`.
PyObject* receive_some(PyObject* self, uint64_t limit, bool batch, uint64_t deadline, uint64_t linger) {
    ReceiverEnd& e = receiver_end(self);
    if (!e.enter()) return nullptr;
    Inside<ReceiverEnd> inside{e};
    if (!e.receiver && !await_channel(self, e, deadline)) return nullptr;
    MessageObject* m = empty(e, batch);  // before the take: nothing may fail after it
    if (!m) return nullptr;
    Taken t;
    if (!take(self, e, limit, t, deadline)) {
        Py_DECREF(m);
        return nullptr;
    }
    if (linger != 0 && t.count < limit) {
        bool ok = true;
        {
            const WithoutGil nogil;
            if (e.gateway) e.gateway->leave();
            ok = e.receiver->linger(t, limit, sys::now_ns() + linger, Tick{e.receiver->registry});
        }
        if (!ok) {  // a signal handler raised: the caller never sees the batch
            e.receiver->give_back(t);
            Py_DECREF(m);
            return nullptr;
        }
    }
    if (!fill(m, self, e, t)) return drop_empty(m), nullptr;
    return reinterpret_cast<PyObject*>(m);
}

PyObject* receive(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    uint64_t deadline = kForever;
    if (n != 0 || names) {
        PyObject* values[1];
        if (!Call{"receive", args, n, names}.parse({"timeout"}, values) || !deadline_from(values[0], deadline))
            return nullptr;
    }
    return receive_some(self, 1, false, deadline, 0);
} catch (...) {
    return raise_current();
}

PyObject* try_receive(PyObject* self, PyObject*) try {
    ReceiverEnd& e = receiver_end(self);
    if (e.receiver && e.enter()) {  // the common case without the cost of an exception
        Inside<ReceiverEnd> inside{e};
        MessageObject* m = empty(e, false);
        Taken t;
        if (m && e.receiver->try_take(1, t)) {
            if (!fill(m, self, e, t)) return drop_empty(m), nullptr;
            return reinterpret_cast<PyObject*>(m);
        }
        Py_XDECREF(m);
        if (!m) return nullptr;
        if (!e.gateway && !e.receiver->ended_now() && !e.receiver->hoards()) Py_RETURN_NONE;
    }
    return PyErr_Occurred() ? nullptr : none_if_empty(receive_some(self, 1, false, 0, 0));
} catch (...) {
    return raise_current();
}

/// An array that receive_into() can fill; false with an exception set.
bool fits_into(const ReceiverEnd& e, PyObject* out) {
    if (!PyArray_Check(out)) {
        PyErr_Format(PyExc_TypeError, "receive_into() fills a numpy array, not a %s", Py_TYPE(out)->tp_name);
        return false;
    }
    auto* a = reinterpret_cast<PyArrayObject*>(out);
    const Kind& kind = e.kinds[0];
    if (e.kinds.size() != 1 || kind.shape->shaped || kind.shape->columns || kind.shape->fortran)
        PyErr_SetString(PyExc_TypeError, "receive_into() is for channels of one type in rows and C order");
    else if (!kind.shape->fits(a, true))
        raise("LayoutMismatch", e.address + " carries " + e.kinds_text() + "; out= is an array of any number of these");
    else if (!PyArray_ISWRITEABLE(a) || !PyArray_IS_C_CONTIGUOUS(a) || PyArray_DIM(a, 0) == 0)
        PyErr_SetString(PyExc_ValueError, "out= is a writable, C-contiguous array for at least one message");
    return !PyErr_Occurred();
}

/// Copies what was taken behind the `n` messages that `out` has already, and ends it. False with PeerCorrupted set.
bool copy_out(ReceiverEnd& e, const Taken& t, std::byte* out, uint64_t n) {
    const uint64_t bytes = e.kinds[0].shape->bytes, stride = t.lane->slab.stride;
    if (!has_room(e, t, *e.kinds[0].shape, t.room())) return false;
    for (uint64_t i = 0; i < t.count; ++i) std::memcpy(out + (n + i) * bytes, t.data + i * stride, bytes);
    e.counts.copied += t.count * bytes;
    count(e.counts, t);
    e.receiver->end(t, false);
    return true;
}

/// Up to len(out) messages of all senders. After the first it waits `linger` for more.
PyObject* receive_into(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[3];
    uint64_t deadline, linger;
    ReceiverEnd& e = receiver_end(self);
    if (!Call{"receive_into", args, n, names}.parse({"out", "timeout", "linger"}, values, 1) ||
        !deadline_from(values[1], deadline) || !linger_from(values[2], linger) || !e.enter())
        return nullptr;
    Inside<ReceiverEnd> inside{e};
    if ((!e.receiver && !await_channel(self, e, deadline)) || !fits_into(e, values[0])) return nullptr;
    auto* a = reinterpret_cast<PyArrayObject*>(values[0]);
    auto* out = static_cast<std::byte*>(PyArray_DATA(a));
    const auto most = static_cast<uint64_t>(PyArray_DIM(a, 0));
    Taken t;
    if (!take(self, e, most, t, deadline)) return nullptr;
    if (!fits_into(e, values[0])) return e.receiver->give_back(t), nullptr;  // followed to another channel
    const uint64_t until = linger ? sys::now_ns() + linger : 0;
    uint64_t got = 0;
    for (;;) {
        if (!copy_out(e, t, out, got)) return nullptr;
        got += t.count;
        if (got == most) break;
        if (e.receiver->try_take(most - got, t)) continue;
        if (until == 0) break;
        Wait result;
        {
            const WithoutGil nogil;
            if (e.gateway) e.gateway->leave();
            result = e.receiver->receive(most - got, t, until, Tick{e.receiver->registry});
        }
        if (result == Wait::interrupted) return nullptr;
        if (result != Wait::ready) break;  // the end of the channel comes with the next call
    }
    return PyLong_FromUnsignedLongLong(got);
} catch (...) {
    return raise_current();
}

// ---- iteration: each step ends the message before it ------------------------------------------------------------

struct IterationObject {
    PyObject_HEAD
    PyObject* end;
    MessageObject* last;
    uint64_t limit;  // 0: single messages
    uint64_t linger;
};
PyTypeObject* iteration_type = nullptr;

PyObject* iterate(PyObject* self, uint64_t limit, uint64_t linger) {
    auto* it = PyObject_New(IterationObject, iteration_type);
    if (!it) return nullptr;
    it->end = Py_NewRef(self);
    it->last = nullptr;
    it->limit = limit;
    it->linger = linger;
    return reinterpret_cast<PyObject*>(it);
}

PyObject* iter(PyObject* self) { return iterate(self, 0, 0); }

PyObject* batches(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    PyObject* values[2];
    uint64_t limit, linger;
    if (!Call{"batches", args, n, names}.parse({"n", "linger"}, values, 1) || !limit_from(values[0], limit) ||
        !linger_from(values[1], linger))
        return nullptr;
    return iterate(self, limit, linger);
}

PyObject* iteration_next(PyObject* o) try {
    auto* it = reinterpret_cast<IterationObject*>(o);
    const Guard guard(it->end);
    if (it->last) {
        MessageObject* last = std::exchange(it->last, nullptr);
        const bool ok = finish_message(last, last->count);
        Py_DECREF(last);
        if (!ok) return nullptr;
    }
    PyObject* m = it->limit == 0 ? receive_some(it->end, 1, false, kForever, 0)
                                 : receive_some(it->end, it->limit, true, kForever, it->linger);
    if (m) {
        it->last = reinterpret_cast<MessageObject*>(Py_NewRef(m));
        return m;
    }
    if (!caught("EndOfChannel")) caught("ChannelClosed");  // StopIteration
    return nullptr;
} catch (...) {
    return raise_current();
}

void iteration_dealloc(PyObject* o) {
    auto* it = reinterpret_cast<IterationObject*>(o);
    Py_XDECREF(it->last);
    Py_DECREF(it->end);
    PyTypeObject* type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"receive", method(guarded<receive>), METH_FASTCALL | METH_KEYWORDS,
     "receive($self, timeout=None)\n--\n\n"
     "The next message; its with block, release() or the last reference gone ends it.\n\n"
     "Raises Empty after timeout seconds, EndOfChannel, SenderLost, ChannelClosed, LeaseLimit."},
    {"try_receive", guarded<try_receive>, METH_NOARGS,
     "try_receive($self)\n--\n\nThe next message, or None when there is none now."},
    {"receive_many", method(guarded<receive_many<receive_some>>), METH_FASTCALL | METH_KEYWORDS,
     "receive_many($self, n, timeout=None, linger=0.0)\n--\n\n"
     "1 to n consecutive messages of one sender as one Batch; after the first waits linger seconds for more."},
    {"try_receive_many", guarded<try_receive_many<receive_some>>, METH_O,
     "try_receive_many($self, n, /)\n--\n\n1 to n messages as one Batch, or None when there is none now."},
    {"receive_into", method(guarded<receive_into>), METH_FASTCALL | METH_KEYWORDS,
     "receive_into($self, out, timeout=None, linger=0.0)\n--\n\n"
     "Copy 1 to len(out) messages of all senders into an array, and end them; how many.\n\n"
     "out is C-contiguous, of shape (n, *shape) and of the channel's dtype."},
    {"batches", method(batches), METH_FASTCALL | METH_KEYWORDS,
     "batches($self, n, linger=0.0)\n--\n\nIterate over receive_many(); each step ends the batch before it."},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot slots[] = {{Py_tp_methods, methods}, {Py_tp_iter, reinterpret_cast<void*>(iter)}, {0, nullptr}};

}  // namespace

bool linger_from(PyObject* seconds, uint64_t& ns) {
    ns = 0;
    if (!seconds) return true;
    uint64_t deadline;
    if (seconds == Py_None || !deadline_from(seconds, deadline)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "linger is a number of seconds, 0 or more");
        return false;
    }
    ns = static_cast<uint64_t>(PyFloat_AsDouble(seconds) * 1e9);
    return true;
}

bool limit_from(PyObject* value, uint64_t& limit) {
    const Py_ssize_t n = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (n == -1 && PyErr_Occurred()) return false;
    if (n < 1) {
        PyErr_Format(PyExc_ValueError, "a batch has at least 1 message; got n=%zd", n);
        return false;
    }
    limit = static_cast<uint64_t>(n);
    return true;
}

void bind_receiver(nb::module_& m) {
    nb::class_<ReceiverEnd> c(m, "ReceiverEnd", nb::type_slots(slots), "The native receiving end.");
    bind_reading(c);
    c.def("_give_back", [](ReceiverEnd& e) { return e.closed || e.busy || e.forked() ? 0 : give_back_held(e); }, nb::lock_self(),
          "Hand what this end holds back to its stage; how many messages.");

    static PyType_Slot iteration_slots[] = {{Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
                                            {Py_tp_iternext, reinterpret_cast<void*>(iteration_next)},
                                            {Py_tp_dealloc, reinterpret_cast<void*>(iteration_dealloc)},
                                            {0, nullptr}};
    static PyType_Spec spec = {"psyne._native.Iteration", sizeof(IterationObject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, iteration_slots};
    iteration_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!iteration_type) throw nb::python_error();
    m.attr("Iteration") = nb::borrow(reinterpret_cast<PyObject*>(iteration_type));
}

ReceiverEnd::~ReceiverEnd() {
    closed = true;  // its messages hold it: none is left
    close_now(*this);
}

}  // namespace psyne::python
