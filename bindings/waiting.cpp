// Waiting in event loops: a descriptor for each end, and what psyne.select and psyne.aio do around their own sleep.
#include "ends.hpp"

namespace psyne::python {

namespace {

/// Waiting is a use: an end of an anonymous channel joins now.
template <class E>
E& in_use(nb::handle o, E& e) {
    if (!core_of(e) && !e.names && !e.closed && !e.busy && !e.forked()) o.attr("_enter")();
    return e;
}

/// Calls `f` with the end behind a Python object.
template <class F>
auto with_end(nb::handle o, F&& f) {
    if (nb::isinstance<SenderEnd>(o)) return f(in_use(o, sender_end(o.ptr())));
    if (nb::isinstance<ReceiverEnd>(o)) return f(in_use(o, receiver_end(o.ptr())));
    if (nb::isinstance<TapEnd>(o)) return f(tap_end(o.ptr()));
    throw nb::type_error("not an end of a channel");
}

/// An end that is closed, in use by another thread or another process's: an exception.
void check_free(End& e) {
    if ((e.closed || e.busy || e.forked()) && !e.refuse()) throw nb::python_error();
}

/// The bell of an end, made when it is first asked for. It has the name of one who waits until its end has joined.
template <class E>
Bell& bell_of(E& e) {
    if (e.bell && e.bell->ours()) return *e.bell;
    check_free(e);
    e.bell.reset();  // made before a fork: its FIFO is the parent's
    auto* core = core_of(e);
    const FifoPlace place = core ? core->registry.file.storage().fifos() : e.names->fifos(e.channel);
    e.bell = std::make_unique<Bell>(place.directory, core ? bell_name(place.prefix, core->registry.join())
                                                          : waiting_bell_name(place.prefix));
    return *e.bell;
}

bool holds(const SenderEnd&) { return false; }
bool holds(const TapEnd&) { return false; }
bool holds(const ReceiverEnd& e) { return e.receiver && e.receiver->outstanding() != 0; }

int bell(nb::object o) {
    return with_end(o, [](auto& e) { return bell_of(e).fd(); });
}

void arm(nb::object o) {
    with_end(o, [](auto& e) {
        check_free(e);
        if (e.gateway) e.gateway->leave();
        Bell& b = bell_of(e);
        if (e.armed == 0) {
            e.armed = sys::now_ns();
            if (holds(e)) ++e.counts.held_while_waiting;
        }
        if (auto* core = core_of(e)) return core->arm(b, true);
        b.hush();
        b.listen();
    });
}

void disarm(nb::object o, bool took) {
    with_end(o, [took](auto& e) {
        if (const uint64_t since = std::exchange(e.armed, 0)) {
            ++e.counts.waits;
            e.counts.wait.add(sys::now_ns() - since);
        }
        if (e.closed || e.forked()) return;
        if (auto* core = core_of(e)) {
            core->disarm(took);
            if (took) core->pass_on();
        }
        keep_level(e);
    });
}

void get_up(nb::object o, bool found) {
    with_end(o, [found](auto& e) {
        e.armed = 0;
        if (e.closed || e.forked()) return;
        if (auto* core = core_of(e)) core->disarm(found);
        keep_level(e);
    });
}

void hush(nb::object o) {
    with_end(o, [](auto& e) {
        if (e.bell && !e.level && !e.forked()) e.bell->hush();
    });
}

/// For a sender that waits for room: its own arrays stand in the way, and waiting would not help. Messages of call()
/// that other tasks read do help when they end.
void check_room(nb::object o, uint64_t n) {
    SenderEnd& e = in_use(o, sender_end(o.ptr()));
    check_free(e);
    if (!e.sender->blocked_by_own_view(n)) return;
    e.starved = e.called != 0;
    if (e.starved) return;
    own_views_stand(e);
    throw nb::python_error();
}

bool room(nb::object o, uint64_t n) {
    SenderEnd& e = in_use(o, sender_end(o.ptr()));
    check_free(e);
    return e.sender->room(n);
}

bool passed(nb::object o) {
    SenderEnd& e = in_use(o, sender_end(o.ptr()));
    check_free(e);
    return e.sender->passed();
}

bool ready(nb::object o) {
    return with_end(o, [](auto& e) {
        if (e.closed) return true;
        check_free(e);
        auto* core = core_of(e);
        return core && core->ready();
    });
}

uint64_t slice_of(ReceiverEnd& e) { return e.receiver->slice(); }
uint64_t slice_of(TapEnd& e) { return core_of(e)->slice(); }
uint64_t slice_of(SenderEnd& e) {
    if (e.called == 0) return e.sender->slice();
    e.sender->look_after_others();
    return 0;  // what calls wait for is not for the core to see
}

double slice(nb::object o) {
    return with_end(o, [](auto& e) {
        auto* core = core_of(e);
        if (e.closed || e.busy || e.forked() || !core) return 0.0;
        const uint64_t ns = slice_of(e);
        if (!core->registry.burials.dead.empty() && !tell_burials(core->registry)) throw nb::python_error();
        return static_cast<double>(ns) * 1e-9;
    });
}

/// Ends the wait that another thread is in, or its next one, as if its time were over; `false` takes that back.
void interrupt(nb::object o, bool on) {
    with_reader(o, [on](auto& e) {
        auto* core = core_of(e);
        if (e.closed || e.forked() || !core) return;
        e.interrupted = on;
        core->stopping.store(on);
        if (on) wake(e);
    });
}

uint64_t there(nb::object o, uint64_t limit) {
    return with_reader(o, [limit](auto& e) -> uint64_t {
        check_free(e);
        return core_of(e) ? core_of(e)->there(limit) : 0;
    });
}

/// A channel is there for an end that has none.
bool may_join(const End& e) {
    return find_channel(e.names, e.channel).has_value();
}
bool may_join(const SenderEnd&) { return false; }

template <class E>
void level_of(E& e) {
    if (!e.level || e.closed || e.forked() || !e.bell || !e.bell->ours()) return;
    try {
        if (auto* core = core_of(e)) return psyne::keep_level(*core, *e.bell);
        e.bell->hush();
        e.bell->listen();
        if (may_join(e)) e.bell->keep_ringing();
    } catch (const Error&) {
        e.bell->keep_ringing();  // the next call meets the same error and raises it
    }
}

template <class E>
void rename_bell(E& e) {
    const Registry& r = core_of(e)->registry;
    if (e.bell && e.bell->ours()) e.bell->rename(bell_name(r.file.storage().fifos().prefix, r.join()));
}
void rename_waiting(End& e) {
    if (e.bell && e.bell->ours()) e.bell->rename(waiting_bell_name(e.names->fifos(e.channel).prefix));
}

}  // namespace

void keep_level(SenderEnd& e) { level_of(e); }
void keep_level(ReceiverEnd& e) { level_of(e); }
void keep_level(TapEnd& e) { level_of(e); }

void joined(ReceiverEnd& e) { rename_bell(e); }
void joined(TapEnd& e) { rename_bell(e); }
void left(ReceiverEnd& e) { rename_waiting(e); }
void left(TapEnd& e) { rename_waiting(e); }

int fileno_of(nb::object o) {
    return with_end(o, [](auto& e) {
        const int fd = bell_of(e).fd();
        if (!e.closed && !e.level) {
            check_free(e);
            e.level = true;
            keep_level(e);
        }
        return fd;
    });
}

void bind_waiting(nb::module_& m) {
    m.def("bell", bell, nb::arg("end").lock(), "The descriptor that is readable once an armed end was woken.");
    m.def("arm", arm, nb::arg("end").lock(), "From here on a wake rings the bell. Look again afterwards.");
    m.def("disarm", disarm, nb::arg("end").lock(), nb::arg("took"), "A wake that came and was not used goes to another member.");
    m.def("get_up", get_up, nb::arg("end").lock(), nb::arg("found"),
          "Disarm. A wake that came is kept for the call that follows if something was found, else another member gets it.");
    m.def("hush", hush, nb::arg("end").lock(), "Take what was rung.");
    m.def("check_room", check_room, nb::arg("end").lock(), nb::arg("n"), "Raises LeaseLimit if waiting for room is in vain.");
    m.def("room", room, nb::arg("end").lock(), nb::arg("n"), "Could n consecutive slots be lent now?");
    m.def("passed", passed, nb::arg("end").lock(), "Has every stage passed all that was sent?");
    m.def("ready", ready, nb::arg("end").lock(), "Would receive() or loan() return at once?");
    m.def("slice", slice, nb::arg("end").lock(), "Look after the others; seconds until the next time, 0: look for messages.");
    m.def("interrupt", interrupt, nb::arg("end").lock(), nb::arg("on"), "End the wait of the thread inside with Empty.");
    m.def("there", there, nb::arg("end").lock(), nb::arg("limit"), "How many messages a batch would have now.");
}

}  // namespace psyne::python
