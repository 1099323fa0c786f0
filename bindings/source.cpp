#include "source.hpp"

namespace psyne::python {

namespace {

/// `as`: what numpy made of `o`, if it could.
bool mismatch(PyObject* o, const Layout& layout, bool many, PyObject* as = nullptr) {
    std::string got = Py_TYPE(o)->tp_name;
    if (PyArray_Check(as ? as : o)) {
        auto* a = reinterpret_cast<PyArrayObject*>(as ? as : o);
        got = as ? got + " of " : "";
        got += nb::cast<std::string>(nb::steal<nb::str>(PyObject_Str(reinterpret_cast<PyObject*>(PyArray_DESCR(a))))) + "[";
        for (int i = 0; i < PyArray_NDIM(a); ++i) got += (i ? ", " : "") + std::to_string(PyArray_DIM(a, i));
        got += "]";
    } else if (PyBytes_Check(o)) {
        got = "bytes of " + std::to_string(PyBytes_GET_SIZE(o));
    } else if (is_message(o)) {
        got += " " + reinterpret_cast<MessageObject*>(o)->layout->text();
    } else if (PyMemoryView_Check(o)) {
        const Py_buffer* b = PyMemoryView_GET_BUFFER(o);
        got = "memoryview of " + std::to_string(b->len) + " bytes, format '" + (b->format ? b->format : "B") + "'";
    }
    raise("LayoutMismatch", "this channel carries " + layout.text() + (many ? ", any number along a first axis" : "") +
                                "; got " + got + ". Convert it yourself: send() makes no silent casts");
    return false;
}

/// The kind of a one-letter struct format as numpy names kinds; 0 for anything else.
char kind_of(const char* format) {
    if (!format) return 'u';
    if (*format == '@' || *format == '=' || *format == '<') ++format;
    if (*format == 0 || format[1] != 0) return 0;
    switch (*format) {
        case 'b': case 'h': case 'i': case 'l': case 'q': case 'n': return 'i';
        case 'B': case 'H': case 'I': case 'L': case 'Q': case 'N': return 'u';
        case 'e': case 'f': case 'd': return 'f';
        case '?': return 'b';
        default: return 0;
    }
}

}  // namespace

bool Source::of_array(PyArrayObject* a, const Layout& layout, bool many) {
    if (!layout.fits(a, many)) return false;
    count = many ? static_cast<uint64_t>(PyArray_DIM(a, 0)) : 1;
    if (PyArray_IS_C_CONTIGUOUS(a))
        data = reinterpret_cast<const std::byte*>(PyArray_DATA(a));
    else
        strided = reinterpret_cast<PyObject*>(a);
    return true;
}

bool Source::of_view(const Py_buffer& b, const Layout& layout, bool many) {
    const size_t extra = many ? 1 : 0;
    if (kind_of(b.format) != layout.descr()->kind || b.itemsize != PyDataType_ELSIZE(layout.descr()) ||
        static_cast<size_t>(b.ndim) != layout.shape.size() + extra || PyDataType_ISBYTESWAPPED(layout.descr()) ||
        !PyBuffer_IsContiguous(&b, 'C'))
        return false;
    for (size_t i = 0; i < layout.shape.size(); ++i)
        if (b.shape[i + extra] != layout.shape[i]) return false;
    count = many ? static_cast<uint64_t>(b.shape[0]) : 1;
    data = static_cast<const std::byte*>(b.buf);
    return true;
}

bool Source::of(PyObject* o, const Layout& layout, bool many) {
    data = nullptr;
    strided = nullptr;
    if (!many && is_message(o) && !reinterpret_cast<MessageObject*>(o)->batch) {
        auto* m = reinterpret_cast<MessageObject*>(o);
        if (!usable(m)) return false;
        if (m->layout != &layout && (m->layout->shape != layout.shape ||
                                     !PyArray_EquivTypes(m->layout->descr(), layout.descr())))
            return mismatch(o, layout, many);
        data = m->data;
        return true;
    }
    if (PyMemoryView_Check(o)) {
        if (reinterpret_cast<PyMemoryViewObject*>(o)->flags & _Py_MEMORYVIEW_RELEASED)
            return PyErr_SetString(PyExc_ValueError, "operation forbidden on released memoryview object"), false;
        if (of_view(*PyMemoryView_GET_BUFFER(o), layout, many)) return true;
    }
    if (PyArray_Check(o)) return of_array(reinterpret_cast<PyArrayObject*>(o), layout, many) || mismatch(o, layout, many);
    if (!many && PyBytes_Check(o)) {
        if (layout.descr()->type_num != NPY_UBYTE || layout.shape.size() != 1 ||
            PyBytes_GET_SIZE(o) != layout.shape[0])
            return mismatch(o, layout, many);
        data = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(o));
        return true;
    }
    if (!many && layout.shape.empty() && layout.descr()->type_num != NPY_VOID && PyNumber_Check(o)) {
        strided = o;  // a number for a channel of scalars
        return true;
    }
    if (!PyObject_CheckBuffer(o) && !(many && PySequence_Check(o))) return mismatch(o, layout, many);
    Py_XDECREF(array);  // whatever numpy can make of it without a copy
    array = PyObject_CheckBuffer(o) ? PyArray_FromAny(o, nullptr, 0, 0, 0, nullptr) : nullptr;
    if (!array) {
        PyErr_Clear();
        return mismatch(o, layout, many);
    }
    return of_array(reinterpret_cast<PyArrayObject*>(array), layout, many) || mismatch(o, layout, many, array);
}

bool Source::copy_to(std::byte* to, uint64_t n, uint64_t first, const Layout& layout, uint64_t stride) const {
    if (data) {
        const std::byte* from = data + first * layout.bytes;
        if (stride == layout.bytes || n == 1)
            std::memcpy(to, from, n * layout.bytes);
        else
            for (uint64_t i = 0; i < n; ++i) std::memcpy(to + i * stride, from + i * layout.bytes, layout.bytes);
        return true;
    }
    const bool many = PyArray_Check(strided) &&
                      PyArray_NDIM(reinterpret_cast<PyArrayObject*>(strided)) > static_cast<int>(layout.shape.size());
    nb::object view = nb::steal(new_array(layout, to, many ? static_cast<Py_ssize_t>(n) : -1, stride, Py_None, true));
    if (!view.is_valid()) return false;
    nb::object part = nb::borrow(strided);
    if (many) {
        part = nb::steal(PySequence_GetSlice(strided, static_cast<Py_ssize_t>(first), static_cast<Py_ssize_t>(first + n)));
        if (!part.is_valid()) return false;
    }
    return PyArray_CopyObject(reinterpret_cast<PyArrayObject*>(view.ptr()), part.ptr()) == 0;
}

}  // namespace psyne::python
