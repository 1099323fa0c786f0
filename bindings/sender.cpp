// The sending end: loan, send, drain. Decisions are the core's; this converts.
#include "guard.hpp"
#include "sending.hpp"

namespace psyne::python {

namespace {

constexpr uint64_t kAllSent = ~0ull;

void fill(MessageObject* m, PyObject* self, const Kind& kind, const Loan& loan) {
    m->end = Py_NewRef(self);
    m->at = place_of(kind, loan);
    m->count = loan.count;
    m->open = m->writable = true;
    m->hold.kind = Hold::Kind::loan;
    m->hold.loan = loan;
    m->hold.loan.variant = kind.header;
    if (!kind.shape->zeroed || m->batch) return;
    if (!kind.shape->columns) std::memset(m->at.data, 0, kind.shape->bytes);
    for (const Layout::Column& c : kind.shape->fields) std::memset(m->at.field(*kind.shape, c.offset, c.bytes), 0, c.bytes);
}

/// full="drop" and no room: private memory that nobody will see.
bool scratch(MessageObject* m, PyObject* self, uint64_t n) {
    m->count = n;
    if (!make_private(m)) {
        Py_DECREF(m);
        return false;
    }
    m->end = Py_NewRef(self);
    m->hold.kind = Hold::Kind::scratch;
    return true;
}

MessageObject* empty(SenderEnd& e, const Kind& kind, bool batch) {
    if (batch) return new_batch(reinterpret_cast<PyTypeObject*>(e.batch_type.ptr()), kind.type.ptr(), kind.shape);
    return new_message(reinterpret_cast<PyTypeObject*>(kind.type.ptr()), kind.shape);
}

/// `dims`: that a shaped message begins with. A first one below 0: as many as there is room for.
PyObject* loan_slots(PyObject* self, const Kind* kind, uint64_t n, bool batch, uint64_t deadline, bool try_only,
                     const Dims* dims = nullptr) {
    SenderEnd& e = sender_end(self);
    if (!kind) return nullptr;
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    MessageObject* m = empty(e, *kind, batch);  // before the take: nothing may fail after it
    if (!m) return nullptr;
    Loan loan;
    uint64_t elements = 0, bytes = 0;
    if (dims) {
        elements = kind->shape->element();  // at least one
        if (dims->n[0] >= 0) dims->bytes(kind->shape->element(), kind->shape->room, elements);
        bytes = bytes_for(e, *kind, elements);
    }
    const bool ok = take_now(e, n, loan, bytes);
    if (!ok && PyErr_Occurred()) {
        Py_DECREF(m);
        return nullptr;
    }
    if (!ok && (try_only || e.drops)) e.sender->look_after_others();
    if (!ok && try_only) {
        Py_DECREF(m);
        Py_RETURN_NONE;
    }
    if (!ok && e.drops) {
        if (!scratch(m, self, n)) return nullptr;
    } else if (!ok && !take_loan(e, n, loan, deadline, bytes)) {
        Py_DECREF(m);
        return nullptr;
    } else {
        fill(m, self, *kind, loan);
    }
    if (dims) {
        Dims d = *dims;
        if (d.n[0] < 0) d.n[0] = static_cast<npy_intp>(kind->shape->elements_in(m->at.room) / kind->shape->element());
        kind->shape->write_dims(m->at.data, m->at.room, d);
    }
    return reinterpret_cast<PyObject*>(m);
}

/// The dimensions that a loan of a shaped message begins with. False with an exception set.
bool first_dims(const Layout& layout, PyObject* shape, PyObject* size, Dims& out) {
    if (shape && size) return PyErr_SetString(PyExc_TypeError, "give shape= or size=, not both"), false;
    if (size && layout.shaped && layout.dims.ndim != 1)
        return PyErr_SetString(PyExc_TypeError, "size= is for types of one dimension; give shape="), false;
    if (shape || size) return shape_from(shape ? shape : size, layout, out);
    if (!layout.shaped) return true;
    if (layout.dims.ndim > 1)
        return PyErr_Format(PyExc_TypeError, "messages of this type bring their own shape of %d dimensions: loan(shape=(...))",
                            layout.dims.ndim), false;
    out.ndim = layout.dims.ndim;
    out.n[0] = -1;  // as long as there is room for, to be truncated
    return true;
}

/// The longest batch: the ring, or what a ring that grows could become.
uint64_t most_in_a_row(const SenderEnd& e) {
    if (!e.sender) return std::max(e.planned, e.budget);  // of slots of one byte: it is not known yet
    const uint64_t slots = e.sender->capacity();
    return e.budget != 0 ? std::max(slots, e.budget / e.sender->stride()) : slots;
}

const Kind* any_kind(SenderEnd& e) { return e.kinds.size() == 1 ? &e.kinds[0] : e.kind_named(Py_None); }

PyObject* loan(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    SenderEnd& e = sender_end(self);
    uint64_t deadline = kForever;
    if (n == 0 && !names && e.kinds.size() == 1 && !e.kinds[0].shape->shaped) [[likely]]
        return loan_slots(self, &e.kinds[0], 1, false, deadline, false);
    PyObject* values[4];
    if (!Call{"loan", args, n, names}.parse({"type", "shape", "size", "timeout"}, values) ||
        !deadline_from(values[3], deadline))
        return nullptr;
    const Kind* kind = e.kind_named(values[0] ? values[0] : Py_None);
    Dims dims;
    if (!kind || !first_dims(*kind->shape, values[1], values[2], dims)) return nullptr;
    return loan_slots(self, kind, 1, false, deadline, false, kind->shape->shaped ? &dims : nullptr);
} catch (...) {
    return raise_current();
}

PyObject* try_loan(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    SenderEnd& e = sender_end(self);
    PyObject* values[3];
    if (!Call{"try_loan", args, n, names}.parse({"type", "shape", "size"}, values)) return nullptr;
    const Kind* kind = e.kind_named(values[0] ? values[0] : Py_None);
    Dims dims;
    if (!kind || !first_dims(*kind->shape, values[1], values[2], dims)) return nullptr;
    return loan_slots(self, kind, 1, false, 0, true, kind->shape->shaped ? &dims : nullptr);
} catch (...) {
    return raise_current();
}

PyObject* loan_many(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[3];
    uint64_t deadline;
    if (!Call{"loan_many", args, n, names}.parse({"n", "type", "timeout"}, values, 1) || !deadline_from(values[2], deadline))
        return nullptr;
    const Py_ssize_t count = PyNumber_AsSsize_t(values[0], PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) return nullptr;
    SenderEnd& e = sender_end(self);
    const uint64_t most = most_in_a_row(e);
    if (count < 1 || static_cast<uint64_t>(count) > most) {
        PyErr_Format(PyExc_ValueError, "loan_many(%zd): 1 to %llu messages lie consecutively in this channel; raise %s=",
                     count, static_cast<unsigned long long>(most), e.budget != 0 ? "budget" : "capacity");
        return nullptr;
    }
    const Kind* kind = values[1] ? e.kind_named(values[1]) : any_kind(e);
    if (kind && kind->shape->shaped)
        return PyErr_SetString(PyExc_TypeError, "messages that bring their own shapes are loaned one by one: loan(shape=(...))"), nullptr;
    return loan_slots(self, kind, static_cast<uint64_t>(count), true, deadline, false);
} catch (...) {
    return raise_current();
}

PyObject* sent(SenderEnd& e, const Copied& c) {
    e.sender->commit(c.loan, 1);
    e.counts.messages += 1;
    e.counts.copied += c.bytes;
    Py_RETURN_TRUE;
}

PyObject* send(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[3] = {n == 1 ? args[0] : nullptr, nullptr, nullptr};
    uint64_t deadline = kForever;
    if (n != 1 || names) {
        if (!Call{"send", args, n, names}.parse({"message", "timeout", "after"}, values, 1) || !deadline_from(values[1], deadline))
            return nullptr;
        if (values[2] && values[2] != Py_None) return PyObject_CallMethod(self, "_send_after", "OO", values[0], values[2]);
    }
    SenderEnd& e = sender_end(self);
    PyObject* what = values[0];
    const Guard guard(self, what);
    if (MessageObject* m = own_loan(self, what)) {  // published in place
        const bool dropped = m->hold.kind == Hold::Kind::scratch;
        if (!usable(m) || !finish_message(m, m->count)) return nullptr;
        return PyBool_FromLong(!dropped);
    }
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    Copied c;
    if (!copy_in(e, what, deadline, e.drops, c)) {
        if (PyErr_Occurred()) return nullptr;
        e.sender->drop(1), ++e.counts.missed;
        Py_RETURN_FALSE;
    }
    return sent(e, c);
} catch (...) {
    return raise_current();
}

/// Sends the messages of an array from `sent` on, and counts it up. `try_only`: as far as there is room.
bool send_from(PyObject* self, PyObject* messages, PyObject* type, uint64_t& sent, uint64_t deadline, bool try_only) {
    const Guard guard(self, messages);
    SenderEnd& e = sender_end(self);
    if (!enter_joined(self, e)) return false;
    Inside<SenderEnd> inside{e};
    const Kind* kind = type ? e.kind_named(type) : any_kind(e);
    Source source;
    if (!kind || !source.of(messages, e, *kind, true)) return false;
    nb::object array = nb::borrow(messages);
    while (sent < source.count) {
        const uint64_t most = std::max<uint64_t>(e.sender->capacity() / 4, 1);
        const uint64_t k = std::min({source.count - sent, e.sender->rest_of_lap(), most});
        Loan loan;
        if (!take_now(e, k, loan)) {
            if (PyErr_Occurred()) return false;
            if (e.drops) {
                e.sender->look_after_others();
                e.sender->drop(k), e.counts.missed += k;
                sent += k;
                continue;
            }
            if (try_only) return true;
            if (!take_loan(e, k, loan, deadline)) return false;
        }
        loan.variant = kind->header;
        if (!source.copy_to(place_of(*kind, loan), k, sent)) {
            e.sender->discard(loan);
            return false;
        }
        e.sender->commit(loan, k);
        e.counts.messages += k;
        e.counts.copied += k * source.bytes();
        sent += k;
    }
    sent = kAllSent;
    return true;
}

/// For event loops: True when it was sent, None while there is no room.
PyObject* try_send(PyObject* self, PyObject* what) try {
    const Guard guard(self, what);
    SenderEnd& e = sender_end(self);
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    Copied c;
    if (!copy_in(e, what, 0, true, c)) {
        if (PyErr_Occurred()) return nullptr;
        Py_RETURN_NONE;
    }
    return sent(e, c);
} catch (...) {
    return raise_current();
}

PyObject* send_many(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[3];
    uint64_t deadline, sent = 0;
    if (!Call{"send_many", args, n, names}.parse({"array", "type", "timeout"}, values, 1) || !deadline_from(values[2], deadline))
        return nullptr;
    if (!send_from(self, values[0], values[1], sent, deadline, false)) return nullptr;
    Py_RETURN_NONE;
} catch (...) {
    return raise_current();
}

/// (array, type, start) -> where to go on when there is room, or None when all was sent.
PyObject* send_some(PyObject* self, PyObject* const* args, Py_ssize_t n) try {
    if (n != 3) return PyErr_Format(PyExc_TypeError, "_send_some(array, type, start)");
    uint64_t sent = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred() || !send_from(self, args[0], args[1] == Py_None ? nullptr : args[1], sent, 0, true)) return nullptr;
    if (sent == kAllSent) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(sent);
} catch (...) {
    return raise_current();
}

PyObject* drain(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[1];
    uint64_t deadline;
    if (!Call{"drain", args, n, names}.parse({"timeout"}, values) || !deadline_from(values[0], deadline)) return nullptr;
    SenderEnd& e = sender_end(self);
    if (e.held_back != 0) {
        PyObject* done = PyObject_CallMethod(self, "_await_events", "O", values[0] ? values[0] : Py_None);
        if (!done) return nullptr;
        Py_DECREF(done);
    }
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    Wait result;
    {
        const WithoutGil nogil;
        result = e.sender->drain(deadline, Tick{e.sender->registry});
    }
    if (result == Wait::ready) Py_RETURN_NONE;
    if (result == Wait::interrupted) return nullptr;
    if (result == Wait::stopped && e.signal && !e.closed) return e.sender->stopping.store(false), e.refuse_signal(), nullptr;
    if (result == Wait::stopped) return e.refuse(), nullptr;
    return raise("Full", e.address + " was not drained in time: " + e.sender->why_not_passed());
} catch (...) {
    return raise_current();
}

PyMethodDef methods[] = {
    {"loan", method(guarded<loan>), METH_FASTCALL | METH_KEYWORDS,
     "loan($self, type=None, /, *, shape=..., size=..., timeout=None)\n--\n\n"
     "A slot to write in place. The end of its with block sends it, an exception or discard() takes it back.\n\n"
     "type: which, in a channel of several. shape, size: of a message that brings its own; without size= it is as long as\n"
     "the slot has room for, in a channel that grows: has room for now. Raises Full after timeout seconds, ChannelClosed,\n"
     "LeaseLimit, ValueError for a shape beyond max_bytes, NoSpace for one beyond budget."},
    {"try_loan", method(guarded<try_loan>), METH_FASTCALL | METH_KEYWORDS,
     "try_loan($self, type=None, /, *, shape=..., size=...)\n--\n\nA slot as of loan(), or None when the ring is full."},
    {"loan_many", method(guarded<loan_many>), METH_FASTCALL | METH_KEYWORDS,
     "loan_many($self, n, type=None, /, *, timeout=None)\n--\n\n"
     "Exactly n consecutive slots as one Batch; its truncate(k) sends only the first k. Raises ValueError for n above the\n"
     "capacity (of a ring that grows: above its budget), Full."},
    {"send", method(send), METH_FASTCALL | METH_KEYWORDS,
     "send($self, message, timeout=None, after=None)\n--\n\n"
     "Copy one message, array, buffer, text or number in and send it; one's own loan is sent in place, also when the event\n"
     "after is done: then this returns at once.\n\n"
     "False: dropped (full=\"drop\"). Raises LayoutMismatch for another dtype or shape, Full."},
    {"call", method(call), METH_FASTCALL | METH_KEYWORDS,
     "call($self, message, timeout=None)\n--\n\n"
     "Send one message as send() does, wait until every stage has passed it, and give it back for reading what they wrote.\n\n"
     "The same slot, read-only; it is lent again when the message has ended. Raises Full without room, Empty without an\n"
     "answer in time, TakenOut, ChannelClosed, LayoutMismatch."},
    {"send_many", method(send_many), METH_FASTCALL | METH_KEYWORDS,
     "send_many($self, array, type=None, timeout=None)\n--\n\n"
     "Copy any number of messages, an array of shape (k, *shape), and send them; for columns also a dict of arrays."},
    {"_try_send", try_send, METH_O, "As send() where there is room, or None."},
    {"_send_some", method(send_some), METH_FASTCALL, "Copy in what there is room for, and send it."},
    {"drain", method(guarded<drain>), METH_FASTCALL | METH_KEYWORDS,
     "drain($self, timeout=None)\n--\n\nWait until every stage has passed all that was sent. Raises Full at the time-out."},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};

}  // namespace

void bind_sender(nb::module_& m) {
    nb::class_<SenderEnd>(m, "SenderEnd", nb::type_slots(slots), "The native sending end.")
        .def(nb::init<>())
        .def("_close",
             [](SenderEnd& e, bool failed) {
                 if (e.closed || e.forked()) return;
                 e.closed = true;
                 e.close_failed = failed;
                 if (!e.sender) return;
                 e.sender->stopping.store(true);
                 if (e.bell) e.bell->ring();
                 if (e.busy)
                     e.sender->registry.wake(e.sender->registry.id);
                 else
                     close_now(e);
             },
             nb::arg("failed"), nb::lock_self())
        .def("fileno", &fileno_of, nb::lock_self(),
             "A descriptor, readable while loan() would not wait; for select(), selectors and event loops.")
        .def_prop_ro("_drops", [](const SenderEnd& e) { return e.drops; })
        .def_prop_ro("_most", &most_in_a_row, nb::lock_self(), "The longest batch.")
        .def("_enter",
             [](nb::handle self) {
                 SenderEnd& e = sender_end(self.ptr());
                 if (!enter_joined(self.ptr(), e)) throw nb::python_error();
                 Inside<SenderEnd> inside{e};
             },
             nb::lock_self(), "Join now, not at the first use.")
        .def_prop_ro("closed", [](const SenderEnd& e) { return e.closed; }, nb::lock_self())
        .def_prop_ro("address", [](const SenderEnd& e) { return e.address; }, nb::lock_self())
        .def_prop_ro("capacity", [](const SenderEnd& e) { return e.sender ? e.sender->capacity() : e.planned; }, nb::lock_self())
        .def_prop_ro("joined", [](const SenderEnd& e) { return e.sender != nullptr; }, nb::lock_self());
}

SenderEnd::~SenderEnd() {
    if (!closed) {
        closed = true;
        close_now(*this);
    }
}

}  // namespace psyne::python
