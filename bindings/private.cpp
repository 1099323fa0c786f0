// Messages over memory that is no slot: copy-on-write pages of one, and buffers of the user's own.
#include "message.hpp"

namespace psyne::python {

namespace {

/// From here on mapping pages and copying the first that is written costs less than copying all.
constexpr uint64_t kWorthPages = 64 << 10;

/// A lease of `bytes` bytes that begin as those at `data` are: copy-on-write pages where `source` is of a slot and they
/// pay, else a copy. `to`: the first of them, `align`ed. Null with an exception set.
LeaseObject* private_bytes(LeaseObject* source, const std::byte* data, uint64_t bytes, uint64_t align, std::byte*& to) {
    LeaseObject* lease = new_lease(nullptr, fork_generation.load(std::memory_order_relaxed));
    if (!lease) return nullptr;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % align == 0;
    if (source && source->slab && aligned && bytes >= kWorthPages) {
        try {
            lease->pages = source->slab->private_pages(data, bytes, to);
        } catch (...) {
            Py_DECREF(lease);
            raise_current();
            return nullptr;
        }
        lease->keeps = Py_NewRef(reinterpret_cast<PyObject*>(source));
        return lease;
    }
    align = std::max<uint64_t>(align, 64);
    to = lease->memory = static_cast<std::byte*>(std::aligned_alloc(align, round_up(std::max<uint64_t>(bytes, 1), align)));
    if (!to) {
        Py_DECREF(lease);
        PyErr_NoMemory();
        return nullptr;
    }
    std::memcpy(to, data, bytes);
    return lease;
}

/// A writable array of the same dtype, shape and strides.
PyObject* private_array(PyArrayObject* a, uint64_t align) {
    auto* data = static_cast<std::byte*>(PyArray_DATA(a));
    std::byte *low = data, *high = data + PyDataType_ELSIZE(PyArray_DESCR(a));
    for (int i = 0; i < PyArray_NDIM(a); ++i) {
        const npy_intp reach = (PyArray_DIM(a, i) - 1) * PyArray_STRIDE(a, i);
        if (PyArray_DIM(a, i) == 0) high = low;
        else (reach < 0 ? low : high) += reach;
    }
    std::byte* to = nullptr;
    LeaseObject* lease =
        private_bytes(lease_under(reinterpret_cast<PyObject*>(a)), low, static_cast<uint64_t>(std::max(high, low) - low), align, to);
    if (!lease) return nullptr;
    Py_INCREF(PyArray_DESCR(a));
    PyObject* made = PyArray_NewFromDescr(&PyArray_Type, PyArray_DESCR(a), PyArray_NDIM(a), PyArray_DIMS(a),
                                          PyArray_STRIDES(a), to + (data - low), NPY_ARRAY_WRITEABLE, nullptr);
    if (!made)
        Py_DECREF(lease);
    else if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(made), reinterpret_cast<PyObject*>(lease)) < 0)
        Py_CLEAR(made);
    return made;
}

/// A message of `type` over memory that `lease` keeps; takes the lease over.
PyObject* message_over(PyTypeObject* type, Layout* layout, LeaseObject* lease, std::byte* data, uint64_t room, bool writable) {
    MessageObject* m = new_message(type, layout);
    if (!m) {
        Py_DECREF(lease);
        return nullptr;
    }
    m->lease = lease;
    m->at = {data, room, 1, 0, room};
    m->open = true;
    m->writable = writable;
    return reinterpret_cast<PyObject*>(m);
}

}  // namespace

LeaseObject* lease_under(PyObject* o) {
    while (o && Py_TYPE(o) != lease_type) {
        if (PyArray_Check(o))
            o = PyArray_BASE(reinterpret_cast<PyArrayObject*>(o));
        else if (PyMemoryView_Check(o))
            o = PyMemoryView_GET_BASE(o);
        else if (is_message(o))  // through __array_interface__
            return reinterpret_cast<MessageObject*>(o)->lease;
        else
            return nullptr;
    }
    return reinterpret_cast<LeaseObject*>(o);
}

PyObject* private_message(PyObject* o, PyObject*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    if (m->batch) {
        if (m->layout->columns) return PyObject_CallMethod(o, "copy", nullptr);
        nb::object all = nb::steal(whole_array(m));
        return all.is_valid() ? private_array(reinterpret_cast<PyArrayObject*>(all.ptr()), 1) : nullptr;
    }
    if (!usable(m)) return nullptr;
    if (m->layout->columns) return PyObject_CallMethod(o, "copy", nullptr);  // its bytes lie far apart
    LeaseObject* source = lease_of(m);
    std::byte* to = nullptr;
    LeaseObject* lease = source ? private_bytes(source, m->at.data, bytes_of(m), 1, to) : nullptr;
    return lease ? message_over(Py_TYPE(o), m->layout, lease, to, bytes_of(m), true) : nullptr;
}

/// from_buffer(buffer, offset=0)
PyObject* from_buffer(PyObject* cls, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    PyObject* values[2];
    if (!Call{"from_buffer", args, n, names}.parse({"buffer", "offset"}, values, 1)) return nullptr;
    const Py_ssize_t offset = values[1] ? PyNumber_AsSsize_t(values[1], PyExc_OverflowError) : 0;
    if (offset == -1 && PyErr_Occurred()) return nullptr;
    auto* type = reinterpret_cast<PyTypeObject*>(cls);
    Layout* layout = layout_of(type);
    if (!layout) return nullptr;
    nb::object view = nb::steal(PyMemoryView_FromObject(values[0]));
    if (!view.is_valid()) return nullptr;
    const Py_buffer* b = PyMemoryView_GET_BUFFER(view.ptr());
    auto* data = static_cast<std::byte*>(b->buf) + offset;
    const std::string wanted = layout->text() + " needs " + std::to_string(layout->bytes) + " bytes";
    if (!PyBuffer_IsContiguous(b, 'C'))
        return raise("InvalidArgument", wanted + " in one piece; this buffer is not contiguous");
    if (offset < 0 || offset > b->len || static_cast<uint64_t>(b->len - offset) < layout->bytes)
        return raise("InvalidArgument", wanted + "; this buffer has " + std::to_string(b->len) + ", offset= is " +
                                            std::to_string(offset));
    if (reinterpret_cast<uintptr_t>(data) % layout->alignment != 0)
        return raise("InvalidArgument", wanted + " at an address that " + std::to_string(layout->alignment) +
                                            " divides; this is " + std::to_string(reinterpret_cast<uintptr_t>(data)));
    LeaseObject* lease = new_lease(nullptr, fork_generation.load(std::memory_order_relaxed));
    if (!lease) return nullptr;
    const bool writable = !b->readonly;
    lease->keeps = view.release().ptr();
    return message_over(type, layout, lease, data, layout->bytes, writable);
}

void bind_private(nb::module_& m) {
    m.def("private_array", [](nb::object array, uint64_t align) {
              if (!PyArray_Check(array.ptr())) throw nb::type_error("private_array() takes a numpy array");
              nb::object made = nb::steal(private_array(reinterpret_cast<PyArrayObject*>(array.ptr()), align));
              if (!made.is_valid()) throw nb::python_error();
              return made;
          }, nb::arg("array"), nb::arg("align"),
          nb::sig("def private_array(array: numpy.typing.NDArray[numpy.generic], align: int) -> numpy.typing.NDArray[numpy.generic]"),
          "A writable array of the same shape and strides: copy-on-write pages, or a copy.");
}

}  // namespace psyne::python
