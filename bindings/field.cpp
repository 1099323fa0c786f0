// The fields of a Struct: descriptors that read and write its bytes.
#include "access.hpp"
#include "guard.hpp"

namespace psyne::python {

namespace {

constexpr uint64_t kSmall = 256;  // bytes that numpy writes without letting others run (it does from 500 elements on)

MessageObject* self(PyObject* o) { return reinterpret_cast<MessageObject*>(o); }

FieldObject* field(PyObject* o) { return reinterpret_cast<FieldObject*>(o); }

template <class T>
T load(const std::byte* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
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

/// Stores one number; 1 when numpy has to do it.
int store_one(PyArray_Descr* descr, std::byte* p, PyObject* value) {
    if (!PyDataType_ISNOTSWAPPED(descr)) return 1;
    switch (descr->type_num) {
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
        default: return 1;
    }
}

}  // namespace

PyTypeObject* field_type = nullptr;

PyObject* scalar(PyArray_Descr* descr, const std::byte* p) {
    if (PyDataType_ISNOTSWAPPED(descr)) switch (descr->type_num) {
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
    PyObject* boxed = PyArray_Scalar(const_cast<std::byte*>(p), descr, nullptr);
    if (!boxed || PyDataType_HASFIELDS(descr)) return boxed;
    // As Python has it: float, complex, int, bytes; dtypes of extensions have no item().
    PyObject* plain = !PyTypeNum_ISUSERDEF(descr->type_num)            ? PyObject_CallMethod(boxed, "item", nullptr)
                      : std::strstr(Py_TYPE(boxed)->tp_name, "int") ? PyNumber_Long(boxed)
                                                                    : PyNumber_Float(boxed);
    Py_DECREF(boxed);
    return plain;
}

PyObject* field_view(MessageObject* m, FieldObject* f) {
    return view_of(m, f->descr, f->dims, false, m->at.field(*m->layout, f->offset, f->bytes),
                   m->at.step(*m->layout, f->bytes));
}

/// Converting it runs no code of the user's.
static bool plain(PyObject* value) {
    if (PyTuple_CheckExact(value)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
            PyObject* item = PyTuple_GET_ITEM(value, i);
            if (!PyFloat_CheckExact(item) && !PyLong_CheckExact(item)) return false;
        }
        return true;
    }
    return PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value);
}

int store(MessageObject* m, FieldObject* f, PyObject* value) {
    std::byte* p = m->at.field(*m->layout, f->offset, f->bytes);
    if (f->nested && !m->batch && f->dims.ndim == 0 && is_message(value)) {
        auto* from = reinterpret_cast<MessageObject*>(value);
        if (!usable(from)) return -1;
        if (!from->batch && (from->layout == f->nested || *from->layout == *f->nested)) {
            std::memmove(p, from->at.data, f->bytes);
            return 0;
        }
    }
    if (!m->batch && PyArray_CheckExact(value)) {
        auto* a = reinterpret_cast<PyArrayObject*>(value);
        if (PyArray_DESCR(a) == f->descr && PyArray_IS_C_CONTIGUOUS(a) && PyArray_NDIM(a) == f->dims.ndim &&
            std::equal(f->dims.n, f->dims.n + f->dims.ndim, PyArray_DIMS(a))) {
            std::memmove(p, PyArray_DATA(a), f->bytes);
            return 0;
        }
    }
    nb::object lease;  // code of the user's may end the message meanwhile, and numpy lets other threads run: a view for now
    if (m->batch || !plain(value) || f->bytes > kSmall) {
        lease = nb::borrow(reinterpret_cast<PyObject*>(lease_of(m)));
        if (!lease.is_valid()) return -1;
    }
    if (!m->batch && f->dims.ndim == 0) {
        if (const int done = store_one(f->descr, p, value); done <= 0) return done;
    } else if (!m->batch && f->dims.ndim == 1 && (PyTuple_CheckExact(value) || PyList_CheckExact(value)) &&
               PySequence_Fast_GET_SIZE(value) == f->dims.n[0]) {
        int done = 0;
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value) && done == 0; ++i) {
            // Its own conversion may take it out of a list; without a GIL another thread may.
            const nb::object item =
                kGil ? nb::borrow(PySequence_Fast_GET_ITEM(value, i)) : nb::steal(PySequence_GetItem(value, i));
            done = item.is_valid() ? store_one(f->descr, p + i * PyDataType_ELSIZE(f->descr), item.ptr()) : -1;
        }
        if (done <= 0) return done;
    }
    PyObject* view = array_over(f->descr, f->dims, false, p, m->batch ? static_cast<Py_ssize_t>(m->count) : -1,
                                m->at.step(*m->layout, f->bytes), nullptr, true);
    if (!view) return -1;
    const int result = PyArray_CopyObject(reinterpret_cast<PyArrayObject*>(view), value);
    Py_DECREF(view);
    return result;
}

namespace {

PyObject* field_get(PyObject* o, PyObject* instance, PyObject*) {
    if (!instance || instance == Py_None) return Py_NewRef(o);
    MessageObject* m = self(instance);
    if (!is_message(instance)) return PyErr_Format(PyExc_TypeError, "a field belongs to a message"), nullptr;
    const Guard guard(instance);
    if (!usable(m)) return nullptr;
    FieldObject* f = field(o);
    if (f->dims.ndim != 0) return field_view(m, f);
    std::byte* p = m->at.field(*m->layout, f->offset, f->bytes);
    if (f->nested) return new_part(m, reinterpret_cast<PyTypeObject*>(f->type), f->nested, {p, 0, 1, 0});
    return PyDataType_HASFIELDS(f->descr) ? field_view(m, f) : scalar(f->descr, p);
}

int field_set(PyObject* o, PyObject* instance, PyObject* value) {
    MessageObject* m = self(instance);
    if (!value || !is_message(instance)) {
        PyErr_SetString(PyExc_AttributeError, "a field of a message cannot be deleted");
        return -1;
    }
    const Guard guard(instance, value);
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
    Py_XDECREF(field(o)->type);
    PyTypeObject* type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

/// Field(dtype, shape, offset, type=None)
PyObject* field_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyArray_Descr* descr;
    PyObject *shape, *nested = nullptr;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "O!O!n|O", &PyArrayDescr_Type, &descr, &PyTuple_Type, &shape, &offset, &nested))
        return nullptr;
    if (PyTuple_GET_SIZE(shape) > kMaxOwnDims) return PyErr_Format(PyExc_ValueError, "a field has at most 8 dimensions");
    FieldObject* f = PyObject_New(FieldObject, type);
    if (!f) return nullptr;
    f->descr = reinterpret_cast<PyArray_Descr*>(Py_NewRef(reinterpret_cast<PyObject*>(descr)));
    f->offset = static_cast<uint64_t>(offset);
    f->nested = nullptr;
    f->type = nullptr;
    f->dims.ndim = static_cast<int>(PyTuple_GET_SIZE(shape));
    for (int i = 0; i < f->dims.ndim; ++i)
        f->dims.n[i] = PyNumber_AsSsize_t(PyTuple_GET_ITEM(shape, i), PyExc_OverflowError);
    if (!PyErr_Occurred() && !f->dims.bytes(static_cast<uint64_t>(PyDataType_ELSIZE(descr)), kMostBytes, f->bytes))
        PyErr_SetString(PyExc_ValueError, "a field of this shape is too large");
    if (!PyErr_Occurred() && nested && nested != Py_None) {
        PyObject* layout = PyObject_GetAttrString(nested, "__layout__");
        if (layout) f->nested = nb::inst_ptr<Layout>(layout);  // its class keeps it
        Py_XDECREF(layout);
        f->type = Py_NewRef(nested);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(f);
        return nullptr;
    }
    return reinterpret_cast<PyObject*>(f);
}

/// Where a class is pickled by value (cloudpickle: of a notebook), its fields are too.
PyObject* field_reduce(PyObject* o, PyObject*) {
    const FieldObject* f = field(o);
    PyObject* shape = PyTuple_New(f->dims.ndim);
    for (int i = 0; shape && i < f->dims.ndim; ++i) PyTuple_SET_ITEM(shape, i, PyLong_FromSsize_t(f->dims.n[i]));
    if (!shape) return nullptr;
    return Py_BuildValue("O(ONKO)", Py_TYPE(o), f->descr, shape, static_cast<unsigned long long>(f->offset),
                         f->type ? f->type : Py_None);
}

PyMethodDef field_methods[] = {{"__reduce__", field_reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

}  // namespace

void bind_field(nb::module_& m) {
    static PyType_Slot slots[] = {{Py_tp_methods, field_methods},
                                  {Py_tp_new, reinterpret_cast<void*>(field_new)},
                                  {Py_tp_dealloc, reinterpret_cast<void*>(field_dealloc)},
                                  {Py_tp_descr_get, reinterpret_cast<void*>(field_get)},
                                  {Py_tp_descr_set, reinterpret_cast<void*>(field_set)},
                                  {Py_tp_doc, const_cast<char*>("Field(dtype, shape, offset, type=None) of a Struct.")},
                                  {0, nullptr}};
    static PyType_Spec spec = {"psyne._native.Field", sizeof(FieldObject), 0, Py_TPFLAGS_DEFAULT, slots};
    field_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!field_type) throw nb::python_error();
    m.attr("Field") = nb::borrow(reinterpret_cast<PyObject*>(field_type));
}

}  // namespace psyne::python
