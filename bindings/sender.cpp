// The sending end: loan, send, drain. Decisions are the core's; this converts.
#include "source.hpp"

namespace psyne::python {

namespace {

/// Waits for `n` slots; false with an exception set. Without room and time: Full.
bool take_loan(SenderEnd& e, uint64_t n, Loan& loan, uint64_t deadline) {
    if (e.sender->try_loan(n, loan)) [[likely]]
        return true;
    Wait result;
    {
        nb::gil_scoped_release nogil;
        result = e.sender->loan(n, loan, deadline, Tick{e.sender->registry, e.sender.get()});
    }
    switch (result) {
        case Wait::ready: return true;
        case Wait::interrupted: return false;
        case Wait::stopped:
            if (e.closed) return e.refuse();
            raise("LeaseLimit", "the oldest slot of " + e.address + " is still used by arrays that you kept of a sent "
                                "message; drop or copy() them (" + std::to_string(e.sender->capacity()) + " slots)");
            return false;
        case Wait::timeout: break;
    }
    raise("Full", e.address + " is full (" + std::to_string(e.sender->capacity()) + " messages): " +
                      e.sender->why_full() + ". Wait longer, raise capacity=, or drop with full=\"drop\"");
    return false;
}

void fill(MessageObject* m, PyObject* self, SenderEnd& e, const Loan& loan) {
    m->end = Py_NewRef(self);
    m->data = loan.data;
    m->count = loan.count;
    m->stride = e.sender->stride();
    m->open = m->writable = true;
    m->hold.kind = Hold::Kind::loan;
    m->hold.loan = loan;
    if (e.shape->zeroed && !m->batch) std::memset(m->data, 0, e.shape->bytes);
}

/// full="drop" and no room: private memory that nobody will see.
PyObject* scratch(MessageObject* m, PyObject* self, uint64_t n) {
    m->count = n;
    if (!make_private(m)) {
        Py_DECREF(m);
        return nullptr;
    }
    m->end = Py_NewRef(self);
    m->hold.kind = Hold::Kind::scratch;
    return reinterpret_cast<PyObject*>(m);
}

MessageObject* empty(SenderEnd& e, bool batch) {
    return batch ? new_batch(reinterpret_cast<PyTypeObject*>(e.batch_type.ptr()), e.shape)
                 : new_message(reinterpret_cast<PyTypeObject*>(e.type.ptr()), e.shape);
}

PyObject* loan_slots(PyObject* self, uint64_t n, bool batch, uint64_t deadline, bool try_only) {
    SenderEnd& e = sender_end(self);
    if (!e.enter()) return nullptr;
    Inside<SenderEnd> inside{e};
    MessageObject* m = empty(e, batch);  // before the take: nothing may fail after it
    if (!m) return nullptr;
    Loan loan;
    bool ok = e.sender->try_loan(n, loan);
    if (!ok && (try_only || e.drops)) e.sender->look_after_others();
    if (!ok && try_only) {
        Py_DECREF(m);
        Py_RETURN_NONE;
    }
    if (!ok && e.drops) return scratch(m, self, n);
    if (!ok && !take_loan(e, n, loan, deadline)) {
        Py_DECREF(m);
        return nullptr;
    }
    fill(m, self, e, loan);
    return reinterpret_cast<PyObject*>(m);
}

PyObject* loan(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    uint64_t deadline = kForever;
    if (n != 0 || names) {
        PyObject* values[1];
        if (!Call{"loan", args, n, names}.parse({"timeout"}, values) || !deadline_from(values[0], deadline)) return nullptr;
    }
    return loan_slots(self, 1, false, deadline, false);
} catch (...) {
    return raise_current();
}

PyObject* try_loan(PyObject* self, PyObject*) try {
    return loan_slots(self, 1, false, 0, true);
} catch (...) {
    return raise_current();
}

PyObject* loan_many(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[2];
    uint64_t deadline;
    if (!Call{"loan_many", args, n, names}.parse({"n", "timeout"}, values, 1) || !deadline_from(values[1], deadline))
        return nullptr;
    const Py_ssize_t count = PyNumber_AsSsize_t(values[0], PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) return nullptr;
    SenderEnd& e = sender_end(self);
    if (e.sender && (count < 1 || static_cast<uint64_t>(count) > e.sender->capacity())) {
        PyErr_Format(PyExc_ValueError, "loan_many(%zd): 1 to %llu messages lie consecutively in this channel; raise capacity=",
                     count, static_cast<unsigned long long>(e.sender->capacity()));
        return nullptr;
    }
    return loan_slots(self, static_cast<uint64_t>(count), true, deadline, false);
} catch (...) {
    return raise_current();
}

PyObject* send(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[2] = {n == 1 ? args[0] : nullptr, nullptr};
    uint64_t deadline = kForever;
    if (n != 1 || names)
        if (!Call{"send", args, n, names}.parse({"message", "timeout"}, values, 1) || !deadline_from(values[1], deadline))
            return nullptr;
    SenderEnd& e = sender_end(self);
    PyObject* what = values[0];
    if (is_message(what)) {
        auto* m = reinterpret_cast<MessageObject*>(what);
        const bool own = m->end == self && (m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::scratch);
        if (own) {  // one's own loan: published in place
            const bool dropped = m->hold.kind == Hold::Kind::scratch;
            if (!usable(m) || !finish_message(m, m->count)) return nullptr;
            return PyBool_FromLong(!dropped);
        }
    }
    if (!e.enter()) return nullptr;
    Inside<SenderEnd> inside{e};
    Source source;
    if (!source.of(what, *e.shape, false)) return nullptr;
    Loan loan;
    if (!e.sender->try_loan(1, loan)) [[unlikely]] {
        if (e.drops) {
            e.sender->look_after_others();
            e.sender->drop(1);
            Py_RETURN_FALSE;
        }
        if (!take_loan(e, 1, loan, deadline)) return nullptr;
        if (!source.of(what, *e.shape, false)) {  // others ran meanwhile: look again
            e.sender->discard(loan);
            return nullptr;
        }
    }
    if (!source.copy_to(loan.data, 1, 0, *e.shape, e.sender->stride())) {
        e.sender->discard(loan);
        return nullptr;
    }
    e.sender->commit(loan, 1);
    Py_RETURN_TRUE;
} catch (...) {
    return raise_current();
}

PyObject* send_many(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[2];
    uint64_t deadline;
    if (!Call{"send_many", args, n, names}.parse({"array", "timeout"}, values, 1) || !deadline_from(values[1], deadline))
        return nullptr;
    SenderEnd& e = sender_end(self);
    if (!e.enter()) return nullptr;
    Inside<SenderEnd> inside{e};
    Source source;
    if (!source.of(values[0], *e.shape, true)) return nullptr;
    nb::object array = nb::borrow(source.array ? source.array : values[0]);
    uint64_t sent = 0;
    while (sent < source.count) {
        const uint64_t most = std::max<uint64_t>(e.sender->capacity() / 4, 1);
        const uint64_t k = std::min({source.count - sent, e.sender->rest_of_lap(), most});
        Loan loan;
        if (!e.sender->try_loan(k, loan)) {
            if (e.drops) {
                e.sender->look_after_others();
                e.sender->drop(k);
                sent += k;
                continue;
            }
            if (!take_loan(e, k, loan, deadline)) return nullptr;
        }
        if (!source.copy_to(loan.data, k, sent, *e.shape, e.sender->stride())) {
            e.sender->discard(loan);
            return nullptr;
        }
        e.sender->commit(loan, k);
        sent += k;
    }
    Py_RETURN_NONE;
} catch (...) {
    return raise_current();
}

PyObject* drain(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[1];
    uint64_t deadline;
    if (!Call{"drain", args, n, names}.parse({"timeout"}, values) || !deadline_from(values[0], deadline)) return nullptr;
    SenderEnd& e = sender_end(self);
    if (!e.enter()) return nullptr;
    Inside<SenderEnd> inside{e};
    Wait result;
    {
        nb::gil_scoped_release nogil;
        result = e.sender->drain(deadline, Tick{e.sender->registry});
    }
    if (result == Wait::ready) Py_RETURN_NONE;
    if (result == Wait::interrupted) return nullptr;
    if (result == Wait::stopped) return e.refuse(), nullptr;
    return raise("Full", e.address + " was not drained in time: " + e.sender->why_not_passed());
} catch (...) {
    return raise_current();
}

PyMethodDef methods[] = {
    {"loan", method(loan), METH_FASTCALL | METH_KEYWORDS, "A slot to write in place; the end of its with block sends it."},
    {"try_loan", try_loan, METH_NOARGS, "The same, or None when the ring is full."},
    {"loan_many", method(loan_many), METH_FASTCALL | METH_KEYWORDS, "Exactly n consecutive slots as one Batch."},
    {"send", method(send), METH_FASTCALL | METH_KEYWORDS, "Copy one message in and send it; True unless it was dropped."},
    {"send_many", method(send_many), METH_FASTCALL | METH_KEYWORDS, "Copy any number of messages in and send them."},
    {"drain", method(drain), METH_FASTCALL | METH_KEYWORDS, "Wait until every stage has passed all that was sent."},
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
                 if (e.busy)
                     wake(e.sender->registry.me());
                 else
                     close_now(e);
             },
             nb::arg("failed"))
        .def_prop_ro("closed", [](const SenderEnd& e) { return e.closed; })
        .def_prop_ro("address", [](const SenderEnd& e) { return e.address; })
        .def_prop_ro("capacity", [](const SenderEnd& e) { return e.sender ? e.sender->capacity() : 0; });
}

SenderEnd::~SenderEnd() {
    if (!closed) {
        closed = true;
        close_now(*this);
    }
}

}  // namespace psyne::python
