// The layout of a message type: a numpy dtype and a shape, and descriptors for the fields of a Struct.
#pragma once

#include "python.hpp"

namespace psyne::python {

struct Layout {
    nb::object dtype;  // of one element; of the whole message for a Struct
    std::vector<npy_intp> shape;
    uint64_t bytes = 0;
    uint64_t alignment = 1;
    bool zeroed = false;  // loans start zeroed

    Layout(nb::object element, nb::tuple dims, bool zero_loans);
    PyArray_Descr* descr() const { return reinterpret_cast<PyArray_Descr*>(dtype.ptr()); }
    /// float32[480, 640]
    std::string text() const;
    /// Same dtype and shape as an array?
    bool fits(PyArrayObject* array, bool many) const;
};

/// A new array over foreign memory that keeps `base` alive. `count` < 0: one message, else that many, `stride` apart.
PyObject* new_array(const Layout& layout, std::byte* data, Py_ssize_t count, uint64_t stride, PyObject* base,
                    bool writable);

/// The native descriptor behind a field of a Struct.
struct FieldObject {
    PyObject_HEAD
    PyArray_Descr* descr;
    int ndim;
    npy_intp dims[8];
    uint64_t offset, bytes;
    Py_ssize_t index;  // of the field in its Struct
};
extern PyTypeObject* field_type;

}  // namespace psyne::python
