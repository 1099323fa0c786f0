#include "layout.hpp"

namespace psyne::python {

bool Dims::bytes(uint64_t element, uint64_t most, uint64_t& total) const noexcept {
    uint64_t reach = total = element;  // as if no axis were empty: strides of empty arrays are numbers, too
    for (int i = 0; i < ndim; ++i) {
        if (n[i] < 0 || __builtin_mul_overflow(reach, std::max<uint64_t>(static_cast<uint64_t>(n[i]), 1), &reach)) return false;
        total *= static_cast<uint64_t>(n[i]);
    }
    return total <= most && reach <= kMostBytes;
}

Layout::Layout(nb::object element_type, nb::tuple shape, bool zero_loans, bool fortran_order, bool by_columns,
               uint64_t max_bytes)
    : dtype(std::move(element_type)), zeroed(zero_loans), fortran(fortran_order), columns(by_columns),
      shaped(max_bytes != 0) {
    if (!PyArray_DescrCheck(dtype.ptr())) throw nb::type_error("a Layout needs a numpy.dtype");
    if (PyDataType_REFCHK(descr())) throw nb::type_error("messages cannot hold Python objects; use a fixed-size dtype");
    if (element() == 0) throw nb::type_error("elements of no bytes; give the dtype a size, e.g. 'S8'");
    const size_t most_dims = shaped ? kMaxOwnDims : kMaxDims;
    if (shape.size() > most_dims) throw nb::value_error(shaped ? "at most 8 dimensions" : "at most 32 dimensions");
    dims.ndim = static_cast<int>(shape.size());
    for (int i = 0; i < dims.ndim; ++i) dims.n[i] = shaped ? 0 : nb::cast<npy_intp>(shape[static_cast<size_t>(i)]);
    if (shaped) {
        if (max_bytes > kMostBytes) throw nb::value_error("max_bytes is too large");
        room = max_bytes;
    } else if (!dims.bytes(element(), kMostBytes, room)) {
        throw nb::value_error("a message of this shape is too large");
    }
    alignment = static_cast<uint64_t>(PyDataType_ALIGNMENT(descr()));
    if (shaped) alignment = std::max<uint64_t>(alignment, 8);
    bytes = shaped ? bytes_with(room) : room;
    if (!columns) return;
    const nb::object places = dtype.attr("fields");
    for (nb::handle name : dtype.attr("names")) {
        const nb::object place = places[name];
        const nb::object field = place[0];
        fields.push_back({nb::borrow(name), field, nb::cast<uint64_t>(place[1]), nb::cast<uint64_t>(field.attr("itemsize"))});
    }
}

std::string dtype_text(nb::handle dtype) {
    if (dtype.attr("names").is_none()) return nb::cast<std::string>(nb::str(dtype));
    std::string t;
    for (nb::handle name : dtype.attr("names")) {
        const nb::object field = dtype.attr("fields")[name][0];
        t += (t.empty() ? "(" : ", ") + nb::cast<std::string>(name) + ": " + dtype_text(field.attr("base"));
        std::string shape;
        for (nb::handle n : field.attr("shape")) shape += (shape.empty() ? "[" : ", ") + std::to_string(nb::cast<npy_intp>(n));
        if (!shape.empty()) t += shape + "]";
    }
    return t + ")";
}

std::string Layout::text() const {
    std::string t = dtype_text(dtype);
    if (dims.ndim == 0) return t;
    t += "[";
    for (int i = 0; i < dims.ndim; ++i) t += (i ? ", " : "") + (shaped ? ":" : std::to_string(dims.n[i]));
    return t + "]" + (shaped ? " of at most " + std::to_string(room) + " bytes" : "");
}

bool Layout::fits(PyArrayObject* array, bool many) const {
    const int extra = many ? 1 : 0;
    if (PyArray_NDIM(array) != dims.ndim + extra) return false;
    for (int i = 0; i < dims.ndim && !shaped; ++i)
        if (PyArray_DIM(array, i + extra) != dims.n[i]) return false;
    return PyArray_DESCR(array) == descr() || PyArray_EquivTypes(PyArray_DESCR(array), descr());
}

bool Layout::operator==(const Layout& other) const {
    return dims.ndim == other.dims.ndim && std::equal(dims.n, dims.n + dims.ndim, other.dims.n) && room == other.room &&
           fortran == other.fortran && columns == other.columns && shaped == other.shaped &&
           PyArray_EquivTypes(descr(), other.descr());
}

bool Layout::read_dims(const std::byte* data, uint64_t given, Dims& out) const {
    out.ndim = dims.ndim;
    std::memcpy(out.n, data + given - dims_bytes(), dims_bytes());
    uint64_t total;
    if (out.bytes(element(), elements_in(given), total)) return true;
    std::string shape;
    for (int i = 0; i < out.ndim; ++i) shape += (i ? ", " : "") + std::to_string(out.n[i]);
    raise("PeerCorrupted", "a message says that its shape is [" + shape + "], which does not fit the " +
                               std::to_string(elements_in(given)) + " bytes of its slot; its sender is damaged or hostile");
    return false;
}

void Layout::write_dims(std::byte* data, uint64_t given, const Dims& d) const {
    std::memcpy(data + given - dims_bytes(), d.n, dims_bytes());
}

PyObject* array_over(PyArray_Descr* descr, const Dims& own, bool fortran, std::byte* data, Py_ssize_t count,
                     uint64_t stride, PyObject* base, bool writable) {
    npy_intp dims[kMaxDims + 1], strides[kMaxDims + 1];
    const int lead = count >= 0 ? 1 : 0;
    dims[0] = count;
    strides[0] = static_cast<npy_intp>(stride);
    npy_intp step = PyDataType_ELSIZE(descr);
    for (int k = 0; k < own.ndim; ++k) {
        const int i = fortran ? k : own.ndim - 1 - k;
        dims[lead + i] = own.n[i];
        strides[lead + i] = step;
        step *= own.n[i];
    }
    Py_INCREF(descr);
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descr, own.ndim + lead, dims, strides, data,
                                           writable ? NPY_ARRAY_WRITEABLE : 0, nullptr);
    if (!array || !base) return array;
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), Py_NewRef(base)) < 0) {
        Py_DECREF(array);
        return nullptr;
    }
    count_as_one(array);
    return array;
}

void bind_layout(nb::module_& m) {
    nb::class_<Layout>(m, "Layout", "Dtype and shape of one message.")
        .def(nb::init<nb::object, nb::tuple, bool, bool, bool, uint64_t>(), nb::arg("dtype"), nb::arg("shape"),
             nb::arg("zeroed") = false, nb::arg("fortran") = false, nb::arg("columns") = false, nb::arg("max_bytes") = 0,
             nb::sig("def __init__(self, dtype: numpy.dtype, shape: tuple[int, ...], zeroed: bool = False, "
                     "fortran: bool = False, columns: bool = False, max_bytes: int = 0) -> None"))
        .def_ro("dtype", &Layout::dtype, nb::sig("def dtype(self) -> numpy.dtype"))
        .def_prop_ro("shape",
                     [](const Layout& l) {
                         nb::list dims;
                         for (int i = 0; i < l.dims.ndim; ++i) dims.append(l.dims.n[i]);
                         return nb::tuple(dims);
                     },
                     nb::sig("def shape(self) -> tuple[int, ...]"))
        .def("__reduce__",
             [](nb::handle_t<Layout> self) {
                 const auto& l = nb::cast<const Layout&>(self);
                 const nb::object shape = self.attr("shape");
                 return nb::make_tuple(self.type(), nb::make_tuple(l.dtype, shape, l.zeroed, l.fortran, l.columns,
                                                                   l.shaped ? l.room : 0));
             },
             nb::sig("def __reduce__(self) -> tuple[Any, ...]"))
        .def_ro("bytes", &Layout::bytes)
        .def_ro("room", &Layout::room, "Bytes of the elements; of a shaped message at most.")
        .def_ro("alignment", &Layout::alignment)
        .def_ro("shaped", &Layout::shaped, "Each message brings its own dimensions.")
        .def_ro("fortran", &Layout::fortran)
        .def_ro("columns", &Layout::columns)
        .def("__str__", &Layout::text);
}

}  // namespace psyne::python
