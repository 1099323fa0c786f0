// Request and reply in one slot: send, wait until every stage has passed the message, read what they wrote.
//
//   copy in · hold the slot · commit ──▶ stages write in place ──▶ all have passed ──▶ read · end · unhold
//             └── from before the commit: nobody else can get it between their end and our reading ──┘
#include "guard.hpp"
#include "sending.hpp"

namespace psyne::python {

namespace {

/// Makes `m` the message that is waited for and read; its slots are held from here on. Then commit.
void hold_for_reading(MessageObject* m, PyObject* self, SenderEnd& e, const Loan& loan, const Place& at, uint64_t count) {
    m->end = Py_NewRef(self);
    m->at = at;
    m->count = count;
    m->open = true;
    m->hold.kind = Hold::Kind::called;
    m->hold.loan = loan;
    m->hold.loan.count = count;
    for (uint64_t i = 0; i < count; ++i) loan.ring->hold(loan.slot + i);
    ++e.called;
}

PyObject* no_room(const SenderEnd& e) {
    return raise("Full", e.address + " is full (" + std::to_string(e.sender->capacity()) + " messages): " + e.sender->why_full() +
                             ". full=\"drop\" drops no calls; call again later, or raise capacity=");
}

/// Sends one's own loan, in place.
MessageObject* begin_with_loan(PyObject* self, SenderEnd& e, MessageObject* loan) {
    if (!usable(loan)) return nullptr;
    if (loan->hold.kind == Hold::Kind::scratch) return no_room(e), nullptr;
    if (loan->count == 0) return PyErr_SetString(PyExc_ValueError, "call() of a batch that was truncated to 0 messages"), nullptr;
    MessageObject* m = loan->batch ? new_batch(Py_TYPE(loan), loan->type, loan->layout) : new_message(Py_TYPE(loan), loan->layout);
    if (!m) return nullptr;
    hold_for_reading(m, self, e, loan->hold.loan, loan->at, loan->count);
    if (finish_message(loan, loan->count)) return m;
    Py_DECREF(m);
    return nullptr;
}

/// Sends a message whose slots stay held. Null with an exception set; `try_only` without room: null without one.
MessageObject* begin(PyObject* self, SenderEnd& e, PyObject* what, uint64_t deadline, bool try_only) {
    if (e.gateway)
        return raise("InvalidArgument", "call() of " + e.address + " has no answer: the stages of other hosts cannot write into this slot. "
                                        "Send, and let them answer over a channel of their own"), nullptr;
    if (e.sender->registry.graph().all() == 0)
        return raise("InvalidArgument", "nobody answers a call() on " + e.address + ": it was made with stages=[]. Name the "
                                        "stages that answer, or use send()"), nullptr;
    if (MessageObject* loan = own_loan(self, what)) return begin_with_loan(self, e, loan);
    Copied c;
    if (!copy_in(e, what, deadline, try_only || e.drops, c)) {
        if (e.drops && !PyErr_Occurred()) no_room(e);
        return nullptr;
    }
    MessageObject* m = new_message(reinterpret_cast<PyTypeObject*>(c.kind->type.ptr()), c.kind->shape);
    if (!m) return e.sender->discard(c.loan), nullptr;
    hold_for_reading(m, self, e, c.loan, place_of(*c.kind, c.loan), 1);
    e.sender->commit(c.loan, 1);
    e.counts.messages += 1;
    e.counts.copied += c.bytes;
    return m;
}

/// Every stage has passed it: is it an answer? False with TakenOut set.
bool is_answer(const SenderEnd& e, const MessageObject* m) {
    const uint32_t s = e.sender->taken_out_by(m->hold.loan);
    if (s == kMaxStages) [[likely]]
        return true;
    const StageRecord& stage = e.sender->registry.file.stage(s);
    const char* why = stage.redelivers.load(relaxed) != 0 || stage.mutates.load(relaxed) == 0
                          ? "three of its members died on it; perhaps it is this message that kills them"
                          : "a member died while it wrote to it (on_crash=\"skip\"), or three died on it. Send it again, or give "
                            "the stage on_crash=\"redeliver\" where its work may be done twice";
    raise("TakenOut", "message " + std::to_string(m->hold.loan.position) + " of " + e.address + " was not answered: stage '" +
                          load_name(stage.name) + "' took it out, because " + why);
    return false;
}

/// Waits for the answer. False with an exception set.
bool await_answer(SenderEnd& e, const MessageObject* m, uint64_t deadline) {
    for (int i = 0; i < kPolls && deadline != 0; ++i) {
        if (e.sender->passed(m->hold.loan)) return is_answer(e, m);
        cpu_pause();
    }
    Wait result;
    {
        const WithoutGil nogil;
        result = e.sender->await_passed(m->hold.loan, deadline, Tick{e.sender->registry});
    }
    switch (result) {
        case Wait::ready: return is_answer(e, m);
        case Wait::stopped: return e.refuse();
        case Wait::timeout:
            raise("Empty", "no answer on " + e.address + " in time: " + e.sender->why_not_passed(m->hold.loan) +
                               ". The message stays sent; wait longer, or see what that stage does");
            break;
        case Wait::interrupted: break;
    }
    return false;
}

/// For event loops: the message that is waited for, or None while there is no room.
PyObject* begin_call(nb::handle end, nb::handle what) {
    PyObject* self = end.ptr();
    const Guard guard(self, what.ptr());
    SenderEnd& e = sender_end(self);
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    MessageObject* m = begin(self, e, what.ptr(), 0, true);
    if (!m && !PyErr_Occurred()) Py_RETURN_NONE;
    return reinterpret_cast<PyObject*>(m);
}

/// Why a call finds no room, for people.
std::string why_no_room(nb::handle end) {
    const SenderEnd& e = sender_end(end.ptr());
    if (e.closed || e.forked()) return "its sender was closed";
    if (e.called == 0 || !e.sender->blocked_by_own_view(1)) return e.sender->why_full();
    return "answers of call() are still read (" + std::to_string(e.sender->held()) + " of " + std::to_string(e.sender->capacity()) +
           " slots); end each, by its with block, or raise capacity=";
}

/// The indices of those messages of call() that every stage has passed.
nb::typed<nb::list, int> answered(nb::handle end, const nb::typed<nb::list, nb::object>& messages) {
    SenderEnd& e = sender_end(end.ptr());
    if ((e.closed || e.forked()) && !e.refuse()) throw nb::python_error();
    nb::list found;
    for (size_t i = 0; i < messages.size(); ++i)
        if (e.sender->passed(reinterpret_cast<MessageObject*>(messages[i].ptr())->hold.loan)) found.append(i);
    return found;
}

}  // namespace

PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[2];
    uint64_t deadline;
    if (!Call{"call", args, n, names}.parse({"message", "timeout"}, values, 1) || !deadline_from(values[1], deadline))
        return nullptr;
    const Guard guard(self, values[0]);
    SenderEnd& e = sender_end(self);
    if (!enter_joined(self, e)) return nullptr;
    Inside<SenderEnd> inside{e};
    MessageObject* m = begin(self, e, values[0], deadline, false);
    if (!m || await_answer(e, m, deadline)) return reinterpret_cast<PyObject*>(m);
    Py_DECREF(m);
    return nullptr;
} catch (...) {
    return raise_current();
}

void bind_call(nb::module_& m) {
    m.def("begin_call", [](nb::handle end, nb::handle message) {
        PyObject* begun = begin_call(end, message);
        if (!begun) throw nb::python_error();
        return nb::steal(begun);
    }, nb::arg("end"), nb::arg("message"), "Send a message that stays held; None while there is no room.");
    m.def("own_loan", [](nb::handle end, nb::handle message) { return own_loan(end.ptr(), message.ptr()) != nullptr; },
          nb::arg("end").lock(), nb::arg("message"), "Is this an open loan of this end?");
    m.def("why_no_room", why_no_room, nb::arg("end").lock(), "Why a call finds no room, for people.");
    m.def("answered", answered, nb::arg("end").lock(), nb::arg("messages"), "Which of these calls every stage has passed: indices.");
    m.def("check_answer", [](nb::handle end, nb::handle message) {
        if (!is_answer(sender_end(end.ptr()), reinterpret_cast<MessageObject*>(message.ptr()))) throw nb::python_error();
    }, nb::arg("end").lock(), nb::arg("message"), "Raises TakenOut for one that a stage took out.");
}

}  // namespace psyne::python
