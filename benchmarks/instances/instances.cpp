// The candidates for the objects that are made per message, side by side in one module.
// Every message holds a reference to its source and a pointer into the source's memory.
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstdint>
#include <cstring>

namespace nb = nanobind;

namespace {

constexpr std::size_t slot_bytes = 64;
constexpr std::size_t freelist_limit = 64;

alignas(128) char slot[slot_bytes];

// ---------------------------------------------------------------- nanobind

struct BoundMessage {
    nb::object source;
    char* data;
    std::uint64_t position;
};

struct BoundSource {
    std::uint64_t position = 0;
    nb::object self() { return nb::find(this); }
    BoundMessage receive() { return {nb::none(), slot, position++}; }
    BoundMessage receive_with_source() { return {self(), slot, position++}; }
    bool send(nb::handle, nb::handle) { return true; }
};

// ---------------------------------------------------------------- plain C types

struct Message {
    PyObject_HEAD
    PyObject* source;
    char* data;
    std::uint64_t position;
};

struct Freelist {
    PyObject* items[freelist_limit];
    std::size_t count = 0;
};

// Classes made by a Python class statement always carry a GC header, even with __slots__ = () and a base
// without one: memory with and without the header must not mix.
Freelist freelists[2];

PyTypeObject* heap_type;      // allocated and freed by CPython
PyTypeObject* freelist_type;  // memory kept for the next message
PyTypeObject* subclass_type;  // made in Python, __slots__ = (), ends through subtype_dealloc
PyTypeObject* replaced_type;  // the same, tp_dealloc replaced by the base's
PyTypeObject* headless_type;  // the same, GC flag taken off too
PyArray_Descr* float_descr;

void heap_dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    Py_DECREF(reinterpret_cast<Message*>(self)->source);
    type->tp_free(self);
    Py_DECREF(type);
}

void freelist_dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    Py_DECREF(reinterpret_cast<Message*>(self)->source);
    Freelist& freelist = freelists[PyType_IS_GC(type) != 0];
    if (freelist.count < freelist_limit)
        freelist.items[freelist.count++] = self;
    else
        type->tp_free(self);
    Py_DECREF(type);
}

int message_buffer(PyObject* self, Py_buffer* view, int flags) {
    return PyBuffer_FillInfo(view, self, reinterpret_cast<Message*>(self)->data, slot_bytes, 1, flags);
}

PyObject* filled(PyObject* object, PyObject* source, std::uint64_t position) {
    if (!object) return nullptr;
    auto* message = reinterpret_cast<Message*>(object);
    message->source = Py_NewRef(source);
    message->data = slot;
    message->position = position;
    return object;
}

PyObject* allocated(PyTypeObject* type) { return type->tp_alloc(type, 0); }

// Never tracked by the collector: a message refers to its source only, so no cycle goes through it.
PyObject* recycled(PyTypeObject* type) {
    Freelist& freelist = freelists[PyType_IS_GC(type) != 0];
    if (freelist.count != 0) return PyObject_Init(freelist.items[--freelist.count], type);
    PyObject* object = allocated(type);
    if (object && PyType_IS_GC(type)) PyObject_GC_UnTrack(object);
    return object;
}

PyObject* recycled_tracked(PyTypeObject* type) {
    PyObject* object = recycled(type);
    if (object) PyObject_GC_Track(object);
    return object;
}

struct Source {
    PyObject_HEAD
    std::uint64_t position;
};

template <PyTypeObject** type, PyObject* (*make)(PyTypeObject*)>
PyObject* receive(PyObject* self, PyObject*) {
    return filled(make(*type), self, reinterpret_cast<Source*>(self)->position++);
}

PyObject* receive_none(PyObject*, PyObject*) { Py_RETURN_NONE; }

// ---------------------------------------------------------------- calls with a payload

PyObject* send_one(PyObject*, PyObject*) { Py_RETURN_TRUE; }

PyObject* timeout_name;

PyObject* send_fastcall(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    PyObject* timeout = count == 2 ? args[1] : Py_None;
    if (names) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
            PyObject* name = PyTuple_GET_ITEM(names, i);
            if (name != timeout_name && PyUnicode_Compare(name, timeout_name) != 0) {
                PyErr_SetString(PyExc_TypeError, "send() takes no such keyword");
                return nullptr;
            }
            timeout = args[count + i];
        }
    }
    if (count < 1 || count > 2 || !timeout) {
        PyErr_SetString(PyExc_TypeError, "send() takes one object");
        return nullptr;
    }
    Py_RETURN_TRUE;
}

PyObject* copied(const void* data, Py_ssize_t bytes) {
    if (bytes != slot_bytes) {
        PyErr_Format(PyExc_ValueError, "%zd bytes do not fit a slot of %zu", bytes, slot_bytes);
        return nullptr;
    }
    std::memcpy(slot, data, slot_bytes);
    Py_RETURN_TRUE;
}

template <int flags>
PyObject* copy_buffer(PyObject*, PyObject* object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, flags) != 0) return nullptr;
    PyObject* result = copied(view.buf, view.len);
    PyBuffer_Release(&view);
    return result;
}

PyObject* copy_direct(PyObject*, PyObject* object) {
    if (PyMemoryView_Check(object)) {
        const Py_buffer* view = PyMemoryView_GET_BUFFER(object);
        return copied(view->buf, view->len);
    }
    if (PyBytes_Check(object)) return copied(PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object));
    if (PyArray_Check(object)) {
        auto* array = reinterpret_cast<PyArrayObject*>(object);
        if (!PyArray_IS_C_CONTIGUOUS(array)) return copy_buffer<PyBUF_FORMAT | PyBUF_ND>(nullptr, object);
        return copied(PyArray_DATA(array), PyArray_NBYTES(array));
    }
    if (PyObject_TypeCheck(object, freelist_type))
        return copied(reinterpret_cast<Message*>(object)->data, slot_bytes);
    PyErr_SetString(PyExc_TypeError, "not a type with direct access");
    return nullptr;
}

PyObject* view_array(PyObject*, PyObject* message) {
    npy_intp shape[1] = {slot_bytes / sizeof(float)};
    Py_INCREF(float_descr);
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, float_descr, 1, shape, nullptr,
                                           reinterpret_cast<Message*>(message)->data,
                                           NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED, nullptr);
    if (!array) return nullptr;
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), Py_NewRef(message)) != 0) {
        Py_DECREF(array);
        return nullptr;
    }
    return array;
}

// ---------------------------------------------------------------- the module

PyMethodDef source_methods[] = {
    {"receive_none", receive_none, METH_NOARGS, nullptr},
    {"receive_heap", receive<&heap_type, allocated>, METH_NOARGS, nullptr},
    {"receive_freelist", receive<&freelist_type, recycled>, METH_NOARGS, nullptr},
    {"receive_subclass", receive<&subclass_type, recycled>, METH_NOARGS, nullptr},
    {"receive_tracked", receive<&subclass_type, recycled_tracked>, METH_NOARGS, nullptr},
    {"receive_fresh", receive<&subclass_type, allocated>, METH_NOARGS, nullptr},
    {"receive_replaced", receive<&replaced_type, recycled>, METH_NOARGS, nullptr},
    {"receive_headless", receive<&headless_type, recycled>, METH_NOARGS, nullptr},
    {"send_one", send_one, METH_O, nullptr},
    {"send_fastcall", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(send_fastcall)),
     METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"copy_simple", copy_buffer<PyBUF_SIMPLE>, METH_O, nullptr},
    {"copy_format", copy_buffer<PyBUF_FORMAT | PyBUF_ND>, METH_O, nullptr},
    {"copy_direct", copy_direct, METH_O, nullptr},
    {"view_array", view_array, METH_O, nullptr},
    {}};

PyTypeObject* message_type(const char* name, destructor dealloc) {
    PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
                           {Py_bf_getbuffer, reinterpret_cast<void*>(message_buffer)},
                           {0, nullptr}};
    PyType_Spec spec = {name, sizeof(Message), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!type) throw nb::python_error();
    return type;
}

// The script subclasses FreelistMessage in Python and hands the classes in.
void use_subclasses(nb::handle plain, nb::handle replaced, nb::handle headless) {
    subclass_type = reinterpret_cast<PyTypeObject*>(plain.inc_ref().ptr());
    replaced_type = reinterpret_cast<PyTypeObject*>(replaced.inc_ref().ptr());
    replaced_type->tp_dealloc = freelist_dealloc;
    headless_type = reinterpret_cast<PyTypeObject*>(headless.inc_ref().ptr());
    headless_type->tp_dealloc = freelist_dealloc;
    headless_type->tp_flags &= ~Py_TPFLAGS_HAVE_GC;
    headless_type->tp_free = PyObject_Free;
}

int import_numpy() {
    import_array1(-1);
    return 0;
}

}  // namespace

NB_MODULE(psyne_instances, module) {
    if (import_numpy() != 0) throw nb::python_error();
    float_descr = PyArray_DescrFromType(NPY_FLOAT);
    timeout_name = PyUnicode_InternFromString("timeout");
    heap_type = message_type("psyne_instances.HeapMessage", heap_dealloc);
    freelist_type = message_type("psyne_instances.FreelistMessage", freelist_dealloc);
    module.attr("HeapMessage") = nb::handle(reinterpret_cast<PyObject*>(heap_type));
    module.attr("FreelistMessage") = nb::handle(reinterpret_cast<PyObject*>(freelist_type));

    PyType_Slot slots[] = {{Py_tp_methods, source_methods}, {0, nullptr}};
    PyType_Spec spec = {"psyne_instances.Source", sizeof(Source), 0, Py_TPFLAGS_DEFAULT, slots};
    nb::object source = nb::steal(PyType_FromSpec(&spec));
    if (!source) throw nb::python_error();
    module.attr("Source") = source;

    nb::class_<BoundMessage>(module, "BoundMessage");
    nb::class_<BoundSource>(module, "BoundSource")
        .def(nb::init<>())
        .def("receive", &BoundSource::receive)
        .def("receive_with_source", &BoundSource::receive_with_source)
        .def("send", &BoundSource::send, nb::arg("object"), nb::arg("timeout") = nb::none());
    module.def("use_subclasses", &use_subclasses);
}
