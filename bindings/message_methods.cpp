// What messages and batches are to Python: their types, and the methods that end, take back and shorten them.
#include "ends.hpp"
#include "guard.hpp"

namespace psyne::python {

namespace {

PyObject* message_new(PyTypeObject* type, PyObject*, PyObject*) {
    Layout* layout = layout_of(type);
    if (!layout) return nullptr;
    MessageObject* m = new_message(type, layout);
    if (m && !make_private(m)) {
        Py_DECREF(m);
        return nullptr;
    }
    return reinterpret_cast<PyObject*>(m);
}

PyObject* enter(PyObject* o, PyObject*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (!usable(m)) return nullptr;
    if (m->parent) return PyErr_Format(PyExc_TypeError, "a part of a message ends with the whole"), nullptr;
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

PyObject* release_message(PyObject* o, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (n != 0 || names) {
        PyObject* after[1];
        if (n != 0) return PyErr_SetString(PyExc_TypeError, "release() takes no arguments but after="), nullptr;
        if (!Call{"release", args, n, names}.parse({"after"}, after)) return nullptr;
        static std::atomic<PyObject*> cache{nullptr};
        PyObject* release_after = after[0] == Py_None ? nullptr : imported(cache, "psyne.after", "release_after");
        if (release_after) return PyObject_CallFunctionObjArgs(release_after, o, after[0], nullptr);
        if (PyErr_Occurred()) return nullptr;
    }
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
    if (m->parent) return PyErr_Format(PyExc_TypeError, "a part of a message cannot be discarded by itself"), nullptr;
    if (m->hold.kind == Hold::Kind::taken || m->hold.kind == Hold::Kind::called)
        return raise("NotALoan", "a received message cannot be discarded; release() it");
    if (m->open && !discard_message(m)) return nullptr;
    Py_RETURN_NONE;
}

/// The first dimension of a shaped message, shortened.
PyObject* truncate(PyObject* o, PyObject* arg) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    const Py_ssize_t n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    Dims d;
    if ((n == -1 && PyErr_Occurred()) || !usable(m) || !dims_of(m, d)) return nullptr;
    if (!m->writable) return raise("NotALoan", "only a loan can be truncated");
    if (!m->layout->shaped || d.ndim == 0)
        return PyErr_Format(PyExc_TypeError, "truncate() of a message of fixed shape, %s", m->layout->text().c_str());
    if (n < 0 || n > d.n[0]) return PyErr_Format(PyExc_ValueError, "truncate(%zd) of a first axis of %zd", n, d.n[0]);
    d.n[0] = n;
    m->layout->write_dims(m->at.data, m->at.room, d);
    Py_RETURN_NONE;
}

/// The dimensions of a shaped message that is written; None: the longest, of one dimension, that has room where it lies.
PyObject* reshape(PyObject* o, PyObject* shape) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (!usable(m)) return nullptr;
    if (!m->writable) return raise("ReadOnly", "a received message is read-only; copy() it to change it");
    const Layout& layout = *m->layout;
    const uint64_t most = layout.elements_in(m->at.room);
    Dims d;
    uint64_t total;
    if (shape == Py_None) {
        d.ndim = 1;
        d.n[0] = static_cast<npy_intp>(most / layout.element());
    } else if (!shape_from(shape, layout, d)) {
        return nullptr;
    } else if (!d.bytes(layout.element(), most, total)) {
        return PyErr_Format(PyExc_ValueError, "%llu bytes do not fit into this loan, which has room for %llu; say how many when you "
                            "loan: loan(size=...), loan(shape=...), or send() it",
                            static_cast<unsigned long long>(total), static_cast<unsigned long long>(most));
    }
    layout.write_dims(m->at.data, m->at.room, d);
    Py_RETURN_NONE;
}

PyObject* truncate_batch(PyObject* o, PyObject* arg) {
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

extern PyGetSetDef message_properties[];
extern PyMethodDef message_access[];
int message_buffer(PyObject* o, Py_buffer* view, int flags);
PyObject* batch_item(PyObject* o, PyObject* key);
int batch_assign(PyObject* o, PyObject* key, PyObject* value);
Py_ssize_t batch_length(PyObject* o);
PyObject* batch_message(PyObject* o, Py_ssize_t i);
PyObject* from_buffer(PyObject* cls, PyObject* const* args, Py_ssize_t n, PyObject* names);
void bind_field(nb::module_& m);

static PyTypeObject* make_type(nb::module_& m, const char* name, PyType_Spec& spec) {
    auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!type) throw nb::python_error();
    m.attr(name) = nb::borrow(reinterpret_cast<PyObject*>(type));
    return type;
}

void bind_message(nb::module_& m) {
    static std::vector<PyMethodDef> methods = {
        {"__enter__", guarded<enter>, METH_NOARGS, nullptr},
        {"__exit__", method(guarded<exit>), METH_FASTCALL, nullptr},
        {"release", method(guarded<release_message>), METH_FASTCALL | METH_KEYWORDS,
         "release($self, *, after=None)\n--\n\n"
         "End the message now and give its slot back; or once an event of a device is done.\n\n"
         "Raises BufferError while views on it live."},
        {"discard", guarded<discard>, METH_NOARGS, "Take the loan back: nothing is sent when its block ends."},
    };
    for (PyMethodDef* d = message_access; d->ml_name; ++d) methods.push_back(*d);
    static std::vector<PyMethodDef> batch_methods = methods;
    methods.push_back({"truncate", guarded<truncate>, METH_O, "Shorten the first axis of a message that brings its own shape."});
    methods.push_back({"_reshape", guarded<reshape>, METH_O, nullptr});
    methods.push_back({"from_buffer", method(from_buffer), METH_FASTCALL | METH_KEYWORDS | METH_CLASS,
                       "A message over memory of one's own, which it keeps."});
    methods.push_back({nullptr, nullptr, 0, nullptr});
    batch_methods.push_back({"truncate", guarded<truncate_batch>, METH_O, "Send only the first n messages; the rest was never there."});
    batch_methods.push_back({nullptr, nullptr, 0, nullptr});

    static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(message_dealloc)},
                                  {Py_tp_new, reinterpret_cast<void*>(message_new)},
                                  {Py_tp_methods, methods.data()},
                                  {Py_tp_getset, message_properties},
                                  {Py_bf_getbuffer, reinterpret_cast<void*>(guarded<message_buffer>)},
                                  {Py_tp_doc, const_cast<char*>("A message: a view of one slot, or of private memory.")},
                                  {0, nullptr}};
    static PyType_Spec spec = {"psyne._native.Message", sizeof(MessageObject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    static PyType_Slot batch_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(message_dealloc)},
                                        {Py_tp_methods, batch_methods.data()},
                                        {Py_tp_getset, message_properties},
                                        {Py_mp_length, reinterpret_cast<void*>(guarded<batch_length>)},
                                        {Py_sq_item, reinterpret_cast<void*>(guarded<batch_message>)},
                                        {Py_tp_iter, reinterpret_cast<void*>(PySeqIter_New)},
                                        {Py_mp_subscript, reinterpret_cast<void*>(guarded<batch_item>)},
                                        {Py_mp_ass_subscript, reinterpret_cast<void*>(batch_assign)},
                                        {Py_bf_getbuffer, reinterpret_cast<void*>(guarded<message_buffer>)},
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
