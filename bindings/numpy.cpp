// What numpy and its friends ask of a message besides the buffer protocol.
#include "message.hpp"

namespace psyne::python {

/// Can the buffer protocol say what this array holds? If not, its interface cannot either: of records it has no
/// datetimes, no padding, no types of ml_dtypes.
static bool has_a_format(PyObject* array) {
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_FULL_RO) < 0) return PyErr_Clear(), false;
    PyBuffer_Release(&view);
    return true;
}

PyObject* get_interface(PyObject* o, void*) {
    auto* m = reinterpret_cast<MessageObject*>(o);
    nb::object array = nb::steal(whole_array(m));
    if (!array.is_valid()) return nullptr;
    PyArray_Descr* d = PyArray_DESCR(reinterpret_cast<PyArrayObject*>(array.ptr()));
    if (PyTypeNum_ISUSERDEF(d->type_num) || (PyDataType_HASFIELDS(d) && !has_a_format(array.ptr())))  // numpy asks for __array__
        return PyErr_Format(PyExc_AttributeError, "__array_interface__ cannot describe %S; use m.array", d), nullptr;
    PyObject* interface = PyObject_GetAttrString(array.ptr(), "__array_interface__");
    if (interface && !m->pin) m->pin = array.release().ptr();
    return interface;
}

/// __array__(dtype=None, copy=None)
PyObject* as_array(PyObject* o, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    PyObject* values[2];
    PyArray_Descr* wanted = nullptr;
    if (!Call{"__array__", args, n, names}.parse({"dtype", "copy"}, values) ||
        (values[0] && !PyArray_DescrConverter2(values[0], &wanted)))
        return nullptr;
    nb::object keep = nb::steal(reinterpret_cast<PyObject*>(wanted));
    const int copy = values[1] && values[1] != Py_None ? PyObject_IsTrue(values[1]) : -1;
    if (PyErr_Occurred()) return nullptr;
    PyObject* whole = whole_array(reinterpret_cast<MessageObject*>(o));
    if (!whole) return nullptr;
    auto* array = reinterpret_cast<PyArrayObject*>(whole);
    const bool cast = wanted && !PyArray_EquivTypes(wanted, PyArray_DESCR(array));
    if (!cast && copy != 1) return whole;
    PyObject* made = nullptr;
    if (cast && copy == 0)
        PyErr_Format(PyExc_ValueError, "%S cannot be had as %S without a copy", PyArray_DESCR(array), wanted);
    else if (cast)
        made = PyArray_CastToType(array, reinterpret_cast<PyArray_Descr*>(keep.release().ptr()), 0);
    else
        made = PyArray_NewCopy(array, NPY_KEEPORDER);
    Py_DECREF(whole);
    return made;
}

}  // namespace psyne::python
