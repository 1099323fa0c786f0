// DLPack: messages, batches and arrays for tensor libraries. The structures are those of its specification, version 1
// (https://dmlc.github.io/dlpack). What is handed out keeps a numpy array, and that the lease.
#include "message.hpp"

namespace psyne::python {

namespace {

struct DLDevice {
    int32_t type, id;
};
struct DLDataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct DLTensor {
    void* data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape, *strides;  // strides in elements
    uint64_t byte_offset;
};
struct DLManagedTensor {
    DLTensor dl_tensor;
    void* manager_ctx;
    void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void* manager_ctx;
    void (*deleter)(DLManagedTensorVersioned*);
    uint64_t flags;
    DLTensor dl_tensor;
};
constexpr int32_t kDLCPU = 1;
constexpr uint64_t kReadOnly = 1, kIsCopied = 2, kSubbytePadded = 4;
enum Code : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

template <class Managed>
constexpr const char* kName = "dltensor";
template <>
constexpr const char* kName<DLManagedTensorVersioned> = "dltensor_versioned";

/// The types of ml_dtypes, which numpy knows by name only.
struct Extended {
    const char* name;
    uint8_t code, bits;
};
constexpr Extended kExtended[] = {
    {"bfloat16", kBfloat, 16},    {"float8_e3m4", 7, 8},      {"float8_e4m3", 8, 8},     {"float8_e4m3b11fnuz", 9, 8},
    {"float8_e4m3fn", 10, 8},     {"float8_e4m3fnuz", 11, 8}, {"float8_e5m2", 12, 8},    {"float8_e5m2fnuz", 13, 8},
    {"float8_e8m0fnu", 14, 8},    {"float6_e2m3fn", 15, 6},   {"float6_e3m2fn", 16, 6},  {"float4_e2m1fn", 17, 4},
    {"int2", kInt, 2},            {"uint2", kUInt, 2},        {"int4", kInt, 4},         {"uint4", kUInt, 4},
};

std::string names_of(PyArray_Descr* d) {
    nb::object names = nb::borrow(PyDataType_NAMES(d));
    std::string text;
    for (nb::handle name : names) text += (text.empty() ? "" : ", ") + nb::cast<std::string>(name);
    return text;
}

bool type_of(PyArray_Descr* d, DLDataType& type) {
    const auto bytes = static_cast<uint64_t>(PyDataType_ELSIZE(d));
    const auto bits = static_cast<uint8_t>(std::min<uint64_t>(bytes * 8, 255));
    if (!PyDataType_ISNOTSWAPPED(d)) {
        PyErr_Format(error_class("CannotShare"), "DLPack has no byte-swapped types; %S must be converted", d);
        return false;
    }
    if (PyDataType_HASFIELDS(d)) {
        PyErr_Format(error_class("CannotShare"), "DLPack has no records; hand over a field instead, each is an array: %s",
                     names_of(d).c_str());
        return false;
    }
    if (PyTypeNum_ISUSERDEF(d->type_num)) {
        const char* name = d->typeobj->tp_name;
        if (const char* dot = std::strrchr(name, '.')) name = dot + 1;
        for (const Extended& e : kExtended)
            if (std::strcmp(e.name, name) == 0) {
                type = {e.code, e.bits, 1};
                return true;
            }
    } else {
        switch (d->kind) {
            case 'b': type = {kBool, 8, 1}; return true;
            case 'i': type = {kInt, bits, 1}; return true;
            case 'u': type = {kUInt, bits, 1}; return true;
            case 'f':
                type = {kFloat, bits, 1};
                if (bytes <= 8) return true;
                break;
            case 'c':
                type = {kComplex, bits, 1};
                if (bytes <= 16) return true;
                break;
            default: break;
        }
    }
    PyErr_Format(error_class("CannotShare"), "DLPack has no type for %S", d);
    return false;
}

/// Any thread may call it, with or without the GIL, and while an exception is set.
template <class Managed>
void let_go(Managed* managed) {
    if (Py_IsInitialized()) {  // else the process ends, and nobody waits for the slot any more
        const PyGILState_STATE gil = PyGILState_Ensure();
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        Py_DECREF(static_cast<PyObject*>(managed->manager_ctx));
        PyErr_Restore(type, value, trace);
        PyGILState_Release(gil);
    }
    std::free(managed);
}

/// A capsule that nobody took; those who take one rename it.
template <class Managed>
void capsule_gone(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, kName<Managed>)) return;
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kName<Managed>));
    managed->deleter(managed);
}

/// Where a consumer finds the bytes of an array.
struct Exported {
    DLDevice device{kDLCPU, 0};
    void* data = nullptr;  // null: where the array has them
    uint64_t offset = 0;   // from there to the first element: of devices whose data is a handle
};

/// Takes over `array`, also when it fails.
template <class Managed>
PyObject* capsule_of(PyArrayObject* array, const DLDataType& type, uint64_t flags, const Exported& as) {
    const int ndim = PyArray_NDIM(array);
    const auto item = static_cast<npy_intp>(PyDataType_ELSIZE(PyArray_DESCR(array)));
    auto* managed = static_cast<Managed*>(
        std::calloc(1, sizeof(Managed) + 2 * static_cast<size_t>(ndim) * sizeof(int64_t)));
    if (!managed) {
        Py_DECREF(array);
        return PyErr_NoMemory();
    }
    auto* sizes = reinterpret_cast<int64_t*>(managed + 1);
    managed->manager_ctx = array;
    managed->deleter = let_go<Managed>;
    managed->dl_tensor = {as.data ? as.data : PyArray_DATA(array), as.device, ndim, type, sizes, sizes + ndim, as.offset};
    for (int i = 0; i < ndim; ++i) {
        sizes[i] = PyArray_DIM(array, i);
        sizes[ndim + i] = PyArray_STRIDE(array, i) / item;
    }
    if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>) {
        managed->major = 1;
        managed->minor = 1;
        managed->flags = flags;
    }
    PyObject* capsule = PyCapsule_New(managed, kName<Managed>, capsule_gone<Managed>);
    if (!capsule) let_go(managed);
    return capsule;
}

/// Takes over `array`. `major.minor`: what the consumer understands.
PyObject* export_array(PyArrayObject* array, long major, long minor, bool copied, const Exported& as) {
    PyArray_Descr* d = PyArray_DESCR(array);
    DLDataType type{};
    bool ok = type_of(d, type);
    for (int i = 0; ok && i < PyArray_NDIM(array); ++i)
        if (PyArray_STRIDE(array, i) % static_cast<npy_intp>(PyDataType_ELSIZE(d)) != 0) {
            PyErr_Format(error_class("CannotShare"), "DLPack counts strides in elements of %zd bytes; this array has one of %zd bytes",
                         static_cast<Py_ssize_t>(PyDataType_ELSIZE(d)), static_cast<Py_ssize_t>(PyArray_STRIDE(array, i)));
            ok = false;
        }
    const bool padded = type.bits < 8, read_only = !PyArray_ISWRITEABLE(array);
    if (ok && padded && (major < 1 || (major == 1 && minor < 1))) {
        PyErr_Format(error_class("CannotShare"), "%S lies one to a byte here, which only DLPack 1.1 can say; the consumer asks for "
                                        "%ld.%ld. Hand over m.array.view('u1') and tell it what the bytes mean", d, major, minor);
        ok = false;
    }
    if (ok && read_only && major < 1) {
        PyErr_SetString(error_class("CannotShare"), "this memory is read-only, which DLPack can say from version 1.0 on; the consumer "
                                           "asks for an older one. Hand over m.private() or m.copy()");
        ok = false;
    }
    if (!ok) {
        Py_DECREF(array);
        return nullptr;
    }
    if (major < 1) return capsule_of<DLManagedTensor>(array, type, 0, as);
    return capsule_of<DLManagedTensorVersioned>(
        array, type, (read_only ? kReadOnly : 0) | (copied ? kIsCopied : 0) | (padded ? kSubbytePadded : 0), as);
}

/// (a, b), two ints; false with an exception set.
bool pair_of(PyObject* value, const char* name, long& a, long& b) {
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2) {
        PyErr_Format(PyExc_TypeError, "%s is a tuple of two ints; got %R", name, value);
        return false;
    }
    a = PyLong_AsLong(PyTuple_GET_ITEM(value, 0));
    b = PyLong_AsLong(PyTuple_GET_ITEM(value, 1));
    return !PyErr_Occurred();
}

/// What a consumer asks for, of memory on the CPU or on the device that `as` names.
PyObject* export_for(PyObject* owner, PyObject* max_version, PyObject* device, int copied, PyObject* (*array_of)(PyObject*),
                     const Exported& as) {
    long major = 0, minor = 0, kind = as.device.type, id = as.device.id;
    if (max_version && !pair_of(max_version, "max_version", major, minor)) return nullptr;
    if (device && !pair_of(device, "dl_device", kind, id)) return nullptr;
    if (kind != as.device.type || id != as.device.id)
        return PyErr_Format(error_class("CannotShare"), "%s, device (%d, %d); the consumer asks for %R",
                            as.data ? "this view is on its device" : "messages are in CPU memory", as.device.type, as.device.id, device),
               nullptr;
    if (copied && as.data)
        return PyErr_SetString(error_class("CannotShare"), "a view of a device makes no copies: upload() does"), nullptr;
    PyObject* array = array_of(owner);
    if (array && copied) {
        PyObject* original = array;
        array = PyArray_NewCopy(reinterpret_cast<PyArrayObject*>(original), NPY_KEEPORDER);
        Py_DECREF(original);
    }
    return array ? export_array(reinterpret_cast<PyArrayObject*>(array), major, minor, copied != 0, as) : nullptr;
}

}  // namespace

PyObject* dlpack_of(PyObject* owner, PyObject* const* args, Py_ssize_t n, PyObject* names,
                    PyObject* (*array_of)(PyObject*)) {
    PyObject* values[4];
    if (n != 0) return PyErr_Format(PyExc_TypeError, "__dlpack__() takes keywords only (%zd positional given)", n), nullptr;
    if (!Call{"__dlpack__", args, n, names}.parse({"stream", "max_version", "dl_device", "copy"}, values)) return nullptr;
    for (PyObject*& v : values)
        if (v == Py_None) v = nullptr;
    auto [stream, max_version, device, copy] = values;
    if (stream) return PyErr_Format(PyExc_ValueError, "the CPU has no streams; stream must be None, not %R", stream), nullptr;
    const int copied = copy ? PyObject_IsTrue(copy) : 0;
    return copied < 0 ? nullptr : export_for(owner, max_version, device, copied, array_of, {});
}

PyObject* dlpack(PyObject* o, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    return dlpack_of(o, args, n, names, [](PyObject* m) { return whole_array(reinterpret_cast<MessageObject*>(m)); });
}

PyObject* dlpack_device(PyObject*, PyObject*) { return Py_BuildValue("(ii)", kDLCPU, 0); }

/// dlpack(array, **keywords): of any numpy array, with the dtypes that its own __dlpack__ lacks.
static PyObject* dlpack_array(PyObject*, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    if (n != 1 || !PyArray_Check(args[0])) return PyErr_Format(PyExc_TypeError, "dlpack() takes a numpy array"), nullptr;
    return dlpack_of(args[0], args + 1, 0, names, Py_NewRef);
}

/// dlpack_on(array, device, address, max_version=None, dl_device=None, copy=None, byte_offset=None)
static PyObject* dlpack_on(PyObject*, PyObject* const* args, Py_ssize_t n, PyObject* names) {
    PyObject* values[7];
    if (!Call{"dlpack_on", args, n, names}.parse(
            {"array", "device", "address", "max_version", "dl_device", "copy", "byte_offset"}, values, 3))
        return nullptr;
    if (!PyArray_Check(values[0])) return PyErr_Format(PyExc_TypeError, "dlpack_on() takes a numpy array"), nullptr;
    for (PyObject*& v : values)
        if (v == Py_None) v = nullptr;
    long type = 0, id = 0;
    if (!values[1] || !values[2] || !pair_of(values[1], "device", type, id))
        return PyErr_Occurred() ? nullptr : PyErr_Format(PyExc_TypeError, "dlpack_on() needs a device and an address");
    void* address = PyLong_AsVoidPtr(values[2]);
    const int copied = values[5] ? PyObject_IsTrue(values[5]) : 0;
    const uint64_t offset = values[6] ? PyLong_AsUnsignedLongLong(values[6]) : 0;
    if (PyErr_Occurred() || copied < 0) return nullptr;
    if (!address) return PyErr_Format(PyExc_ValueError, "dlpack_on() needs an address");
    return export_for(values[0], values[3], values[4], copied, Py_NewRef,
                      {{static_cast<int32_t>(type), static_cast<int32_t>(id)}, address, offset});
}

void bind_dlpack(nb::module_& m) {
    static PyMethodDef dlpack_def = {"dlpack", method(dlpack_array), METH_FASTCALL | METH_KEYWORDS,
                                     "The DLPack capsule of any numpy array, with ml_dtypes."};
    m.attr("dlpack") = nb::steal(PyCFunction_New(&dlpack_def, nullptr));
    static PyMethodDef on_def = {"dlpack_on", method(dlpack_on), METH_FASTCALL | METH_KEYWORDS,
                                 "The DLPack capsule of an array whose bytes a device has at an address of its own, or byte_offset behind a handle."};
    m.attr("dlpack_on") = nb::steal(PyCFunction_New(&on_def, nullptr));
}

}  // namespace psyne::python
