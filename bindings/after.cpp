// What goes on when work of a device is done: ended for Python at once, the rest by a thread of psyne.after.
//
//   loan ── send(m, after=event) ──▶ held back ── the event is done ──▶ published
//           the sender's own part        │ it failed, or the end was closed
//           of the commit                └──▶ taken back: its slots become SKIP
//
//   message ── m.release(after=event) ──▶ held ── the event is done ──▶ DONE, or PASSED while views live
//                        it stays TAKEN     │ it failed
//                                           └──▶ as if its owner had died: taken out, or an ORPHAN
#include "guard.hpp"
#include "sending.hpp"

namespace psyne::python {

namespace {

/// Keeps its end, so that no last reference to that goes while the device writes.
struct Later {
    nb::object end;
    HeldBack back;
    bool over = false;

    /// It is settled now, and so by this thread; null: the end was closed meanwhile, and did it.
    SenderEnd* settle() {
        SenderEnd& e = sender_end(end.ptr());
        if (std::exchange(over, true)) return nullptr;
        --e.held_back;
        return e.closed || e.forked() ? nullptr : &e;
    }
};

/// The next call of this end says why; and what has failed before.
void tell(End& e, const std::string& why) {
    if (why.empty() || (e.signal && e.signal->for_good)) return;
    const std::string before = e.signal && e.signal->error == "EventFailed" ? e.signal->text + "; " : "";
    e.signal = std::make_unique<End::Signal>(End::Signal{"EventFailed", before + why, false});
}

/// Who waits for room looks again.
void look_again(SenderEnd& e) {
    if (e.busy) wake(e);
    if (e.armed != 0 && e.bell) e.bell->ring();
    if (e.level && !e.busy) keep_level(e);
}

/// Ends a loan for Python. None where nothing will be sent: it was dropped already, or has no message.
nb::object hold_back(nb::object end, nb::handle message) {
    const Guard guard(end.ptr(), message.ptr());
    MessageObject* m = own_loan(end.ptr(), message.ptr());
    if (!m) throw nb::type_error("after= is for a loan of this end that is open: a device writes in place, and what send() copies is there already");
    SenderEnd& e = sender_end(end.ptr());
    const bool nothing = m->hold.kind == Hold::Kind::scratch || m->count == 0;
    auto later = std::make_unique<Later>(Later{nb::borrow(end), {}, false});
    if (!usable(m) || !finish_message(m, m->count, nothing ? nullptr : &later->back)) throw nb::python_error();
    if (nothing) return nb::none();
    ++e.held_back;
    return nb::cast(later.release(), nb::rv_policy::take_ownership);
}

/// False: the end was closed before.
bool finish(Later& later) {
    const Guard guard(later.end.ptr());
    SenderEnd* e = later.settle();
    if (!e) return false;
    e->sender->publish(later.back.loan);
    e->counts.messages += later.back.loan.count;
    look_again(*e);
    tell_network(*e);
    return true;
}

/// `why`: what the next call raises; "": nothing.
void fail(Later& later, const std::string& why) {
    const Guard guard(later.end.ptr());
    SenderEnd* e = later.settle();
    if (!e) return;
    e->sender->withdraw(later.back.loan);
    e->sender->drop(later.back.dropped);
    look_again(*e);
    tell(*e, why);
}

/// A received message that is over for Python. Its lease keeps the slot and the end.
struct Held {
    nb::object lease;
    uint64_t position, order;

    LeaseObject* it() const { return reinterpret_cast<LeaseObject*>(lease.ptr()); }
    nb::object end() const { return lease.is_valid() ? nb::borrow(it()->end) : nb::none(); }
};

/// Ends a received message for Python. None where it was over already.
nb::object hold(nb::handle message) {
    const Guard guard(message.ptr());
    if (!is_message(message.ptr())) throw nb::type_error("a message or a batch is wanted");
    auto* m = reinterpret_cast<MessageObject*>(message.ptr());
    if (m->parent) throw nb::type_error("a part of a message ends with the whole");
    if (!m->open) return nb::none();
    if (m->hold.kind != Hold::Kind::taken)
        throw nb::type_error("release(after=) is for messages that a receiver got; a loan goes with send(m, after=event)");
    if (m->generation != fork_generation.load(std::memory_order_relaxed)) return finish_message(m, 0), nb::none();
    auto held = std::make_unique<Held>(Held{{}, m->hold.taken.position(), receiver_end(m->end).released_later++});
    if (!(held->lease = hold_message(m)).is_valid()) throw nb::python_error();
    return nb::cast(held.release(), nb::rv_policy::take_ownership);
}

/// The event is done. Views that still live keep the slot.
void finish(Held& held, bool failed = false) {
    const nb::object lease = std::exchange(held.lease, nb::object());  // dropped last: with that the message ends
    if (!lease.is_valid()) return;
    auto* it = reinterpret_cast<LeaseObject*>(lease.ptr());
    const Guard guard(it->end);
    Receiver& r = *it->hold.receiver;
    r.held_back.fetch_sub(1, relaxed);
    if (it->hold.kind != Hold::Kind::held) return;
    if (failed) {
        it->hold.kind = Hold::Kind::failed;
    } else if (references(lease.ptr()) > 1) {
        it->hold.kind = Hold::Kind::passed;
        r.end(it->hold.taken, true);
    }
}

/// `why`: what the next call of its end raises, or the wait that is in progress; "": nothing.
void fail(Held& held, const std::string& why) {
    const nb::object end = held.end();
    finish(held, true);
    if (end.is_none()) return;
    const Guard guard(end.ptr());
    ReceiverEnd& e = receiver_end(end.ptr());
    tell(e, why);
    if (why.empty() || e.closed) return;
    if (e.bell) e.bell->ring();
    if (!e.busy || !e.receiver) return;
    e.receiver->stopping.store(true);
    wake(e);
}

}  // namespace

void bind_after(nb::module_& m) {
    nb::class_<Later>(m, "Later", "A loan that is published when its event is done.")
        .def_prop_ro("position", [](const Later& later) { return later.back.loan.position; }, "In its lane.")
        .def_prop_ro("order", [](const Later& later) { return later.back.loan.position; }, "In which events are waited for.")
        .def_prop_ro("address", [](const Later& later) { return sender_end(later.end.ptr()).address; })
        .def("finish", [](Later& later) { return finish(later); }, "From any thread; whether it was sent: else its end was closed before.")
        .def("fail", [](Later& later, const std::string& why) { fail(later, why); }, nb::arg("why"),
              "From any thread: nothing is sent, and the next call of its end raises EventFailed, if it is to say why.");
    nb::class_<Held>(m, "Held", "A received message that its stage passes on when its event is done.")
        .def_ro("position", &Held::position, "In its lane.")
        .def_ro("order", &Held::order, "In which events are waited for.")
        .def_prop_ro("end", &Held::end, nb::sig("def end(self) -> ReceiverEnd | None"), "The end that got it; None once it has gone on.")
        .def("finish", [](Held& held) { finish(held); }, "From any thread: it goes on to the next stages.")
        .def("fail", [](Held& held, const std::string& why) { fail(held, why); }, nb::arg("why"),
             "From any thread: it goes the way of a message whose owner died, and the next call of its end raises EventFailed, if it is to say why.");
    m.def("hold", hold, nb::arg("message"), nb::sig("def hold(message: object) -> Held | None"),
          "End a received message that goes on later. None where it was over already.");
    m.def("hold_back", hold_back, nb::arg("end"), nb::arg("message"),
          nb::sig("def hold_back(end: SenderEnd, message: object) -> Later | None"),
          "End a loan that is published later. None where nothing will be sent.");
    m.def("check_events", [](nb::object end) {
              End& e = nb::isinstance<SenderEnd>(end) ? static_cast<End&>(sender_end(end.ptr())) : receiver_end(end.ptr());
              if (e.signal && e.signal->error == "EventFailed") e.refuse_signal(), throw nb::python_error();
          }, nb::arg("end").lock(), nb::sig("def check_events(end: SenderEnd | ReceiverEnd) -> None"), "Raises EventFailed for one that failed.");
}

}  // namespace psyne::python
