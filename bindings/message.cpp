// The life of messages, batches and leases: made from a freelist, ended by one call, kept by views.
#include "message.hpp"

#include "ends.hpp"
#include "guard.hpp"

namespace psyne::python {

PyTypeObject* message_type = nullptr;
PyTypeObject* batch_type = nullptr;
PyTypeObject* lease_type = nullptr;

namespace {

constexpr size_t kFree = 256;  // without a GIL none: Python's allocator has memory for each thread
PyObject* free_messages[kFree];  // all classes of messages are alike in size
size_t free_count = 0;

bool ours(uint64_t generation) { return generation == fork_generation.load(std::memory_order_relaxed); }

MessageObject* fresh(PyTypeObject* type, Layout* layout, bool batch) {
    PyObject* o;
    if (kGil && free_count != 0) {
        o = PyObject_Init(free_messages[--free_count], type);
    } else {
        o = type->tp_alloc(type, 0);
        if (!o) return nullptr;
        PyObject_GC_UnTrack(o);  // a message is in no cycle
        new (&reinterpret_cast<MessageObject*>(o)->hold) Hold();
    }
    count_as_one(o);
    auto* m = reinterpret_cast<MessageObject*>(o);
    m->layout = layout;
    m->at = Place{};
    m->count = 1;
    m->end = m->parent = m->type = m->views = nullptr;
    m->lease = nullptr;
    m->pin = nullptr;
    m->generation = fork_generation.load(std::memory_order_relaxed);
    m->open = m->writable = m->touched = false;
    m->batch = batch;
    m->before = m->behind = nullptr;
    m->hold.kind = Hold::Kind::nothing;
    return m;
}

/// A receiver that was closed leaves when its last message is gone.
void settled(PyObject* end) {
    ReceiverEnd& e = receiver_end(end);
    if ((e.closed || e.level) && !e.busy) [[unlikely]]
        e.closed ? close_now(e) : keep_level(e);
}

void hold_slots(const Loan& loan) {
    for (uint64_t i = 0; i < loan.count; ++i) loan.ring->hold(loan.slot + i);
}

void unhold_slots(SenderEnd& e, const Loan& loan) {
    for (uint64_t i = 0; i < loan.count; ++i) loan.ring->unhold(loan.slot + i);
    if (std::exchange(e.starved, false) && e.bell) e.bell->ring();
    if (e.level && !e.busy) [[unlikely]]
        keep_level(e);
}

}  // namespace

bool views_live(const MessageObject* m) {
    if (!m->lease) return false;
    const Py_ssize_t known = m->views ? PyList_GET_SIZE(m->views) : 0;
    for (Py_ssize_t i = 0; i < known; ++i)  // first: without any of them nobody makes other views any more
        if (references(PyList_GET_ITEM(m->views, i)) > 1) return true;
    return references(reinterpret_cast<PyObject*>(m->lease)) > 1 + known;
}

namespace {

void close_views(MessageObject* m) {
    for (Py_ssize_t i = 0; m->views && i < PyList_GET_SIZE(m->views); ++i)
        PyArray_CLEARFLAGS(reinterpret_cast<PyArrayObject*>(PyList_GET_ITEM(m->views, i)), NPY_ARRAY_WRITEABLE);
    Py_CLEAR(m->views);
}

/// What the end of a message means for its slots. `send` messages of a loan are sent, 0 discards it. `back`: not now.
void end_hold(MessageObject* m, uint64_t send, bool live, HeldBack* back) {
    Hold& h = m->hold;
    switch (h.kind) {
        case Hold::Kind::loan: {
            SenderEnd& e = sender_end(m->end);
            if (live) {
                hold_slots(h.loan);
                m->lease->hold = h;
                m->lease->hold.kind = Hold::Kind::sent;
            }
            if (e.closed) break;  // close() made it a SKIP
            if (send == 0)
                e.sender->discard(h.loan, live || e.busy);
            else if (back)
                back->dropped = e.sender->hold_back(back->loan = h.loan, send, live || e.busy);
            else
                e.sender->commit(h.loan, send, live || e.busy), e.counts.messages += send;
            if (e.level && !e.busy) [[unlikely]]
                keep_level(e);
            break;
        }
        case Hold::Kind::scratch:
            if (send != 0 && !sender_end(m->end).closed) sender_end(m->end).sender->drop(send), sender_end(m->end).counts.missed += send;
            break;
        case Hold::Kind::called: {
            SenderEnd& e = sender_end(m->end);
            --e.called;
            if (!live) return unhold_slots(e, h.loan);
            m->lease->hold = h;
            m->lease->hold.kind = Hold::Kind::sent;
            if (std::exchange(e.starved, false) && e.bell) e.bell->ring();  // to hear that views stand in the way
            break;
        }
        case Hold::Kind::taken:
            unlink_taken(m);
            h.receiver->end(h.taken, live);
            if (live) {
                m->lease->hold = h;
                m->lease->hold.kind = Hold::Kind::passed;
            } else {
                settled(m->end);
            }
            break;
        default: break;
    }
}

/// The end of a message that is open. `live`: views of the user still use its bytes.
void end_message(MessageObject* m, uint64_t send, bool live, HeldBack* back = nullptr) {
    m->open = false;
    close_views(m);
    if (ours(m->generation)) end_hold(m, send, live, back);
    m->hold.kind = Hold::Kind::nothing;
    Py_CLEAR(m->lease);  // from here on only views keep it
}

void dealloc_open(MessageObject* m) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    const bool live = views_live(m);
    if (m->hold.kind == Hold::Kind::taken && ours(m->generation)) {
        if (live) {  // the views keep it taken
            unlink_taken(m);
            m->lease->hold = m->hold;
            m->hold.kind = Hold::Kind::nothing;
            m->open = false;
        } else if (!m->touched && type && PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt)) {
            unlink_taken(m);
            m->hold.receiver->give_back(m->hold.taken);  // the caller never saw it
            m->hold.kind = Hold::Kind::nothing;
            settled(m->end);
        }
    }
    if (m->hold.kind == Hold::Kind::loan && ours(m->generation) && !type)
        if (PyErr_ResourceWarning(nullptr, 1, "a loan was neither sent nor discarded; use it in a with block") < 0)
            PyErr_WriteUnraisable(nullptr);
    if (m->hold.kind != Hold::Kind::nothing) end_message(m, 0, live);
    PyErr_Restore(type, value, trace);
}

}  // namespace

void message_dealloc(PyObject* o) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    Py_CLEAR(m->pin);  // who needed it held the message
    if (m->open) {
        const Guard guard(o);
        if (m->hold.kind == Hold::Kind::taken && !m->lease && (m->touched || !PyErr_Occurred())) [[likely]]
            end_message(m, 0, false);
        else
            dealloc_open(m);
    }
    Py_CLEAR(m->views);
    Py_CLEAR(m->lease);
    Py_CLEAR(m->end);
    Py_CLEAR(m->parent);
    Py_CLEAR(m->type);
    PyTypeObject* type = Py_TYPE(o);
    if (kGil && free_count < kFree)
        free_messages[free_count++] = o;
    else
        PyObject_GC_Del(o);
    Py_DECREF(type);
}

void lease_dealloc(PyObject* o) {
    auto* lease = reinterpret_cast<LeaseObject*>(o);
    if (Hold& h = lease->hold; h.kind != Hold::Kind::nothing && ours(lease->generation)) {
        const Guard guard(lease->end);
        switch (h.kind) {
            case Hold::Kind::sent: unhold_slots(sender_end(lease->end), h.loan); break;
            case Hold::Kind::failed: h.receiver->fail(h.taken), settled(lease->end); break;
            case Hold::Kind::passed: h.receiver->finish(h.taken), settled(lease->end); break;
            default: h.receiver->end(h.taken, false), settled(lease->end);
        }
    }
    std::free(lease->memory);
    lease->pages.~Mapping();
    Py_XDECREF(lease->keeps);
    Py_XDECREF(lease->end);
    PyTypeObject* type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

void link_taken(MessageObject* m) {
    MessageObject*& first = receiver_end(m->end).held;
    m->behind = first;
    if (first) first->before = m;
    first = m;
}

void unlink_taken(MessageObject* m) {
    MessageObject*& from = m->before ? m->before->behind : receiver_end(m->end).held;
    if (from != m) return;  // was never in it
    from = m->behind;
    if (m->behind) m->behind->before = m->before;
    m->before = m->behind = nullptr;
}

uint64_t give_back_held(ReceiverEnd& e) {
    uint64_t n = 0;
    for (MessageObject *m = e.held, *next; m; m = next) {
        next = m->behind;
        if (views_live(m) || m->hold.receiver->is_dirty(m->hold.taken)) continue;
        unlink_taken(m);
        n += m->hold.taken.count;
        m->hold.receiver->give_back(m->hold.taken);
        m->hold.kind = Hold::Kind::nothing;
        m->open = false;
        Py_CLEAR(m->views);
        Py_CLEAR(m->lease);
    }
    return n;
}

MessageObject* new_message(PyTypeObject* type, Layout* layout) { return fresh(type, layout, false); }
MessageObject* new_batch(PyTypeObject* batch, PyObject* type, Layout* layout) {
    MessageObject* m = fresh(batch, layout, true);
    if (m) m->type = Py_NewRef(type);
    return m;
}

void retype(MessageObject* m, PyObject* type, Layout* layout) {
    m->layout = layout;
    if (m->batch) {
        PyObject* before = std::exchange(m->type, Py_NewRef(type));
        Py_DECREF(before);
    } else if (PyTypeObject* before = Py_TYPE(m); before != reinterpret_cast<PyTypeObject*>(type)) {
        Py_INCREF(type);
        Py_SET_TYPE(reinterpret_cast<PyObject*>(m), reinterpret_cast<PyTypeObject*>(type));
        Py_DECREF(before);
    }
}

PyObject* new_part(MessageObject* whole, PyTypeObject* type, Layout* layout, const Place& at) {
    MessageObject* m = fresh(type, layout, false);
    if (!m) return nullptr;
    m->at = at;
    m->parent = Py_NewRef(reinterpret_cast<PyObject*>(whole));
    m->writable = whole->writable;
    return reinterpret_cast<PyObject*>(m);
}

bool shape_from(PyObject* shape, const Layout& layout, Dims& out) {
    out.ndim = layout.dims.ndim;
    if (!layout.shaped) {
        PyErr_Format(PyExc_TypeError, "messages of %s have one shape; leave shape= and size= out", layout.text().c_str());
        return false;
    }
    const bool one = PyIndex_Check(shape);
    const nb::object dims = one ? nb::borrow(shape) : nb::steal(
        PyList_CheckExact(shape) ? PyList_AsTuple(shape) : PySequence_Fast(shape, "shape is an int or a tuple of ints"));
    if (!dims.is_valid()) return false;
    const Py_ssize_t given = one ? 1 : PySequence_Fast_GET_SIZE(dims.ptr());
    if (given != out.ndim) {
        PyErr_Format(PyExc_ValueError, "this type has %d dimensions; got shape=%R", out.ndim, shape);
        return false;
    }
    for (int i = 0; i < out.ndim; ++i) {
        out.n[i] = PyNumber_AsSsize_t(one ? shape : PySequence_Fast_GET_ITEM(dims.ptr(), i), PyExc_OverflowError);
        if (out.n[i] == -1 && PyErr_Occurred()) return false;
    }
    uint64_t total = 0;
    if (out.bytes(layout.element(), layout.room, total)) return true;
    PyErr_Format(PyExc_ValueError, "shape=%R of %s: a message has at most max_bytes=%llu", shape,
                 nb::cast<std::string>(nb::steal<nb::str>(PyObject_Str(layout.dtype.ptr()))).c_str(),
                 static_cast<unsigned long long>(layout.room));
    return false;
}

bool copy_message(const Layout& layout, const Place& from, const Place& to) {
    if (layout.columns) {
        for (const Layout::Column& c : layout.fields)
            std::memcpy(to.field(layout, c.offset, c.bytes), from.field(layout, c.offset, c.bytes), c.bytes);
        return true;
    }
    Dims d;
    uint64_t used = layout.bytes;
    if (layout.shaped) {
        if (!layout.read_dims(from.data, from.room, d) || !d.bytes(layout.element(), layout.elements_in(to.room), used)) return false;
        layout.write_dims(to.data, to.room, d);
    }
    std::memcpy(to.data, from.data, used);
    return true;
}

Layout* layout_of(PyTypeObject* type) {
    PyObject* layout = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__layout__");
    if (!layout) {
        PyErr_Format(PyExc_TypeError, "%s has no fields: declare them in a subclass", type->tp_name);
        return nullptr;
    }
    Py_DECREF(layout);  // the class keeps it
    if (type->tp_dealloc != message_dealloc) {
        PyErr_SetString(PyExc_TypeError, "subclass psyne.Struct or psyne.Array instead");
        return nullptr;
    }
    return nb::inst_ptr<Layout>(layout);
}

LeaseObject* new_lease(PyObject* end, uint64_t generation) {
    auto* lease = PyObject_New(LeaseObject, lease_type);
    if (!lease) return nullptr;
    lease->end = Py_XNewRef(end);
    lease->slab = nullptr;
    lease->memory = nullptr;
    new (&lease->pages) sys::Mapping();
    lease->keeps = nullptr;
    lease->generation = generation;
    new (&lease->hold) Hold();
    count_as_one(reinterpret_cast<PyObject*>(lease));
    return lease;
}

bool make_private(MessageObject* m) {
    LeaseObject* lease = new_lease(nullptr, fork_generation.load(std::memory_order_relaxed));
    if (!lease) return false;
    const uint64_t align = std::max<uint64_t>(64, m->layout->alignment);
    const uint64_t stride = payload_stride(m->layout->bytes, m->layout->alignment, 0);
    lease->memory = static_cast<std::byte*>(std::calloc(1, std::max<uint64_t>(stride * m->count, 1) + align));
    if (!lease->memory) {  // calloc: large memory costs nothing before it is touched
        Py_DECREF(lease);
        PyErr_NoMemory();
        return false;
    }
    m->lease = lease;
    std::byte* data = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(lease->memory), align));
    m->at = {data, stride, m->count, 0, m->layout->bytes};
    m->open = m->writable = true;
    return true;
}

bool finish_message(MessageObject* m, uint64_t send_count, HeldBack* back) {
    if (!m->open) return true;
    const bool loan = m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::scratch;
    if (loan && (sender_end(m->end).closed || sender_end(m->end).forked())) {
        end_message(m, 0, views_live(m));
        sender_end(m->end).refuse();
        return false;
    }
    end_message(m, send_count, views_live(m), back);
    if (loan && send_count != 0 && !back) tell_network(sender_end(m->end));
    return true;
}

bool discard_message(MessageObject* m) {
    if (m->open) end_message(m, 0, views_live(m));
    return true;
}

nb::object hold_message(MessageObject* m) {
    LeaseObject* lease = lease_of(m);
    if (!lease) return {};
    nb::object kept = nb::borrow(reinterpret_cast<PyObject*>(lease));
    unlink_taken(m);
    Receiver& r = *m->hold.receiver;
    lease->hold = m->hold;
    lease->hold.kind = r.writes() ? Hold::Kind::held : Hold::Kind::passed;
    if (!r.writes()) r.end(m->hold.taken, true);  // who reads holds up no reader
    r.held_back.fetch_add(1, relaxed);
    m->hold.kind = Hold::Kind::nothing;
    m->open = false;
    close_views(m);
    Py_CLEAR(m->lease);
    return kept;
}

void drop_empty(MessageObject* m) { Py_DECREF(m); }

bool is_message(PyObject* o) { return Py_TYPE(o)->tp_dealloc == message_dealloc; }

bool usable(MessageObject* m) {
    m = root(m);
    if (m->open) [[likely]] {
        m->touched = true;
        return true;
    }
    const bool sent = m->writable;
    raise("MessageReleased", sent ? "this loan was sent or discarded; take a new one with loan()"
                                  : "this message was released (by the end of its with block or loop step, or by "
                                    "release()); copy() it before, or keep an array of it");
    return false;
}

}  // namespace psyne::python
