#include "source.hpp"

#include <psyne/variant.hpp>

namespace psyne::python {

namespace {

/// `as`: what numpy made of `o`, if it could.
/// Of bytes or of a text in UTF-8; 0 for anything else.
uint64_t bytes_in(PyObject* o) {
    Py_ssize_t size = 0;
    if (PyBytes_Check(o)) size = PyBytes_GET_SIZE(o);
    if (PyUnicode_Check(o) && !PyUnicode_AsUTF8AndSize(o, &size)) PyErr_Clear();
    return static_cast<uint64_t>(std::max<Py_ssize_t>(size, 0));
}

bool mismatch(PyObject* o, const End& end, bool many, PyObject* as = nullptr) {
    std::string got = Py_TYPE(o)->tp_name;
    if (PyArray_Check(as ? as : o)) {
        auto* a = reinterpret_cast<PyArrayObject*>(as ? as : o);
        got = as ? got + " of " : "";
        got += dtype_text(reinterpret_cast<PyObject*>(PyArray_DESCR(a)));
        for (int i = 0; i < PyArray_NDIM(a); ++i) got += (i ? ", " : "[") + std::to_string(PyArray_DIM(a, i));
        if (PyArray_NDIM(a)) got += "]";
    } else if (PyBytes_Check(o)) {
        got = "bytes of " + std::to_string(PyBytes_GET_SIZE(o));
    } else if (is_message(o)) {
        got += " " + reinterpret_cast<MessageObject*>(o)->layout->text();
    } else if (PyMemoryView_Check(o)) {
        const Py_buffer* b = PyMemoryView_GET_BUFFER(o);
        got = "memoryview of " + std::to_string(b->len) + " bytes, format '" + (b->format ? b->format : "B") + "'";
    }
    for (const Kind& k : end.kinds) {
        const Layout& l = *k.shape;
        const uint64_t size = bytes_in(o);
        if (!many && l.shaped && l.dims.ndim == 1 && l.descr()->type_num == NPY_UBYTE && size > l.room)
            return PyErr_Format(PyExc_ValueError, "%llu bytes do not fit into a %s, which has at most max_bytes=%llu",
                                static_cast<unsigned long long>(size), reinterpret_cast<PyTypeObject*>(k.type.ptr())->tp_name,
                                static_cast<unsigned long long>(l.room)), false;
    }
    raise("LayoutMismatch", "this channel carries " + end.kinds_text() + (many ? ", any number along a first axis" : "") +
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

bool Source::of_bytes(const void* data, Py_ssize_t size) {
    const Layout& l = *layout_;
    if (l.descr()->type_num != NPY_UBYTE || l.dims.ndim != 1) return false;
    if (l.shaped ? static_cast<uint64_t>(size) > l.room : size != l.dims.n[0]) return false;
    data_ = static_cast<const std::byte*>(data);
    dims_.ndim = 1;
    dims_.n[0] = size;
    bytes_ = static_cast<uint64_t>(size);
    return true;
}

bool Source::of_array(PyArrayObject* a, bool many) {
    const Layout& l = *layout_;
    if (!l.fits(a, many) || (l.shaped && many)) return false;
    count = many ? static_cast<uint64_t>(PyArray_DIM(a, 0)) : 1;
    if (l.shaped) {
        dims_.ndim = l.dims.ndim;
        std::copy(PyArray_DIMS(a), PyArray_DIMS(a) + dims_.ndim, dims_.n);
        if (!dims_.bytes(l.element(), l.room, bytes_)) return false;
    }
    const bool flat = l.fortran && !many ? PyArray_IS_F_CONTIGUOUS(a) : PyArray_IS_C_CONTIGUOUS(a) && !l.fortran;
    if (flat && !l.columns)
        data_ = reinterpret_cast<const std::byte*>(PyArray_DATA(a));
    else
        strided_ = reinterpret_cast<PyObject*>(a);
    if (l.columns) fields_ = strided_;
    return true;
}

bool Source::of_view(const Py_buffer& b, bool many) {
    const Layout& l = *layout_;
    if (l.shaped || l.columns || l.fortran) return false;
    const int extra = many ? 1 : 0;
    if (kind_of(b.format) != l.descr()->kind || b.itemsize != PyDataType_ELSIZE(l.descr()) ||
        b.ndim != l.dims.ndim + extra || PyDataType_ISBYTESWAPPED(l.descr()) || !PyBuffer_IsContiguous(&b, 'C'))
        return false;
    for (int i = 0; i < l.dims.ndim; ++i)
        if (b.shape[i + extra] != l.dims.n[i]) return false;
    count = many ? static_cast<uint64_t>(b.shape[0]) : 1;
    data_ = static_cast<const std::byte*>(b.buf);
    return true;
}

bool Source::of_message(MessageObject* m) {
    if (m->layout != layout_ && !(*m->layout == *layout_)) return false;
    message_ = m;
    if (!layout_->shaped) return true;
    return dims_of(m, dims_) && dims_.bytes(layout_->element(), layout_->room, bytes_);
}

/// A dict, a batch, a structured array: something with an array for each field.
bool Source::of_columns(PyObject* o, bool many) {
    if (!layout_->columns || !many || !PyMapping_Check(o)) return false;
    for (size_t i = 0; i < layout_->fields.size(); ++i) {
        const Layout::Column& c = layout_->fields[i];
        nb::object column = nb::steal(PyObject_GetItem(o, c.name.ptr()));
        if (!column.is_valid()) return PyErr_Clear(), false;
        if (!PyArray_Check(column.ptr())) return false;
        auto* a = reinterpret_cast<PyArrayObject*>(column.ptr());
        const nb::object base = c.dtype.attr("base"), shape = c.dtype.attr("shape");
        const auto own = nb::cast<nb::tuple>(shape);
        bool same = PyArray_NDIM(a) == static_cast<int>(own.size()) + 1 &&
                    PyArray_EquivTypes(PyArray_DESCR(a), reinterpret_cast<PyArray_Descr*>(base.ptr()));
        for (int k = 0; same && k < static_cast<int>(own.size()); ++k)
            same = PyArray_DIM(a, k + 1) == nb::cast<npy_intp>(own[static_cast<size_t>(k)]);
        if (!same || (i != 0 && static_cast<uint64_t>(PyArray_DIM(a, 0)) != count)) return false;
        count = static_cast<uint64_t>(PyArray_DIM(a, 0));
    }
    fields_ = o;
    return true;
}

bool Source::look(PyObject* o, bool many) {
    const Layout& l = *layout_;
    if (is_message(o)) {
        auto* m = reinterpret_cast<MessageObject*>(o);
        if (!usable(m)) return false;
        if (!many && !m->batch) return of_message(m);
    }
    if (many && of_columns(o, many)) return true;
    if (PyMemoryView_Check(o)) {
        if (reinterpret_cast<PyMemoryViewObject*>(o)->flags & _Py_MEMORYVIEW_RELEASED)
            return PyErr_SetString(PyExc_ValueError, "operation forbidden on released memoryview object"), false;
        // Without a GIL another thread may release it meanwhile: there numpy holds its buffer, below.
        if (kGil && of_view(*PyMemoryView_GET_BUFFER(o), many)) return true;
    }
    if (PyArray_Check(o)) return of_array(reinterpret_cast<PyArrayObject*>(o), many);
    if (!many && PyBytes_Check(o)) return of_bytes(PyBytes_AS_STRING(o), PyBytes_GET_SIZE(o));
    if (!many && PyUnicode_Check(o)) {
        Py_ssize_t size;
        const char* text = PyUnicode_AsUTF8AndSize(o, &size);
        return text && of_bytes(text, size);
    }
    const bool whole = PyTypeNum_ISINTEGER(l.descr()->type_num);  // takes no 1.5
    if (!many && l.dims.ndim == 0 && l.descr()->type_num != NPY_VOID && (whole ? PyIndex_Check(o) : PyNumber_Check(o))) {
        strided_ = o;  // a number for a channel of scalars
        return true;
    }
    return false;
}

/// Whatever numpy can make of a buffer without a copy.
bool Source::of_buffer(PyObject* o, bool many) {
    if (!PyObject_CheckBuffer(o) || PyArray_Check(o) || is_message(o)) return false;  // the latter were looked at
    Py_XSETREF(array_, PyArray_FromAny(o, nullptr, 0, 0, 0, nullptr));
    if (!array_) return PyErr_Clear(), false;
    return of_array(reinterpret_cast<PyArrayObject*>(array_), many);
}

bool Source::of(PyObject* o, const End& end, const Kind& kind, bool many) {
    layout_ = kind.shape;
    data_ = nullptr;
    message_ = nullptr;
    strided_ = fields_ = nullptr;
    if (look(o, many)) return true;
    if (PyErr_Occurred()) return false;
    if (!many) {  // an instance of what the type was made from: a dataclass, a ctypes.Structure, a record batch
        PyObject* made = PyObject_CallMethod(kind.type.ptr(), "_message_of", "(O)", o);
        if (!made) return false;
        if (made != Py_None) {
            Py_XSETREF(array_, made);
            if (is_message(made) && of_message(reinterpret_cast<MessageObject*>(made))) return true;
        } else {
            Py_DECREF(made);
        }
    }
    if (of_buffer(o, many)) return true;
    if (PyErr_Occurred()) return false;
    return mismatch(o, end, many, array_);
}

bool Source::copy_columns(const Place& to, uint64_t n, uint64_t first) const {
    const bool many = !PyArray_Check(fields_) || PyArray_NDIM(reinterpret_cast<PyArrayObject*>(fields_)) != 0;
    for (const Layout::Column& c : layout_->fields) {
        nb::object column = nb::steal(PyObject_GetItem(fields_, c.name.ptr()));
        if (!column.is_valid()) return false;
        if (many) {
            column = nb::steal(
                PySequence_GetSlice(column.ptr(), static_cast<Py_ssize_t>(first), static_cast<Py_ssize_t>(first + n)));
            if (!column.is_valid()) return false;
        }
        const nb::object base = c.dtype.attr("base"), shape = c.dtype.attr("shape");
        Dims d;
        for (nb::handle k : nb::cast<nb::tuple>(shape)) d.n[d.ndim++] = nb::cast<npy_intp>(k);
        nb::object view = nb::steal(array_over(reinterpret_cast<PyArray_Descr*>(base.ptr()), d, false,
                                               to.field(*layout_, c.offset, c.bytes), many ? static_cast<Py_ssize_t>(n) : -1,
                                               c.bytes, nullptr, true));
        if (!view.is_valid() || PyArray_CopyObject(reinterpret_cast<PyArrayObject*>(view.ptr()), column.ptr()) < 0) return false;
    }
    return true;
}

bool Source::copy_to(const Place& to, uint64_t n, uint64_t first) const {
    const Layout& l = *layout_;
    if (message_ && !l.shaped) return copy_message(l, message_->at, to);
    if (fields_) return copy_columns(to, n, first);
    if (l.shaped) l.write_dims(to.data, to.room, dims_);
    if (const std::byte* all = message_ ? message_->at.data : data_) {
        const uint64_t size = l.shaped ? bytes_ : l.bytes;
        const std::byte* from = all + first * size;
        if (to.stride == size || n == 1)
            std::memcpy(to.data, from, n * size);
        else
            for (uint64_t i = 0; i < n; ++i) std::memcpy(to.data + i * to.stride, from + i * size, size);
        return true;
    }
    const Dims& own = l.shaped ? dims_ : l.dims;
    const bool many = PyArray_Check(strided_) && PyArray_NDIM(reinterpret_cast<PyArrayObject*>(strided_)) > own.ndim;
    nb::object view = nb::steal(
        array_over(l.descr(), own, l.fortran, to.data, many ? static_cast<Py_ssize_t>(n) : -1, to.stride, nullptr, true));
    if (!view.is_valid()) return false;
    nb::object part = nb::borrow(strided_);
    if (many) {
        part = nb::steal(PySequence_GetSlice(strided_, static_cast<Py_ssize_t>(first), static_cast<Py_ssize_t>(first + n)));
        if (!part.is_valid()) return false;
    }
    return PyArray_CopyObject(reinterpret_cast<PyArrayObject*>(view.ptr()), part.ptr()) == 0;
}

const Kind* End::kind_for(PyObject* o) const {
    if (kinds.size() == 1) return &kinds[0];
    const Kind* found = nullptr;
    size_t count = 0;
    if (is_message(o) && !reinterpret_cast<MessageObject*>(o)->batch) {
        auto* m = reinterpret_cast<MessageObject*>(o);
        for (const Kind& k : kinds) {
            if (k.type.ptr() == reinterpret_cast<PyObject*>(Py_TYPE(o))) return &k;
            if (*k.shape == *m->layout) found = &k, ++count;
        }
    } else {
        const bool text = PyUnicode_Check(o), bytes = PyBytes_Check(o) || PyByteArray_Check(o);
        for (const Kind& k : kinds) {
            const bool is_text = VariantHdr::of(k.header).flags & VariantHdr::kText;
            bool fits = false;
            if (text || bytes)
                fits = k.shape->shaped && k.shape->dims.ndim == 1 && k.shape->descr()->type_num == NPY_UBYTE && is_text == text;
            else if (PyArray_Check(o))
                fits = !is_text && k.shape->fits(reinterpret_cast<PyArrayObject*>(o), false);
            else
                fits = nb::steal(PyObject_CallMethod(k.type.ptr(), "_takes", "(O)", o)).is(nb::handle(Py_True));
            if (PyErr_Occurred()) return nullptr;
            if (fits) found = &k, ++count;
        }
    }
    if (count == 1) return found;
    if (count > 1) {
        raise("LayoutMismatch", address + " carries " + std::to_string(count) + " types that " + Py_TYPE(o)->tp_name +
                                    " could be sent as; its types are " + kinds_text() + ". Loan the one you mean");
        return nullptr;
    }
    mismatch(o, *this, false);
    return nullptr;
}

}  // namespace psyne::python
