// The end that looks on: what it gives are private copies. Decisions are the core's; this converts.
#include "guard.hpp"
#include "reading.hpp"

namespace psyne::python {

namespace {

constexpr int kTries = 8;                    // copies that may come too late before others get a turn
constexpr uint64_t kWorthLettingGo = 65536;  // bytes: others may have the GIL meanwhile

/// A message or batch in the making: its memory is kept while one copy after the other comes too late.
class Draft {
public:
    ~Draft() { Py_XDECREF(message_); }

    /// A place for what was found: the messages, then what is told of each. False with an exception set.
    bool fit(const TapEnd& e, const Kind& kind, const Sight& s, bool batch) {
        const uint64_t stride = s.stride(), room = std::min(s.room(), kind.shape->bytes), align = std::max<uint64_t>(64, kind.shape->alignment);
        if (message_ && kind_ == &kind && message_->count == s.count && message_->at.stride == stride && message_->at.room == room)
            return true;
        Py_CLEAR(message_);
        kind_ = &kind;
        message_ = batch ? new_batch(reinterpret_cast<PyTypeObject*>(e.batch_type.ptr()), kind.type.ptr(), kind.shape)
                         : new_message(reinterpret_cast<PyTypeObject*>(kind.type.ptr()), kind.shape);
        if (!message_ || !(message_->lease = new_lease(nullptr, message_->generation))) return false;
        const uint64_t payload = round_up(stride * s.count, 8), bytes = round_up(payload + 24 * s.count, align);
        auto* memory = static_cast<std::byte*>(std::aligned_alloc(align, bytes));
        if (!memory) return PyErr_NoMemory(), false;
        message_->lease->memory = memory;
        message_->at = {memory, stride, s.count, 0, room};
        message_->count = s.count;
        stamps_ = reinterpret_cast<uint64_t*>(memory + payload);
        remote_ = stamps_ + s.count;
        dropped_ = remote_ + s.count;
        return true;
    }

    /// Copies what was found as it is now.
    void copy(const Sight& s) noexcept {
        const Slab& slab = s.slab();
        for (uint64_t i = 0; i < s.count; ++i) {
            stamps_[i] = s.side(slab.stamps, i);
            remote_[i] = s.side(slab.remote, i);
            dropped_[i] = s.side(slab.dropped, i);
        }
        const Layout& layout = *kind_->shape;
        const Place to = message_->at;
        if (layout.columns) {
            const Place from = s.extent == 0 ? Place{slab.payload, slab.stride, slab.capacity, s.slot} : Place{s.data(), s.stride(), 1, 0};
            for (const Layout::Column& c : layout.fields)
                copy_shared(to.field(layout, c.offset, c.bytes), from.field(layout, c.offset, c.bytes), s.count * c.bytes);
            copied_ = s.count * layout.bytes;
        } else if (layout.shaped) {
            copied_ = 0;
            for (uint64_t i = 0; i < s.count; ++i) copied_ += copy_shaped(layout, to.data + i * to.stride, s.data() + i * s.stride(), s.room());
        } else {
            copy_shared(to.data, s.data(), (s.count - 1) * s.stride() + layout.bytes);
            copied_ = s.count * layout.bytes;
        }
    }

    /// The copy is whole: the message for the user.
    PyObject* finish(const Sight& s, Counts& counts, bool sums) {
        for (uint64_t i = 0; sums && i < s.count; ++i) dropped_[i] -= std::exchange(s.lane->drops, dropped_[i]);
        MessageObject* m = std::exchange(message_, nullptr);
        m->open = m->writable = true;
        m->hold.kind = Hold::Kind::copied;
        m->hold.copied = {s.position(), s.lane->join, s.missed, dropped_, stamps_, remote_};
        counts.messages += s.count;
        counts.missed += s.missed;
        counts.copied += copied_;
        for (uint64_t i = 0; i < s.count; ++i) counts.missed += dropped_[i];
        if (s.slab().stamps) {
            const uint64_t now = sys::now_ns();
            counts.latency.add(now > stamps_[0] ? now - stamps_[0] : 0);
        }
        return reinterpret_cast<PyObject*>(m);
    }

private:
    MessageObject* message_ = nullptr;
    const Kind* kind_ = nullptr;
    uint64_t *stamps_ = nullptr, *remote_ = nullptr, *dropped_ = nullptr;
    uint64_t copied_ = 0;

    /// The dimensions first; they say how much to copy. Those that do not fit are PeerCorrupted when they are used.
    static uint64_t copy_shaped(const Layout& layout, std::byte* to, const std::byte* from, uint64_t room) noexcept {
        const uint64_t size = layout.dims_bytes(), at = std::min(room, layout.bytes) - size;
        copy_shared(to + at, from + room - size, size);
        Dims d;
        d.ndim = layout.dims.ndim;
        std::memcpy(d.n, to + at, size);
        uint64_t used = 0;
        if (!d.bytes(layout.element(), std::min(layout.room, at), used)) used = 0;
        copy_shared(to, from, used);
        return used + size;
    }
};

/// What was found; null with PeerCorrupted set.
const Kind* kind_of(const TapEnd& e, const Sight& s) {
    const Atomic64* variants = s.slab().variants;
    const Kind* kind = e.kinds.size() == 1 && !variants ? &e.kinds[0] : e.kind_of(variants ? s.side(variants) : ~0ull);
    if (!kind) return nullptr;
    const Layout& layout = *kind->shape;
    if (s.room() >= layout.least()) [[likely]]
        return kind;
    raise("PeerCorrupted", "a message on " + e.address + " says that it has " + std::to_string(s.room()) + " bytes, but a " +
                               layout.text() + " has " + std::to_string(layout.least()) + "; its sender is damaged or hostile");
    return nullptr;
}

/// What can be read now, up to `limit` messages; null without an exception when there is nothing.
PyObject* look(TapEnd& e, Draft& draft, uint64_t limit, bool batch) {
    Sight s;
    for (int i = 0; i < kTries && e.tap->find(limit, s); ++i) {
        const Kind* kind = kind_of(e, s);
        if (!kind) {
            s.count = 1;
            if (e.tap->read(s, [] {})) return nullptr;  // it says so itself: passed over
            PyErr_Clear();
            continue;
        }
        if (!draft.fit(e, *kind, s, batch)) return nullptr;
        bool whole;
        if (s.count * s.stride() >= kWorthLettingGo) {
            const WithoutGil nogil;
            whole = e.tap->read(s, [&] { draft.copy(s); });
        } else {
            whole = e.tap->read(s, [&] { draft.copy(s); });
        }
        if (whole) return draft.finish(s, e.counts, e.gateway != nullptr);
    }
    return nullptr;
}

PyObject* receive_some(PyObject* self, uint64_t limit, bool batch, uint64_t deadline, uint64_t linger) {
    TapEnd& e = tap_end(self);
    if (!e.enter()) return nullptr;
    Inside<TapEnd> inside{e};
    Draft draft;
    for (;;) {
        if (!e.tap && !await_channel(self, e, deadline)) return nullptr;
        Tap& t = *e.tap;
        if (linger != 0 && t.there(limit) != 0) {
            const WithoutGil nogil;
            if (!t.linger(limit, sys::now_ns() + linger, Tick{t.registry})) return nullptr;
            linger = 0;
        }
        for (int i = 0; linger == 0 && i < kPolls; ++i) {
            PyObject* got = look(e, draft, limit, batch);
            if (got || PyErr_Occurred()) return got;
            if (deadline == 0) break;
            cpu_pause();
        }
        Wait result;
        const uint64_t since = sys::now_ns();
        {
            const WithoutGil nogil;
            result = t.wait(deadline, Tick{t.registry});
        }
        const uint64_t now = sys::now_ns();
        if (deadline != 0) {
            ++e.counts.waits;
            e.counts.wait.add(now - since);
        }
        if (result == Wait::stopped && !e.closed && !e.interrupted && e.follow && t.closed() && t.ended()) {
            leave_channel(e);  // replaced by a sender with other types: follow to its channel
            continue;
        }
        if (result == Wait::ready && deadline <= now) result = Wait::timeout;  // what is there does not hold still
        if (result != Wait::ready) return no_message(e, result), nullptr;
        if (!run_pending()) return nullptr;
    }
}

PyObject* receive(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) try {
    PyObject* values[1];
    uint64_t deadline;
    if (!Call{"receive", args, n, names}.parse({"timeout"}, values) || !deadline_from(values[0], deadline)) return nullptr;
    return receive_some(self, 1, false, deadline, 0);
} catch (...) {
    return raise_current();
}

PyObject* try_receive(PyObject* self, PyObject*) try {
    return none_if_empty(receive_some(self, 1, false, 0, 0));
} catch (...) {
    return raise_current();
}

PyMethodDef methods[] = {
    {"receive", method(guarded<receive>), METH_FASTCALL | METH_KEYWORDS,
     "receive($self, timeout=None)\n--\n\n"
     "A private copy of the next message.\n\n"
     "Raises Empty after timeout seconds, EndOfChannel, SenderLost, ChannelClosed."},
    {"try_receive", guarded<try_receive>, METH_NOARGS,
     "try_receive($self)\n--\n\nA copy of the next message, or None when there is none now."},
    {"receive_many", method(guarded<receive_many<receive_some>>), METH_FASTCALL | METH_KEYWORDS,
     "receive_many($self, n, timeout=None, linger=0.0)\n--\n\n"
     "Copies of 1 to n consecutive messages of one sender as one Batch; after the first waits linger seconds for more."},
    {"try_receive_many", guarded<try_receive_many<receive_some>>, METH_O,
     "try_receive_many($self, n, /)\n--\n\nCopies of 1 to n messages as one Batch, or None when there is none now."},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};

}  // namespace

void bind_tap(nb::module_& m) {
    nb::class_<TapEnd> c(m, "TapEnd", nb::type_slots(slots), "The native end that looks on.");
    bind_reading(c);
}

TapEnd::~TapEnd() {
    closed = true;
    close_now(*this);
}

}  // namespace psyne::python
