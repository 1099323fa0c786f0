#include "python.hpp"

#include <cmath>
#include <map>
#include <mutex>

namespace psyne::python {

namespace {

constexpr std::string_view kHidden = "memory://tcp.";  // and a number: the channel of an end over TCP

struct Shown {
    std::mutex lock;
    std::map<std::string, std::string> names;
};
Shown& all_shown() {
    static Shown* const all = new Shown;  // ends may outlive all static objects
    return *all;
}

}  // namespace

void show_as(const std::string& address, const std::string& shown) {
    Shown& all = all_shown();
    const std::lock_guard guard(all.lock);
    if (shown.empty()) all.names.erase(address);
    else all.names[address] = shown;
}

std::string shown(const std::string& text) {
    std::string result;
    size_t done = 0;
    for (size_t at; (at = text.find(kHidden, done)) != std::string::npos;) {
        const size_t end = std::min(text.find_first_not_of("0123456789", at + kHidden.size()), text.size());
        const std::string address = text.substr(at, end - at);
        Shown& all = all_shown();
        const std::lock_guard guard(all.lock);
        const auto found = all.names.find(address);
        result.append(text, done, at - done).append(found == all.names.end() ? address : found->second);
        done = end;
    }
    return result.append(text, done);
}

std::atomic<uint64_t> fork_generation{0};

PyObject* imported(std::atomic<PyObject*>& cache, const char* module, const char* name) {
    if (PyObject* known = cache.load(std::memory_order_acquire)) return known;
    nb::object found = nb::steal(PyImport_ImportModule(module));
    if (found.is_valid() && name) found = nb::steal(PyObject_GetAttrString(found.ptr(), name));
    if (found.is_valid()) cache.store(found.ptr(), std::memory_order_release);  // kept for good
    return found.release().ptr();
}

PyObject* error_class(const char* name) {
    static std::atomic<PyObject*> errors{nullptr};
    PyObject* module = imported(errors, "psyne.errors");
    if (!module) return nullptr;
    PyObject* cls = PyDict_GetItemString(PyModule_GetDict(module), name);
    if (!cls) PyErr_Format(PyExc_SystemError, "psyne.errors has no class %s", name);
    return cls;
}

bool caught(const char* class_name) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject* cls = error_class(class_name);
    const bool yes = type && cls && PyErr_GivenExceptionMatches(type, cls);
    PyErr_Clear();
    if (yes) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
    } else {
        PyErr_Restore(type, value, trace);
    }
    return yes;
}

PyObject* text_of(std::string_view bytes) {
    return PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
}

PyObject* raise(const char* class_name, const std::string& text) {
    PyObject *cls = error_class(class_name), *value = cls ? text_of(shown(text)) : nullptr;
    if (value) PyErr_SetObject(cls, value);
    Py_XDECREF(value);
    return nullptr;
}

static const char* class_of(Errc code) {
    switch (code) {
        case Errc::invalid: return "InvalidArgument";
        case Errc::not_found: return "ChannelNotFound";
        case Errc::busy: return "ChannelBusy";
        case Errc::mismatch: return "LayoutMismatch";
        case Errc::incompatible: return "IncompatibleChannel";
        case Errc::no_space: return "NoSpace";
        case Errc::lease: return "LeaseLimit";
        case Errc::protocol: return "ProtocolError";
        case Errc::system: break;
    }
    return "SystemFailure";
}

PyObject* raise_current() {
    try {
        throw;
    } catch (const Error& e) {
        return raise(class_of(e.code), e.what());
    } catch (nb::python_error& e) {
        e.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& e) {
        PyErr_SetString(PyExc_RuntimeError, e.what());
    }
    return nullptr;
}

bool run_pending() {
    if constexpr (!kGil) {  // who drops the last reference to another thread's object leaves it to that thread's Python code
        static std::atomic<PyObject*> look{nullptr};
        PyObject* done = imported(look, "psyne.log", "nothing");
        if (done) take_gil([&] { done = PyObject_CallNoArgs(done); });  // a daemon thread may be told to exit there
        if (!done) return false;
        Py_DECREF(done);
    }
    return PyErr_CheckSignals() == 0;
}

bool deadline_from(PyObject* seconds, uint64_t& deadline) {
    deadline = kForever;
    if (!seconds || seconds == Py_None) return true;
    const double s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred()) return false;
    if (std::isnan(s) || s < 0) {
        PyErr_Format(PyExc_ValueError, "timeout is %R seconds; it must be None (wait for ever), 0 or more", seconds);
        return false;
    }
    if (s < 1e9) deadline = sys::now_ns() + static_cast<uint64_t>(s * 1e9);
    return true;
}

}  // namespace psyne::python
