// How a message gets into a slot: entering the end, taking slots, the copy.
#include "sending.hpp"

namespace psyne::python {

bool enter_joined(PyObject* self, SenderEnd& e) {
    if (!e.enter()) return false;
    if (e.sender) [[likely]]
        return true;
    PyObject* done = PyObject_CallMethod(self, "_join", nullptr);
    Py_XDECREF(done);
    if (done && !e.closed) return true;
    e.busy = false;
    if (e.closed) close_now(e);  // by another thread meanwhile
    return done ? e.refuse() : false;
}

namespace {

/// Tells that the ring grew, when it did. False when a signal handler raised meanwhile: the loan is taken back.
bool tell_growth(SenderEnd& e, const Loan& loan) {
    e.slab = loan.ring->slab.place.number;
    const auto [grown, why] = e.sender->last_change();
    if (grown == std::exchange(e.grown, grown) || warn("the ring of a sender of " + e.address + " grew: " + why)) return true;
    e.sender->discard(loan);
    return false;
}

}  // namespace

bool take_now(SenderEnd& e, uint64_t n, Loan& loan, uint64_t bytes) {
    if (!e.sender->try_loan(n, loan, bytes)) [[unlikely]] {
        if (bytes > e.budget && e.sender->grows())
            raise("NoSpace", "a message of " + std::to_string(bytes) + " bytes is larger than all that " + e.address +
                                 " may have; raise budget=" + std::to_string(e.budget));
        return false;
    }
    return loan.ring->slab.place.number == e.slab || tell_growth(e, loan);
}

bool take_loan(SenderEnd& e, uint64_t n, Loan& loan, uint64_t deadline, uint64_t bytes) {
    Wait result;
    const uint64_t since = sys::now_ns();
    tell_network(e);  // what this call has sent already makes the room that it waits for
    {
        const WithoutGil nogil;
        result = e.sender->loan(n, loan, deadline, Tick{e.sender->registry, e.sender.get()}, bytes);
    }
    ++e.counts.waits;
    e.counts.wait.add(sys::now_ns() - since);
    switch (result) {
        case Wait::ready: return loan.ring->slab.place.number == e.slab || tell_growth(e, loan);
        case Wait::interrupted: return false;
        case Wait::stopped:
            if (e.closed) return e.refuse();
            if (e.signal) return e.sender->stopping.store(false), e.refuse_signal();
            own_views_stand(e);
            return false;
        case Wait::timeout: break;
    }
    if (const std::string refused = e.sender->refused(); bytes > e.sender->room() && !refused.empty()) {
        raise("Full", e.address + " has no memory for a message of " + std::to_string(bytes) + " bytes: " + refused + ". Or wait longer");
        return false;
    }
    const std::string later = e.held_back == 0 ? "" : "; " + std::to_string(e.held_back) + " of your messages wait for their events";
    raise("Full", e.address + " is full (" + std::to_string(e.sender->capacity()) + " messages): " +
                      e.sender->why_full() + later + (e.sender->grows() ? ". Wait longer, or raise budget="
                                                                : ". Wait longer, raise capacity=, or drop with full=\"drop\""));
    return false;
}

uint64_t bytes_for(const SenderEnd& e, const Kind& kind, uint64_t elements) {
    return kind.shape->shaped && e.sender->grows() ? kind.shape->bytes_with(elements) : 0;
}

Place place_of(const Kind& kind, const Loan& loan) {
    const Slab& slab = loan.ring->slab;
    if (kind.shape->columns) return {slab.payload, slab.stride, slab.capacity, loan.slot, loan.room};
    return {loan.data, slab.stride, 1, 0, loan.room};
}

bool copy_in(SenderEnd& e, PyObject* what, uint64_t deadline, bool try_only, Copied& c) {
    c.kind = e.kind_for(what);
    Source source;
    if (!c.kind || !source.of(what, e, *c.kind, false)) return false;
    const uint64_t bytes = bytes_for(e, *c.kind, source.bytes());
    if (!take_now(e, 1, c.loan, bytes)) [[unlikely]] {
        if (PyErr_Occurred()) return false;
        if (try_only) return e.sender->look_after_others(), false;
        if (!take_loan(e, 1, c.loan, deadline, bytes)) return false;
        const bool same = source.of(what, e, *c.kind, false);  // others ran meanwhile: look again
        if (!same || (c.kind->shape->shaped && source.bytes() > c.kind->shape->elements_in(c.loan.room))) {
            e.sender->discard(c.loan);
            if (same) PyErr_SetString(PyExc_ValueError, "it became longer while send() waited for room");
            return false;
        }
    }
    c.loan.variant = c.kind->header;
    c.bytes = source.bytes();
    if (source.copy_to(place_of(*c.kind, c.loan), 1, 0)) return true;
    e.sender->discard(c.loan);
    return false;
}

MessageObject* own_loan(PyObject* self, PyObject* what) {
    if (!is_message(what)) return nullptr;
    auto* m = reinterpret_cast<MessageObject*>(what);
    return m->end == self && (m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::scratch) ? m : nullptr;
}

void own_views_stand(SenderEnd& e) {
    raise("LeaseLimit", "the oldest slot of " + e.address + " is still used by arrays that you kept of a sent message, or by "
                        "one that call() gave you; drop or copy() them (" + std::to_string(e.sender->capacity()) + " slots)");
}

}  // namespace psyne::python
