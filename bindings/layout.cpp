#include "layout.hpp"

#include "message.hpp"

namespace psyne::python {


Layout::Layout(nb::object element, nb::tuple dims, bool zero_loans) : dtype(std::move(element)), zeroed(zero_loans) {
    if (!PyArray_DescrCheck(dtype.ptr())) throw nb::type_error("a Layout needs a numpy.dtype");
    if (PyDataType_REFCHK(descr())) throw nb::type_error("messages cannot hold Python objects; use a fixed-size dtype");
    bytes = static_cast<uint64_t>(PyDataType_ELSIZE(descr()));
    for (nb::handle d : dims) {
        const auto n = nb::cast<int64_t>(d);
        if (n < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes) || bytes > 1ull << 48)
            throw nb::value_error("a message of this shape is too large");
        shape.push_back(n);
    }
    if (shape.size() > 32) throw nb::value_error("at most 32 dimensions");
    alignment = static_cast<uint64_t>(PyDataType_ALIGNMENT(descr()));
}

std::string Layout::text() const {
    std::string t = nb::cast<std::string>(nb::steal<nb::str>(PyObject_Str(dtype.ptr())));
    t += "[";
    for (size_t i = 0; i < shape.size(); ++i) t += (i ? ", " : "") + std::to_string(shape[i]);
    return t + "]";
}

bool Layout::fits(PyArrayObject* array, bool many) const {
    const int extra = many ? 1 : 0;
    if (PyArray_NDIM(array) != static_cast<int>(shape.size()) + extra) return false;
    for (size_t i = 0; i < shape.size(); ++i)
        if (PyArray_DIM(array, static_cast<int>(i) + extra) != shape[i]) return false;
    return PyArray_DESCR(array) == descr() || PyArray_EquivTypes(PyArray_DESCR(array), descr());
}

PyObject* new_array(const Layout& layout, std::byte* data, Py_ssize_t count, uint64_t stride, PyObject* base,
                    bool writable) {
    npy_intp dims[33], strides[33];
    int ndim = 0;
    if (count >= 0) {
        dims[0] = count;
        strides[0] = static_cast<npy_intp>(stride);
        ndim = 1;
    }
    npy_intp step = PyDataType_ELSIZE(layout.descr());
    const int own = static_cast<int>(layout.shape.size());
    for (int i = own - 1; i >= 0; --i) {
        dims[ndim + i] = layout.shape[static_cast<size_t>(i)];
        strides[ndim + i] = step;
        step *= layout.shape[static_cast<size_t>(i)];
    }
    ndim += own;
    Py_INCREF(layout.descr());
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, layout.descr(), ndim, dims, strides, data,
                                           writable ? NPY_ARRAY_WRITEABLE : 0, nullptr);
    if (!array) return nullptr;
    Py_INCREF(base);
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), base) < 0) {
        Py_DECREF(array);
        return nullptr;
    }
    return array;
}

void bind_layout(nb::module_& m) {
    nb::class_<Layout>(m, "Layout", "Dtype and shape of one message.")
        .def(nb::init<nb::object, nb::tuple, bool>(), nb::arg("dtype"), nb::arg("shape"), nb::arg("zeroed"),
             nb::sig("def __init__(self, dtype: numpy.dtype, shape: tuple[int, ...], zeroed: bool) -> None"))
        .def_ro("dtype", &Layout::dtype, nb::sig("def dtype(self) -> numpy.dtype"))
        .def_prop_ro("shape",
                     [](const Layout& l) {
                         nb::list dims;
                         for (npy_intp d : l.shape) dims.append(d);
                         return nb::tuple(dims);
                     },
                     nb::sig("def shape(self) -> tuple[int, ...]"))
        .def_ro("bytes", &Layout::bytes)
        .def_ro("alignment", &Layout::alignment)
        .def("__str__", &Layout::text);
}

}  // namespace psyne::python
