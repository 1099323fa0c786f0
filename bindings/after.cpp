// Loans that are sent when work of a device is done: ended for Python at once, published by a thread of psyne.after.
//
//   loan ── send(m, after=event) ──▶ held back ── the event is done ──▶ published
//           the sender's own part        │ it failed, or the end was closed
//           of the commit                └──▶ taken back: its slots become SKIP
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
bool publish(Later& later) {
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
void take_back(Later& later, const std::string& why) {
    const Guard guard(later.end.ptr());
    SenderEnd* e = later.settle();
    if (!e) return;
    e->sender->withdraw(later.back.loan);
    e->sender->drop(later.back.dropped);
    look_again(*e);
    if (why.empty() || (e->signal && e->signal->for_good)) return;
    const std::string before = e->signal && e->signal->error == "EventFailed" ? e->signal->text + "; " : "";
    e->signal = std::make_unique<End::Signal>(End::Signal{"EventFailed", before + why, false});
}

}  // namespace

void bind_after(nb::module_& m) {
    nb::class_<Later>(m, "Later", "A loan that is published when its event is done.")
        .def_prop_ro("position", [](const Later& later) { return later.back.loan.position; }, "In its lane.")
        .def_prop_ro("address", [](const Later& later) { return sender_end(later.end.ptr()).address; })
        .def("publish", publish, "From any thread; whether it was sent: else its end was closed before.")
        .def("take_back", take_back, nb::arg("why"), "From any thread: nothing is sent, and the next call of its end raises EventFailed, if it is to say why.");
    m.def("hold_back", hold_back, nb::arg("end"), nb::arg("message"),
          nb::sig("def hold_back(end: SenderEnd, message: object) -> Later | None"),
          "End a loan that is published later. None where nothing will be sent.");
    m.def("check_events", [](nb::object end) {
              SenderEnd& e = sender_end(end.ptr());
              if (e.signal && e.signal->error == "EventFailed") e.refuse_signal(), throw nb::python_error();
          }, nb::arg("end").lock(), nb::sig("def check_events(end: SenderEnd) -> None"), "Raises EventFailed for one that failed.");
}

}  // namespace psyne::python
