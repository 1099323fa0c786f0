// Runs of received messages, cut and joined without a copy: each part is a batch by itself, with slots of its own.
//
//   split(batch, 3)   [0 1 2 3 4]   ──▶  [0 1 2]  [3 4]
//   join(a, b)        [3 4]  [5 6]  ──▶  [3 4 5 6]         where they are consecutive in one ring
//   gather(end, …)    [6 7]  [0 1]  ──▶  a copy of all, where they are not
#include "ends.hpp"
#include "guard.hpp"

namespace psyne::python {

namespace {

/// A batch that was received and is open; else an exception.
MessageObject* received(nb::handle o) {
    auto* m = reinterpret_cast<MessageObject*>(o.ptr());
    if (!is_message(o.ptr()) || !m->batch || m->hold.kind != Hold::Kind::taken)
        throw nb::type_error("a batch that was received and not released is wanted");
    return m;
}

/// Cuts the first n messages off: they are a batch that ends by itself.
nb::object split(nb::object whole, uint64_t n) {
    const Guard guard(whole.ptr());
    MessageObject* m = received(whole);
    if (n == 0 || n >= m->count)
        throw nb::value_error("split() leaves at least one message on both sides");
    if (views_live(m)) {
        raise("ViewsAlive", "arrays still use this batch");
        throw nb::python_error();
    }
    MessageObject* head = new_batch(Py_TYPE(whole.ptr()), m->type, m->layout);
    if (!head) throw nb::python_error();
    head->end = Py_NewRef(m->end);
    head->at = m->at;
    head->count = n;
    head->open = true;
    head->writable = m->writable;
    head->touched = m->touched;
    head->hold = m->hold;
    head->hold.taken.count = n;
    link_taken(head);
    m->at = m->at.part(*m->layout, n);
    m->count -= n;
    Taken& rest = m->hold.taken;
    rest.slot += n;
    rest.count -= n;
    rest.data = rest.lane->slab.at(rest.slot);
    return nb::steal(reinterpret_cast<PyObject*>(head));
}

/// Gives `a` the messages of `b`, which is over then, if they lie behind its own; whether it did.
bool join(nb::object a, nb::object b) {
    const Guard guard(a.ptr(), b.ptr());
    MessageObject *first = received(a), *second = received(b);
    Taken& t = first->hold.taken;
    const Taken& next = second->hold.taken;
    if (first->hold.receiver != second->hold.receiver || first->layout != second->layout || t.lane != next.lane ||
        t.lap != next.lap || t.slot + t.count != next.slot || t.deaths != next.deaths || views_live(second))
        return false;
    t.count += next.count;
    first->count = t.count;
    unlink_taken(second);
    second->hold.kind = Hold::Kind::nothing;
    second->open = false;
    Py_CLEAR(second->lease);
    return true;
}

/// One batch in private memory, read-only: what is written there would reach nobody. None given: an empty one.
nb::object gather(nb::object end, nb::list batches) {
    const Guard guard(end.ptr());
    ReceiverEnd& e = receiver_end(end.ptr());
    const Kind& kind = e.kinds.at(0);
    uint64_t count = 0;
    for (nb::handle b : batches) {
        const MessageObject* m = received(b);
        count += m->count;
        if (m->layout == kind.shape) continue;
        raise("LayoutMismatch", e.address + " changed its type: these messages are no single batch");
        throw nb::python_error();
    }
    nb::object made = nb::steal(reinterpret_cast<PyObject*>(
        new_batch(reinterpret_cast<PyTypeObject*>(e.batch_type.ptr()), kind.type.ptr(), kind.shape)));
    if (!made.is_valid()) throw nb::python_error();
    auto* all = reinterpret_cast<MessageObject*>(made.ptr());
    all->count = count;
    if (!make_private(all)) throw nb::python_error();
    all->writable = false;
    uint64_t i = 0;
    for (nb::handle b : batches) {
        const auto* m = reinterpret_cast<MessageObject*>(b.ptr());
        for (uint64_t k = 0; k < m->count; ++k, ++i)
            if (!copy_message(*kind.shape, m->at.part(*kind.shape, k), all->at.part(*kind.shape, i)))
                throw nb::python_error();
    }
    e.counts.copied += count * kind.shape->bytes;
    return made;
}

/// Slots of the smallest ring that a receiver reads; 0 without any.
uint64_t smallest_ring(nb::object end) {
    const ReceiverEnd& e = receiver_end(end.ptr());
    uint64_t least = 0;
    if (e.receiver)
        for (const auto& lane : e.receiver->lanes())
            if (least == 0 || lane->slab.capacity < least) least = lane->slab.capacity;
    return least;
}

}  // namespace

void bind_runs(nb::module_& m) {
    m.def("split", split, nb::arg("batch"), nb::arg("n"), nb::sig("def split(batch: Batch, n: int) -> Batch"),
          "Cut the first n messages off a received batch: they end by themselves.");
    m.def("join", join, nb::arg("a"), nb::arg("b"), nb::sig("def join(a: Batch, b: Batch) -> bool"),
          "Append b to a, if it lies behind it in the same ring; whether it did.");
    m.def("gather", gather, nb::arg("end"), nb::arg("batches"),
          nb::sig("def gather(end: ReceiverEnd, batches: list[Batch]) -> Batch"),
          "A copy of all messages of several batches, read-only; of none an empty batch.");
    m.def("smallest_ring", smallest_ring, nb::arg("end").lock(), "Slots of the smallest ring of a receiver; 0: none yet.");
}

}  // namespace psyne::python
