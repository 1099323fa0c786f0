// The life of messages, batches and leases: made from a freelist, ended by one call, kept by views.
#include "message.hpp"

#include "ends.hpp"

namespace psyne::python {

PyTypeObject* message_type = nullptr;
PyTypeObject* batch_type = nullptr;
PyTypeObject* lease_type = nullptr;

namespace {

constexpr size_t kFree = 256;
PyObject* free_messages[kFree];  // all classes of messages are alike in size
size_t free_count = 0;

bool ours(uint64_t generation) { return generation == fork_generation.load(std::memory_order_relaxed); }

MessageObject* fresh(PyTypeObject* type, Layout* layout, bool batch) {
    PyObject* o;
    if (free_count != 0) {
        o = PyObject_Init(free_messages[--free_count], type);
    } else {
        o = type->tp_alloc(type, 0);
        if (!o) return nullptr;
        PyObject_GC_UnTrack(o);  // a message is in no cycle
        new (&reinterpret_cast<MessageObject*>(o)->hold) Hold();
    }
    auto* m = reinterpret_cast<MessageObject*>(o);
    m->layout = layout;
    m->data = nullptr;
    m->count = 1;
    m->stride = 0;
    m->end = nullptr;
    m->lease = nullptr;
    m->views = nullptr;
    m->generation = fork_generation.load(std::memory_order_relaxed);
    m->open = m->writable = m->touched = false;
    m->batch = batch;
    m->hold.kind = Hold::Kind::nothing;
    return m;
}

/// A receiver that was closed leaves when its last message is gone.
void settled(PyObject* end) {
    ReceiverEnd& e = receiver_end(end);
    if (e.closed && !e.busy) [[unlikely]]
        close_now(e);
}

void hold_slots(SenderEnd& e, const Loan& loan, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) e.sender->hold(loan.slot + i);
}

/// Arrays of the user (not those that only the message knows) that still use the bytes?
bool views_live(const MessageObject* m) {
    if (!m->lease) return false;
    const Py_ssize_t known = m->views ? PyList_GET_SIZE(m->views) : 0;
    if (Py_REFCNT(m->lease) > 1 + known) return true;
    for (Py_ssize_t i = 0; i < known; ++i)
        if (Py_REFCNT(PyList_GET_ITEM(m->views, i)) > 1) return true;
    return false;
}

void close_views(MessageObject* m) {
    for (Py_ssize_t i = 0; m->views && i < PyList_GET_SIZE(m->views); ++i)
        PyArray_CLEARFLAGS(reinterpret_cast<PyArrayObject*>(PyList_GET_ITEM(m->views, i)), NPY_ARRAY_WRITEABLE);
    Py_CLEAR(m->views);
}

/// What the end of a message means for its slots. `send` messages of a loan are sent, 0 discards it.
void end_hold(MessageObject* m, uint64_t send, bool live) {
    Hold& h = m->hold;
    switch (h.kind) {
        case Hold::Kind::loan: {
            SenderEnd& e = sender_end(m->end);
            if (live) {
                hold_slots(e, h.loan, h.loan.count);
                m->lease->hold = h;
                m->lease->hold.kind = Hold::Kind::sent;
            }
            if (e.closed) break;  // close() made it a SKIP
            if (send != 0)
                e.sender->commit(h.loan, send, live || e.busy);
            else
                e.sender->discard(h.loan, live || e.busy);
            break;
        }
        case Hold::Kind::scratch:
            if (send != 0 && !sender_end(m->end).closed) sender_end(m->end).sender->drop(send);
            break;
        case Hold::Kind::taken:
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
void end_message(MessageObject* m, uint64_t send, bool live) {
    m->open = false;
    close_views(m);
    if (ours(m->generation)) end_hold(m, send, live);
    m->hold.kind = Hold::Kind::nothing;
    Py_CLEAR(m->lease);  // from here on only views keep it
}

void dealloc_open(MessageObject* m) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    const bool live = views_live(m);
    if (m->hold.kind == Hold::Kind::taken && ours(m->generation)) {
        if (live) {  // the views keep it taken
            m->lease->hold = m->hold;
            m->hold.kind = Hold::Kind::nothing;
            m->open = false;
        } else if (!m->touched && type && PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt)) {
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

void message_dealloc(PyObject* o) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (m->open) {
        if (m->hold.kind == Hold::Kind::taken && !m->lease && (m->touched || !PyErr_Occurred())) [[likely]]
            end_message(m, 0, false);
        else
            dealloc_open(m);
    }
    Py_CLEAR(m->views);
    Py_CLEAR(m->lease);
    Py_CLEAR(m->end);
    PyTypeObject* type = Py_TYPE(o);
    if (free_count < kFree)
        free_messages[free_count++] = o;
    else
        PyObject_GC_Del(o);
    Py_DECREF(type);
}

void lease_dealloc(PyObject* o) {
    auto* lease = reinterpret_cast<LeaseObject*>(o);
    if (ours(lease->generation)) {
        Hold& h = lease->hold;
        if (h.kind == Hold::Kind::sent) {
            SenderEnd& e = sender_end(lease->end);
            for (uint64_t i = 0; i < h.loan.count; ++i) e.sender->unhold(h.loan.slot + i);
        } else if (h.kind == Hold::Kind::taken || h.kind == Hold::Kind::passed) {
            h.kind == Hold::Kind::passed ? h.receiver->finish(h.taken) : h.receiver->end(h.taken, false);
            settled(lease->end);
        }
    }
    std::free(lease->memory);
    Py_XDECREF(lease->end);
    PyTypeObject* type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

PyObject* message_new(PyTypeObject* type, PyObject*, PyObject*) {
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
    MessageObject* m = fresh(type, nb::inst_ptr<Layout>(layout), false);
    if (m && !make_private(m)) {
        Py_DECREF(m);
        return nullptr;
    }
    return reinterpret_cast<PyObject*>(m);
}

PyObject* enter(PyObject* o, PyObject*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (!usable(m)) return nullptr;
    return Py_NewRef(o);
}

PyObject* exit(PyObject* o, PyObject* const* args, Py_ssize_t n) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (!m->open) Py_RETURN_FALSE;
    const bool failed = n > 0 && args[0] != Py_None;
    const bool ok = failed && m->hold.kind != Hold::Kind::taken ? discard_message(m) : finish_message(m, m->count);
    if (!ok && failed) PyErr_WriteUnraisable(o);  // never replaces the exception of the block
    else if (!ok) return nullptr;
    Py_RETURN_FALSE;
}

PyObject* release_message(PyObject* o, PyObject*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (!m->open) Py_RETURN_NONE;
    if (views_live(m))
        return raise("ViewsAlive", "arrays, slices or memoryviews still use this message; drop them or copy() them, "
                                   "then release() it (the end of a with block or loop step does not need that)");
    if (m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::scratch) {
        if (!discard_message(m)) return nullptr;
    } else if (!finish_message(m, 0)) {
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyObject* discard(PyObject* o, PyObject*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (m->hold.kind == Hold::Kind::taken) return raise("NotALoan", "a received message cannot be discarded; release() it");
    if (m->open && !discard_message(m)) return nullptr;
    Py_RETURN_NONE;
}

PyObject* truncate(PyObject* o, PyObject* arg) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    const Py_ssize_t n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (n == -1 && PyErr_Occurred()) return nullptr;
    if (!usable(m)) return nullptr;
    if (!m->writable) return raise("NotALoan", "only a loan can be truncated");
    if (n < 0 || static_cast<uint64_t>(n) > m->count) {
        PyErr_Format(PyExc_ValueError, "truncate(%zd) of a batch of %llu messages", n,
                     static_cast<unsigned long long>(m->count));
        return nullptr;
    }
    m->count = static_cast<uint64_t>(n);  // the loan itself still knows all its slots
    Py_RETURN_NONE;
}

PyObject* adopt(PyObject*, PyObject* cls) {
    auto* type = reinterpret_cast<PyTypeObject*>(cls);
    if (!PyType_Check(cls) || !(PyType_IsSubtype(type, message_type) || PyType_IsSubtype(type, batch_type))) {
        PyErr_SetString(PyExc_TypeError, "not a message class");
        return nullptr;
    }
    if (type->tp_basicsize != message_type->tp_basicsize || !PyType_IS_GC(type) || type->tp_dictoffset != 0 ||
        type->tp_weaklistoffset != 0) {
        PyErr_Format(PyExc_TypeError, "%s: a message lies in its slot and cannot have instance attributes besides fields",
                     type->tp_name);
        return nullptr;
    }
    type->tp_dealloc = message_dealloc;
    Py_RETURN_NONE;
}

}  // namespace

MessageObject* new_message(PyTypeObject* type, Layout* layout) { return fresh(type, layout, false); }
MessageObject* new_batch(PyTypeObject* type, Layout* layout) { return fresh(type, layout, true); }

bool make_private(MessageObject* m) {
    auto* lease = PyObject_New(LeaseObject, lease_type);
    if (!lease) return false;
    lease->end = nullptr;
    lease->generation = fork_generation.load(std::memory_order_relaxed);
    new (&lease->hold) Hold();
    const uint64_t align = std::max<uint64_t>(64, m->layout->alignment);
    const uint64_t stride = payload_stride(m->layout->bytes, m->layout->alignment, 0);
    const uint64_t room = round_up(std::max<uint64_t>(stride * m->count, 1), align);
    lease->memory = static_cast<std::byte*>(std::aligned_alloc(align, room));
    if (!lease->memory) {
        Py_DECREF(lease);
        PyErr_NoMemory();
        return false;
    }
    std::memset(lease->memory, 0, room);
    m->lease = lease;
    m->data = lease->memory;
    m->stride = stride;
    m->open = m->writable = true;
    return true;
}

bool finish_message(MessageObject* m, uint64_t send_count) {
    if (!m->open) return true;
    const bool loan = m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::scratch;
    if (loan && (sender_end(m->end).closed || sender_end(m->end).forked())) {
        end_message(m, 0, views_live(m));
        sender_end(m->end).refuse();
        return false;
    }
    end_message(m, send_count, views_live(m));
    return true;
}

bool discard_message(MessageObject* m) {
    if (m->open) end_message(m, 0, views_live(m));
    return true;
}

void drop_empty(MessageObject* m) { Py_DECREF(m); }

bool is_message(PyObject* o) { return Py_TYPE(o)->tp_dealloc == message_dealloc; }

bool usable(MessageObject* m) {
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

extern PyGetSetDef message_properties[];
extern PyMethodDef message_access[];
int message_buffer(PyObject* o, Py_buffer* view, int flags);
PyObject* batch_item(PyObject* o, PyObject* key);
int batch_assign(PyObject* o, PyObject* key, PyObject* value);
Py_ssize_t batch_length(PyObject* o);
void bind_field(nb::module_& m);

static PyTypeObject* make_type(nb::module_& m, const char* name, PyType_Spec& spec) {
    auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!type) throw nb::python_error();
    m.attr(name) = nb::borrow(reinterpret_cast<PyObject*>(type));
    return type;
}

void bind_message(nb::module_& m) {
    static std::vector<PyMethodDef> methods = {
        {"__enter__", enter, METH_NOARGS, nullptr},
        {"__exit__", method(exit), METH_FASTCALL, nullptr},
        {"release", release_message, METH_NOARGS,
         "End the message now and give its slot back.\n\nRaises BufferError while views on it live."},
        {"discard", discard, METH_NOARGS, "Take the loan back: nothing is sent when its block ends."},
    };
    for (PyMethodDef* d = message_access; d->ml_name; ++d) methods.push_back(*d);
    static std::vector<PyMethodDef> batch_methods = methods;
    methods.push_back({nullptr, nullptr, 0, nullptr});
    batch_methods.push_back({"truncate", truncate, METH_O, "Send only the first n messages; the rest was never there."});
    batch_methods.push_back({nullptr, nullptr, 0, nullptr});

    static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(message_dealloc)},
                                  {Py_tp_new, reinterpret_cast<void*>(message_new)},
                                  {Py_tp_methods, methods.data()},
                                  {Py_tp_getset, message_properties},
                                  {Py_bf_getbuffer, reinterpret_cast<void*>(message_buffer)},
                                  {Py_tp_doc, const_cast<char*>("A message: a view of one slot, or of private memory.")},
                                  {0, nullptr}};
    static PyType_Spec spec = {"psyne._native.Message", sizeof(MessageObject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    static PyType_Slot batch_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(message_dealloc)},
                                        {Py_tp_methods, batch_methods.data()},
                                        {Py_tp_getset, message_properties},
                                        {Py_mp_length, reinterpret_cast<void*>(batch_length)},
                                        {Py_mp_subscript, reinterpret_cast<void*>(batch_item)},
                                        {Py_mp_ass_subscript, reinterpret_cast<void*>(batch_assign)},
                                        {Py_bf_getbuffer, reinterpret_cast<void*>(message_buffer)},
                                        {Py_tp_doc, const_cast<char*>("Consecutive messages of one sender.")},
                                        {0, nullptr}};
    static PyType_Spec batch_spec = {"psyne._native.Batch", sizeof(MessageObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                     batch_slots};
    static PyType_Slot lease_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(lease_dealloc)}, {0, nullptr}};
    static PyType_Spec lease_spec = {"psyne._native.Lease", sizeof(LeaseObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, lease_slots};
    message_type = make_type(m, "Message", spec);
    batch_type = make_type(m, "Batch", batch_spec);
    lease_type = make_type(m, "Lease", lease_spec);
    static PyMethodDef adopt_def = {"adopt", adopt, METH_O, "Make instances of a message class cheap."};
    m.attr("adopt") = nb::steal(PyCFunction_New(&adopt_def, nullptr));
    bind_field(m);
}

}  // namespace psyne::python
