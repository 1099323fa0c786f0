// What an end has counted, and what it sees now.
#include "ends.hpp"

namespace psyne::python {

namespace {

nb::tuple buckets(const Histogram& h) {
    nb::list l;
    for (uint64_t n : h.buckets) l.append(n);
    return nb::tuple(l);
}

nb::dict common(const End& end, const Registry* r) {
    const Counts& c = end.counts;
    nb::dict d;
    d["missed"] = c.missed;
    d["blocked"] = c.waits;
    d["held_while_waiting"] = c.held_while_waiting;
    d["copied_bytes"] = c.copied;
    d["late_wakes"] = r ? r->file.header().late_wakes.load(relaxed) : 0;
    d["redelivered"] = r ? r->file.header().redelivered.load(relaxed) : 0;
    d["poisoned"] = r ? r->file.header().poisoned.load(relaxed) : 0;
    d["dropped"] = r ? r->file.header().dropped.load(relaxed) : 0;
    d["wait_ns"] = buckets(c.wait);
    d["latency_ns"] = buckets(c.latency);
    d["slabs"] = d["reserved"] = d["resident"] = d["grown"] = d["shrunk"] = 0;  // a sender's
    d["why"] = "";
    return d;
}

nb::dict statistics(nb::object o) {
    if (nb::isinstance<SenderEnd>(o)) {
        const SenderEnd& e = sender_end(o.ptr());
        nb::dict d = common(e, e.sender ? &e.sender->registry : nullptr);
        d["sent"] = e.counts.messages;
        d["received"] = 0;
        d["held"] = e.sender ? e.sender->held() : 0;
        d["occupancy"] = e.sender && !e.closed ? e.sender->occupied() : 0;
        d["capacity"] = e.sender ? e.sender->capacity() : 0;
        const auto growth = e.sender && !e.forked() ? e.sender->growth() : DynamicRingBuffer::Seen{};
        d["slabs"] = growth.slabs;
        d["reserved"] = growth.reserved;
        d["resident"] = growth.resident;
        d["grown"] = growth.grown;
        d["shrunk"] = growth.shrunk;
        d["why"] = shared_text(growth.why);
        return d;
    }
    if (nb::isinstance<TapEnd>(o)) {
        const TapEnd& e = tap_end(o.ptr());
        nb::dict d = common(e, e.tap ? &e.tap->registry : nullptr);
        const Tap::Seen seen = e.tap ? e.tap->seen() : Tap::Seen{};
        d["sent"] = d["held"] = 0;
        d["received"] = e.counts.messages;
        d["occupancy"] = e.closed ? 0 : seen.waiting;
        d["capacity"] = seen.capacity;
        return d;
    }
    const ReceiverEnd& e = receiver_end(o.ptr());
    nb::dict d = common(e, e.receiver ? &e.receiver->registry : nullptr);
    const Lanes::Seen seen = e.receiver ? e.receiver->seen() : Lanes::Seen{};
    d["sent"] = 0;
    d["received"] = e.counts.messages;
    d["held"] = seen.held;
    d["occupancy"] = e.closed ? 0 : seen.waiting;
    d["capacity"] = seen.capacity;
    return d;
}

}  // namespace

void bind_statistics(nb::module_& m) {
    m.def("statistics", statistics, nb::arg("end").lock(), nb::sig("def statistics(end: object) -> dict[str, typing.Any]"));
}

}  // namespace psyne::python
