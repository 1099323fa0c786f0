// What users reach through a message: its array, its fields, its buffer, its info.
#include "ends.hpp"

namespace psyne::python {

namespace {

MessageObject* self(PyObject* o) { return reinterpret_cast<MessageObject*>(o); }

/// The lease that views of this message keep; made at the first view.
PyObject* lease_of(MessageObject* m) {
    if (!m->lease) {
        auto* lease = PyObject_New(LeaseObject, lease_type);
        if (!lease) return nullptr;
        lease->end = Py_XNewRef(m->end);
        lease->memory = nullptr;
        lease->generation = m->generation;
        new (&lease->hold) Hold();
        m->lease = lease;
    }
    return reinterpret_cast<PyObject*>(m->lease);
}

/// Before the first byte of a mutating stage: if it dies from now on, the message is half changed.
void about_to_write(MessageObject* m) {
    if (m->hold.kind == Hold::Kind::taken && m->generation == fork_generation.load(std::memory_order_relaxed))
        m->hold.receiver->dirty(m->hold.taken);
}

PyObject* known_view(MessageObject* m, const std::byte* data, PyArray_Descr* descr, int ndim) {
    for (Py_ssize_t i = 0; m->views && i < PyList_GET_SIZE(m->views); ++i) {
        auto* a = reinterpret_cast<PyArrayObject*>(PyList_GET_ITEM(m->views, i));
        if (PyArray_BYTES(a) == reinterpret_cast<const char*>(data) && PyArray_DESCR(a) == descr &&
            PyArray_NDIM(a) == ndim)
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

PyObject* whole_array(MessageObject* m) {
    if (!usable(m)) return nullptr;
    if (m->writable) {
        about_to_write(m);
        const int ndim = static_cast<int>(m->layout->shape.size()) + m->batch;
        PyObject* known = known_view(m, m->data, m->layout->descr(), ndim);
        if (known && (!m->batch || PyArray_DIM(reinterpret_cast<PyArrayObject*>(known), 0) ==
                                       static_cast<npy_intp>(m->count)))
            return known;
        Py_XDECREF(known);
    }
    PyObject* base = lease_of(m);
    if (!base) return nullptr;
    return remember(m, new_array(*m->layout, m->data, m->batch ? static_cast<Py_ssize_t>(m->count) : -1, m->stride, base,
                                 m->writable));
}

PyObject* get_array(PyObject* o, void*) { return whole_array(self(o)); }

PyObject* get_info(PyObject* o, void*) {
    MessageObject* m = self(o);
    static PyObject* info = nullptr;
    if (!info) {
        PyObject* module = PyImport_ImportModule("psyne.info");
        if (!module) return nullptr;
        info = PyObject_GetAttrString(module, "Info");
        Py_DECREF(module);
        if (!info) return nullptr;
    }
    unsigned long long sequence = 0, sender = 0, missed = 0;
    bool redelivered = false;
    if (m->hold.kind == Hold::Kind::taken && usable(m)) {
        const Taken& t = m->hold.taken;
        sequence = t.position();
        sender = t.lane->join;
        missed = Receiver::missed(t);
        redelivered = t.deaths != 0;
    } else if (m->hold.kind == Hold::Kind::loan) {
        sequence = m->hold.loan.position;
        sender = sender_end(m->end).sender->registry.join();
    } else if (!m->open) {
        usable(m);
        return nullptr;
    }
    return PyObject_CallFunction(info, "KKKO", sequence, sender, missed, redelivered ? Py_True : Py_False);
}

PyObject* copy(PyObject* o, PyObject*) {
    MessageObject* m = self(o);
    if (m->batch) {
        PyObject* a = whole_array(m);
        if (!a) return nullptr;
        PyObject* c = PyArray_NewCopy(reinterpret_cast<PyArrayObject*>(a), NPY_CORDER);
        Py_DECREF(a);
        return c;
    }
    if (!usable(m)) return nullptr;
    MessageObject* c = new_message(Py_TYPE(o), m->layout);
    if (!c) return nullptr;
    if (!make_private(c)) {
        drop_empty(c);
        return nullptr;
    }
    std::memcpy(c->data, m->data, m->layout->bytes);
    return reinterpret_cast<PyObject*>(c);
}

PyObject* get_open(PyObject* o, void*) { return PyBool_FromLong(self(o)->open); }

// ---- fields --------------------------------------------------------------------------------------------------

FieldObject* field(PyObject* o) { return reinterpret_cast<FieldObject*>(o); }

template <class T>
T load(const std::byte* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

PyObject* field_array(MessageObject* m, FieldObject* f, PyObject* base) {
    npy_intp dims[9], strides[9];
    const int lead = m->batch ? 1 : 0;
    if (m->batch) {
        dims[0] = static_cast<npy_intp>(m->count);
        strides[0] = static_cast<npy_intp>(m->stride);
    }
    npy_intp step = PyDataType_ELSIZE(f->descr);
    for (int i = f->ndim - 1; i >= 0; --i) {
        dims[lead + i] = f->dims[i];
        strides[lead + i] = step;
        step *= f->dims[i];
    }
    Py_INCREF(f->descr);
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, f->descr, f->ndim + lead, dims, strides, m->data + f->offset,
                                           m->writable ? NPY_ARRAY_WRITEABLE : 0, nullptr);
    if (array && base) {
        Py_INCREF(base);
        if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), base) < 0) {
            Py_DECREF(array);
            return nullptr;
        }
    }
    return array;
}

PyObject* field_view(MessageObject* m, FieldObject* f) {
    if (m->writable) {
        about_to_write(m);
        PyObject* known = known_view(m, m->data + f->offset, f->descr, f->ndim + m->batch);
        if (known && (!m->batch || PyArray_DIM(reinterpret_cast<PyArrayObject*>(known), 0) ==
                                       static_cast<npy_intp>(m->count)))
            return known;
        Py_XDECREF(known);
    }
    PyObject* base = lease_of(m);
    return base ? remember(m, field_array(m, f, base)) : nullptr;
}

PyObject* scalar(const FieldObject* f, const std::byte* p) {
    if (PyDataType_ISNOTSWAPPED(f->descr)) switch (f->descr->type_num) {
            case NPY_BOOL: return PyBool_FromLong(load<uint8_t>(p));
            case NPY_BYTE: return PyLong_FromLong(load<int8_t>(p));
            case NPY_UBYTE: return PyLong_FromLong(load<uint8_t>(p));
            case NPY_SHORT: return PyLong_FromLong(load<int16_t>(p));
            case NPY_USHORT: return PyLong_FromLong(load<uint16_t>(p));
            case NPY_INT: return PyLong_FromLong(load<int>(p));
            case NPY_UINT: return PyLong_FromUnsignedLong(load<unsigned>(p));
            case NPY_LONG: return PyLong_FromLong(load<long>(p));
            case NPY_ULONG: return PyLong_FromUnsignedLong(load<unsigned long>(p));
            case NPY_LONGLONG: return PyLong_FromLongLong(load<long long>(p));
            case NPY_ULONGLONG: return PyLong_FromUnsignedLongLong(load<unsigned long long>(p));
            case NPY_FLOAT: return PyFloat_FromDouble(static_cast<double>(load<float>(p)));
            case NPY_DOUBLE: return PyFloat_FromDouble(load<double>(p));
            default: break;
        }
    PyObject* boxed = PyArray_Scalar(const_cast<std::byte*>(p), f->descr, nullptr);
    if (!boxed || PyDataType_ISEXTENDED(f->descr)) return boxed;
    PyObject* plain = PyObject_CallMethod(boxed, "item", nullptr);  // float, complex: as Python has them
    Py_DECREF(boxed);
    return plain;
}

template <class T>
int store_int(std::byte* p, PyObject* value) {
    PyObject* index = PyNumber_Index(value);  // no silent cut of a float
    if (!index) return -1;
    T v;
    if constexpr (std::is_signed_v<T>) {
        const long long wide = PyLong_AsLongLong(index);
        v = static_cast<T>(wide);
        if (!PyErr_Occurred() && v != wide) PyErr_Format(PyExc_OverflowError, "%R does not fit %zu bytes", index, sizeof v);
    } else {
        const unsigned long long wide = PyLong_AsUnsignedLongLong(index);
        v = static_cast<T>(wide);
        if (!PyErr_Occurred() && v != wide) PyErr_Format(PyExc_OverflowError, "%R does not fit %zu bytes", index, sizeof v);
    }
    Py_DECREF(index);
    if (PyErr_Occurred()) return -1;
    std::memcpy(p, &v, sizeof v);
    return 0;
}

template <class T>
int store_float(std::byte* p, PyObject* value) {
    const double wide = PyFloat_AsDouble(value);
    if (wide == -1.0 && PyErr_Occurred()) return -1;
    const T v = static_cast<T>(wide);
    std::memcpy(p, &v, sizeof v);
    return 0;
}

int store(MessageObject* m, FieldObject* f, PyObject* value) {
    std::byte* p = m->data + f->offset;
    if (f->ndim == 0 && !m->batch && PyDataType_ISNOTSWAPPED(f->descr)) switch (f->descr->type_num) {
            case NPY_BYTE: return store_int<int8_t>(p, value);
            case NPY_UBYTE: return store_int<uint8_t>(p, value);
            case NPY_SHORT: return store_int<int16_t>(p, value);
            case NPY_USHORT: return store_int<uint16_t>(p, value);
            case NPY_INT: return store_int<int>(p, value);
            case NPY_UINT: return store_int<unsigned>(p, value);
            case NPY_LONG: return store_int<long>(p, value);
            case NPY_ULONG: return store_int<unsigned long>(p, value);
            case NPY_LONGLONG: return store_int<long long>(p, value);
            case NPY_ULONGLONG: return store_int<unsigned long long>(p, value);
            case NPY_FLOAT: return store_float<float>(p, value);
            case NPY_DOUBLE: return store_float<double>(p, value);
            default: break;
        }
    if (!m->batch && PyArray_CheckExact(value)) {
        auto* a = reinterpret_cast<PyArrayObject*>(value);
        if (PyArray_DESCR(a) == f->descr && PyArray_IS_C_CONTIGUOUS(a) && PyArray_NDIM(a) == f->ndim &&
            std::equal(f->dims, f->dims + f->ndim, PyArray_DIMS(a))) {
            std::memmove(p, PyArray_DATA(a), f->bytes);
            return 0;
        }
    }
    PyObject* view = field_array(m, f, nullptr);
    if (!view) return -1;
    const int result = PyArray_CopyObject(reinterpret_cast<PyArrayObject*>(view), value);
    Py_DECREF(view);
    return result;
}

PyObject* field_get(PyObject* o, PyObject* instance, PyObject*) {
    if (!instance || instance == Py_None) return Py_NewRef(o);
    MessageObject* m = self(instance);
    if (!is_message(instance)) return PyErr_Format(PyExc_TypeError, "a field belongs to a message"), nullptr;
    if (!usable(m)) return nullptr;
    FieldObject* f = field(o);
    return f->ndim == 0 && f->descr->type_num != NPY_VOID ? scalar(f, m->data + f->offset) : field_view(m, f);
}

int field_set(PyObject* o, PyObject* instance, PyObject* value) {
    MessageObject* m = self(instance);
    if (!value || !is_message(instance)) {
        PyErr_SetString(PyExc_AttributeError, "a field of a message cannot be deleted");
        return -1;
    }
    if (!usable(m)) return -1;
    if (!m->writable) {
        raise("ReadOnly", "a received message is read-only (its stage is not mutating); copy() it to change it");
        return -1;
    }
    about_to_write(m);
    return store(m, field(o), value);
}

void field_dealloc(PyObject* o) {
    Py_XDECREF(field(o)->descr);
    PyTypeObject* type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

/// Field(dtype, shape, offset, index)
PyObject* field_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyArray_Descr* descr;
    PyObject* shape;
    Py_ssize_t offset, index;
    if (!PyArg_ParseTuple(args, "O!O!nn", &PyArrayDescr_Type, &descr, &PyTuple_Type, &shape, &offset, &index))
        return nullptr;
    if (PyTuple_GET_SIZE(shape) > 8) return PyErr_Format(PyExc_ValueError, "a field has at most 8 dimensions");
    FieldObject* f = PyObject_New(FieldObject, type);
    if (!f) return nullptr;
    f->descr = reinterpret_cast<PyArray_Descr*>(Py_NewRef(reinterpret_cast<PyObject*>(descr)));
    f->ndim = static_cast<int>(PyTuple_GET_SIZE(shape));
    f->offset = static_cast<uint64_t>(offset);
    f->index = index;
    f->bytes = static_cast<uint64_t>(PyDataType_ELSIZE(descr));
    for (int i = 0; i < f->ndim; ++i) {
        f->dims[i] = PyNumber_AsSsize_t(PyTuple_GET_ITEM(shape, i), PyExc_OverflowError);
        f->bytes *= static_cast<uint64_t>(f->dims[i]);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(f);
        return nullptr;
    }
    return reinterpret_cast<PyObject*>(f);
}

/// The Field of a batch's message class, by name.
FieldObject* batch_field(MessageObject* m, PyObject* key) {
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a batch is indexed by a field's name, not by %R; batch.array is all of it", key);
        return nullptr;
    }
    nb::object& type = m->hold.kind == Hold::Kind::taken ? receiver_end(m->end).type : sender_end(m->end).type;
    PyObject* f = PyObject_GetAttr(type.ptr(), key);
    if (f && Py_TYPE(f) == field_type) {
        Py_DECREF(f);  // the class keeps it
        return field(f);
    }
    Py_XDECREF(f);
    PyErr_Clear();
    PyErr_Format(PyExc_KeyError, "%U (the messages are %s)", key, m->layout->text().c_str());
    return nullptr;
}

}  // namespace

PyTypeObject* field_type = nullptr;

Py_ssize_t batch_length(PyObject* o) { return static_cast<Py_ssize_t>(self(o)->count); }

PyObject* batch_item(PyObject* o, PyObject* key) {
    MessageObject* m = self(o);
    if (!usable(m)) return nullptr;
    FieldObject* f = batch_field(m, key);
    return f ? field_view(m, f) : nullptr;
}

int batch_assign(PyObject* o, PyObject* key, PyObject* value) {
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
    {"array", get_array, nullptr, "The whole message as a numpy array over the same memory.", nullptr},
    {"info", get_info, nullptr, "psyne.Info: sequence, sender, missed, redelivered.", nullptr},
    {"_open", get_open, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef message_access[] = {
    {"copy", copy, METH_NOARGS, "The same in private memory (a batch: as one numpy array)."},
    {nullptr, nullptr, 0, nullptr}};

void bind_field(nb::module_& m) {
    static PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(field_new)},
                                  {Py_tp_dealloc, reinterpret_cast<void*>(field_dealloc)},
                                  {Py_tp_descr_get, reinterpret_cast<void*>(field_get)},
                                  {Py_tp_descr_set, reinterpret_cast<void*>(field_set)},
                                  {Py_tp_doc, const_cast<char*>("Field(dtype, shape, offset, index) of a Struct.")},
                                  {0, nullptr}};
    static PyType_Spec spec = {"psyne._native.Field", sizeof(FieldObject), 0, Py_TPFLAGS_DEFAULT, slots};
    field_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!field_type) throw nb::python_error();
    m.attr("Field") = nb::borrow(reinterpret_cast<PyObject*>(field_type));
}

}  // namespace psyne::python
