// What send() copies from: a message, a memoryview, an array, bytes. Exact dtype and shape, no silent casts.
#pragma once

#include "ends.hpp"

namespace psyne::python {

struct Source {
    const std::byte* data = nullptr;  // contiguous bytes, or null: copy from `array`
    uint64_t count = 1;
    PyObject* array = nullptr;  // owned: an array made of some other exporter
    PyObject* strided = nullptr;  // borrowed: an array that is not contiguous, or a scalar

    ~Source() { Py_XDECREF(array); }
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    /// Looks at `o` as one message (or `many` along a first axis); false with LayoutMismatch set.
    bool of(PyObject* o, const Layout& layout, bool many);
    /// Copies `n` messages from the `first`-th on into slots `stride` apart.
    bool copy_to(std::byte* to, uint64_t n, uint64_t first, const Layout& layout, uint64_t stride) const;

private:
    bool of_array(PyArrayObject* a, const Layout& layout, bool many);
    bool of_view(const Py_buffer& b, const Layout& layout, bool many);
};

}  // namespace psyne::python
