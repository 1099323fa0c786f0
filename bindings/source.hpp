// What send() copies from: a message, a memoryview, an array, bytes, text. Exact dtype and shape, no silent casts.
#pragma once

#include "ends.hpp"

namespace psyne::python {

class Source {
public:
    uint64_t count = 1;

    ~Source() { Py_XDECREF(array_); }
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    /// Looks at `o` as one message (or `many` along a first axis); false with LayoutMismatch set.
    bool of(PyObject* o, const End& end, const Kind& kind, bool many);
    /// Copies `n` messages from the `first`-th on.
    bool copy_to(const Place& to, uint64_t n, uint64_t first) const;
    /// Of one message.
    uint64_t bytes() const noexcept { return layout_->shaped ? bytes_ : layout_->room; }

private:
    const Layout* layout_ = nullptr;
    const std::byte* data_ = nullptr;        // contiguous bytes
    const MessageObject* message_ = nullptr;
    Dims dims_;                               // of a shaped message
    uint64_t bytes_ = 0;                      // of a shaped message
    PyObject* array_ = nullptr;    // owned: an array or a message made of some other object
    PyObject* strided_ = nullptr;  // borrowed: an array that is not contiguous, or a scalar
    PyObject* fields_ = nullptr;   // borrowed: something with a column for each field

    bool look(PyObject* o, bool many);
    bool of_buffer(PyObject* o, bool many);
    bool of_message(MessageObject* m);
    bool of_array(PyArrayObject* a, bool many);
    bool of_view(const Py_buffer& b, bool many);
    bool of_bytes(const void* data, Py_ssize_t size);
    bool of_columns(PyObject* o, bool many);
    bool copy_columns(const Place& to, uint64_t n, uint64_t first) const;
};

}  // namespace psyne::python
