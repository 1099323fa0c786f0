// What users reach through a message: its array, its fields, its buffer, its info.
#include "access.hpp"
#include "guard.hpp"

namespace psyne::python {

PyObject* batch_item(PyObject* o, PyObject* key);
PyObject* get_interface(PyObject* o, void*);
PyObject* as_array(PyObject* o, PyObject* const* args, Py_ssize_t n, PyObject* names);
PyObject* dlpack(PyObject* o, PyObject* const* args, Py_ssize_t n, PyObject* names);
PyObject* dlpack_device(PyObject* o, PyObject*);
PyObject* private_message(PyObject* o, PyObject*);

namespace {

MessageObject* self(PyObject* o) { return reinterpret_cast<MessageObject*>(o); }

/// A writable array of just this that was given out before.
PyObject* known_view(MessageObject* m, PyArray_Descr* descr, int ndim, const npy_intp* dims, const std::byte* data) {
    for (Py_ssize_t i = 0; m->views && i < PyList_GET_SIZE(m->views); ++i) {
        auto* a = reinterpret_cast<PyArrayObject*>(PyList_GET_ITEM(m->views, i));
        if (PyArray_BYTES(a) == reinterpret_cast<const char*>(data) && PyArray_DESCR(a) == descr &&
            PyArray_NDIM(a) == ndim && std::equal(dims, dims + ndim, PyArray_DIMS(a)))
            return Py_NewRef(reinterpret_cast<PyObject*>(a));
    }
    return nullptr;
}

/// Writable arrays are remembered: they turn read-only when the message ends.
PyObject* remember(MessageObject* m, PyObject* array) {
    if (!array || !m->writable || m->hold.kind == Hold::Kind::nothing) return array;
    if (!m->views && !(m->views = PyList_New(0))) return nullptr;
    if (PyList_Append(m->views, array) < 0) {
        Py_DECREF(array);
        return nullptr;
    }
    return array;
}

bool no_array(MessageObject* m) {
    if (m->layout->columns && m->at.ring != 1) {
        PyErr_Format(PyExc_TypeError, "this message lies in columns, which are no single array; take its fields: %s",
                     m->layout->text().c_str());
        return true;
    }
    if (m->layout->shaped && m->batch) {
        PyErr_SetString(PyExc_TypeError, "messages of a batch that bring their own shapes are no single array; iterate over it");
        return true;
    }
    return false;
}

PyObject* get_array(PyObject* o, void*) { return whole_array(self(o)); }

/// Which message of a batch this is, or is a part of.
uint64_t place_in_batch(const MessageObject* m) {
    for (; m->parent; m = reinterpret_cast<MessageObject*>(m->parent)) {
        const auto* whole = reinterpret_cast<MessageObject*>(m->parent);
        if (!whole->batch) continue;
        if (whole->layout->columns) return m->at.slot - whole->at.slot;
        return static_cast<uint64_t>(m->at.data - whole->at.data) / whole->at.stride;
    }
    return 0;
}

PyObject* get_info(PyObject* o, void*) {
    MessageObject* m = self(o);
    static std::atomic<PyObject*> cache{nullptr};
    PyObject* info = imported(cache, "psyne.info", "Info");
    if (!info) return nullptr;
    unsigned long long sequence = 0, sender = 0, missed = 0, stamp = 0, remote = 0;
    bool redelivered = false;
    const uint64_t i = place_in_batch(m);
    m = root(m);
    if (m->hold.kind == Hold::Kind::taken && usable(m)) {
        Taken t = m->hold.taken;
        t.slot += i;
        sequence = t.position();
        sender = t.lane->join;
        missed = Receiver::missed(t);
        redelivered = t.deaths != 0;
        stamp = t.stamp();
        remote = t.remote();
    } else if (m->hold.kind == Hold::Kind::called && usable(m)) {
        const Slab& slab = m->hold.loan.ring->slab;
        const uint64_t slot = m->hold.loan.slot + i;
        sequence = m->hold.loan.position + i;
        sender = sender_end(m->end).sender->registry.join();
        missed = slab.dropped ? slab.dropped[slot].load(relaxed) : 0;
        stamp = slab.stamps ? slab.stamps[slot].load(relaxed) : 0;
    } else if (m->hold.kind == Hold::Kind::copied) {
        const Sighting& c = m->hold.copied;
        sequence = c.sequence + i;
        sender = c.sender;
        missed = c.dropped[i] + (i == 0 ? c.missed : 0);
        stamp = c.stamps[i];
        remote = c.remote[i];
    } else if (m->hold.kind == Hold::Kind::loan) {
        sequence = m->hold.loan.position + i;
        sender = sender_end(m->end).sender->registry.join();
    } else if (!m->open) {
        usable(m);
        return nullptr;
    }
    return PyObject_CallFunction(info, "KKKOKK", sequence, sender, missed, redelivered ? Py_True : Py_False, stamp, remote);
}

/// A batch in columns as one structured array.
PyObject* copy_columns(MessageObject* m) {
    npy_intp count = static_cast<npy_intp>(m->count);
    PyObject* copied = PyArray_SimpleNewFromDescr(
        1, &count, reinterpret_cast<PyArray_Descr*>(Py_NewRef(m->layout->dtype.ptr())));
    for (size_t i = 0; copied && i < m->layout->fields.size(); ++i) {
        const Layout::Column& c = m->layout->fields[i];
        PyObject* column = batch_item(reinterpret_cast<PyObject*>(m), c.name.ptr());
        if (!column || PyObject_SetItem(copied, c.name.ptr(), column) < 0) Py_CLEAR(copied);
        Py_XDECREF(column);
    }
    return copied;
}

PyObject* copy(PyObject* o, PyObject*) {
    MessageObject* m = self(o);
    if (!usable(m)) return nullptr;
    if (m->batch && m->layout->columns) return copy_columns(m);
    if (m->batch) {
        PyObject* a = whole_array(m);
        if (!a) return nullptr;
        PyObject* c = PyArray_NewCopy(reinterpret_cast<PyArrayObject*>(a), NPY_CORDER);
        Py_DECREF(a);
        return c;
    }
    MessageObject* c = new_message(Py_TYPE(o), m->layout);
    if (!c) return nullptr;
    if (!make_private(c) || !copy_message(*m->layout, m->at, c->at)) {
        drop_empty(c);
        return nullptr;
    }
    return reinterpret_cast<PyObject*>(c);
}

PyObject* item(PyObject* o, PyObject*) {
    MessageObject* m = self(o);
    if (!usable(m)) return nullptr;
    if (m->layout->dims.ndim == 0 && !m->layout->shaped && !PyDataType_HASFIELDS(m->layout->descr()))
        return scalar(m->layout->descr(), m->at.data);
    PyObject* array = whole_array(m);
    PyObject* value = array ? PyObject_CallMethod(array, "item", nullptr) : nullptr;
    Py_XDECREF(array);
    return value;
}

PyObject* get_open(PyObject* o, void*) { return PyBool_FromLong(root(self(o))->open); }

/// The Field of a batch's message class, by name.
FieldObject* batch_field(MessageObject* m, PyObject* key) {
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a batch is indexed by a field's name or a message's number, not by %R", key);
        return nullptr;
    }
    nb::object places = nb::steal(PyObject_GetAttrString(m->type, "__places__"));  // Structs have them
    if (!places.is_valid()) PyErr_Clear();
    if (PyObject* f = places.is_valid() ? PyDict_GetItemWithError(places.ptr(), key) : nullptr)
        return reinterpret_cast<FieldObject*>(f);  // the class keeps it
    PyErr_Format(PyExc_KeyError, "%U (the messages are %s)", key, m->layout->text().c_str());
    return nullptr;
}

}  // namespace

LeaseObject* lease_of(MessageObject* m) {
    m = root(m);
    if (!m->lease && (m->lease = new_lease(m->end, m->generation))) {
        if (m->hold.kind == Hold::Kind::taken) m->lease->slab = &m->hold.taken.lane->slab;
        if (m->hold.kind == Hold::Kind::loan || m->hold.kind == Hold::Kind::called)
            m->lease->slab = &m->hold.loan.ring->slab;
    }
    return m->lease;
}

void about_to_write(MessageObject* m) {
    m = root(m);
    if (m->hold.kind == Hold::Kind::taken && m->generation == fork_generation.load(std::memory_order_relaxed))
        m->hold.receiver->dirty(m->hold.taken);
}

PyObject* view_of(MessageObject* m, PyArray_Descr* descr, const Dims& own, bool fortran, std::byte* data, uint64_t step) {
    MessageObject* whole = root(m);
    if (m->writable) {
        about_to_write(whole);
        npy_intp dims[kMaxDims + 1];
        if (m->batch) dims[0] = static_cast<npy_intp>(m->count);
        std::copy(own.n, own.n + own.ndim, dims + m->batch);
        if (PyObject* known = known_view(whole, descr, own.ndim + m->batch, dims, data)) return known;
    }
    auto* base = reinterpret_cast<PyObject*>(lease_of(whole));
    if (!base) return nullptr;
    const Py_ssize_t count = m->batch ? static_cast<Py_ssize_t>(m->count) : -1;
    return remember(whole, array_over(descr, own, fortran, data, count, step, base, m->writable));
}

PyObject* whole_array(MessageObject* m) {
    Dims d;
    if (!usable(m) || no_array(m) || !dims_of(m, d)) return nullptr;
    return view_of(m, m->layout->descr(), d, m->layout->fortran, m->at.data, m->at.stride);
}

Py_ssize_t batch_length(PyObject* o) { return static_cast<Py_ssize_t>(self(o)->count); }

/// One message of a batch: a view that is usable as long as the batch is.
PyObject* batch_message(PyObject* o, Py_ssize_t i) {
    MessageObject* m = self(o);
    if (!usable(m)) return nullptr;
    if (i < 0 || i >= batch_length(o))
        return PyErr_Format(PyExc_IndexError, "message %zd of a batch of %zd", i, batch_length(o));
    return new_part(m, reinterpret_cast<PyTypeObject*>(m->type), m->layout,
                    m->at.part(*m->layout, static_cast<uint64_t>(i)));
}

PyObject* batch_item(PyObject* o, PyObject* key) {
    MessageObject* m = self(o);
    if (!usable(m)) return nullptr;
    if (PyIndex_Check(key)) {
        const Py_ssize_t i = PyNumber_AsSsize_t(key, PyExc_IndexError);
        if (i == -1 && PyErr_Occurred()) return nullptr;
        return batch_message(o, i < 0 ? i + batch_length(o) : i);
    }
    FieldObject* f = batch_field(m, key);
    return f ? field_view(m, f) : nullptr;
}

int batch_assign(PyObject* o, PyObject* key, PyObject* value) {
    const Guard guard(o, value);
    MessageObject* m = self(o);
    if (!usable(m)) return -1;
    FieldObject* f = batch_field(m, key);
    if (!f) return -1;
    if (!m->writable || !value) {
        raise("ReadOnly", "a received batch is read-only (its stage is not mutating)");
        return -1;
    }
    about_to_write(m);
    return store(m, f, value);
}

int message_buffer(PyObject* o, Py_buffer* view, int flags) {
    PyObject* array = whole_array(self(o));  // numpy knows all formats; the array keeps the lease
    if (!array) {
        view->obj = nullptr;
        return -1;
    }
    const int result = PyObject_GetBuffer(array, view, flags);
    Py_DECREF(array);
    return result;
}

PyGetSetDef message_properties[] = {
    {"array", guarded<get_array>, nullptr, "The whole message as a numpy array over the same memory.", nullptr},
    {"info", guarded<get_info>, nullptr, "psyne.Info: sequence, sender, missed, redelivered, timestamp.", nullptr},
    {"_open", guarded<get_open>, nullptr, nullptr, nullptr},
    {"__array_interface__", guarded<get_interface>, nullptr, "For libraries that take arrays. Asking pins the message: it "
                                                    "keeps its slot until the message object is gone.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef message_access[] = {
    {"copy", guarded<copy>, METH_NOARGS, "The same in private memory (a batch: as one numpy array)."},
    {"item", guarded<item>, METH_NOARGS, "The one element of the message as Python has it."},
    {"__array__", method(guarded<as_array>), METH_FASTCALL | METH_KEYWORDS, "For numpy, of dtypes that a buffer cannot describe."},
    {"__dlpack__", method(guarded<dlpack>), METH_FASTCALL | METH_KEYWORDS,
     "A DLPack capsule over the same memory, on the CPU; it keeps the slot.\n\n"
     "Raises BufferError for read-only memory unless max_version >= (1, 0), and for what DLPack cannot describe."},
    {"__dlpack_device__", dlpack_device, METH_NOARGS, "(1, 0): the CPU."},
    {"private", guarded<private_message>, METH_NOARGS,
     "The same, writable, on copy-on-write pages (a batch: as one numpy array): what is written stays here, the\n"
     "slot keeps its bytes. Pages nobody wrote to follow the slot, which is kept. Below 64 KiB, and where the\n"
     "memory is no slot, it is a copy."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace psyne::python
