// The layout of a message type: a numpy dtype and a shape, and descriptors for the fields of a Struct.
//
//   rows      one message after another                          address(i) = data + i·stride
//   columns   one field of all slots after another               address(f, i) = data + ring·f.offset + i·f.bytes
//   shaped    elements, and the dimensions at the end of the     │ elements …    │ 8 bytes a dimension │
//             room that the message has: its slot, its extent
#pragma once

#include "python.hpp"

namespace psyne::python {

constexpr int kMaxDims = 32;
constexpr int kMaxOwnDims = 8;  // of a shaped message
constexpr uint64_t kMostBytes = 1ull << 48;

/// Dimensions of one message.
struct Dims {
    int ndim = 0;
    npy_intp n[kMaxDims];
    /// How many elements; false when that is no number of bytes within `most`.
    bool bytes(uint64_t element, uint64_t most, uint64_t& total) const noexcept;
};

struct Layout {
    nb::object dtype;  // of one element; of the whole message for a Struct
    Dims dims;         // shaped: only ndim counts
    uint64_t room = 0;   // bytes of the elements; shaped: at most
    uint64_t bytes = 0;  // of a slot that has room for any
    uint64_t alignment = 1;
    bool zeroed = false;  // loans start zeroed
    bool fortran = false;
    bool columns = false;
    bool shaped = false;
    struct Column {
        nb::object name, dtype;
        uint64_t offset, bytes;  // of all columns before, of one element of this
    };
    std::vector<Column> fields;  // of columns

    Layout(nb::object element, nb::tuple shape, bool zero_loans, bool fortran_order, bool by_columns, uint64_t max_bytes);
    PyArray_Descr* descr() const { return reinterpret_cast<PyArray_Descr*>(dtype.ptr()); }
    uint64_t element() const { return static_cast<uint64_t>(PyDataType_ELSIZE(descr())); }
    /// float32[480, 640]
    std::string text() const;
    /// Same dtype and shape as an array?
    bool fits(PyArrayObject* array, bool many) const;
    bool operator==(const Layout& other) const;
    uint64_t dims_bytes() const noexcept { return 8 * static_cast<uint64_t>(dims.ndim); }
    /// Bytes of a shaped message whose elements have so many.
    uint64_t bytes_with(uint64_t elements) const noexcept { return round_up(elements, 8) + dims_bytes(); }
    /// Bytes that the elements of a shaped message may have where it has `given` bytes of room.
    uint64_t elements_in(uint64_t given) const noexcept { return std::min(room, given - std::min(given, dims_bytes())); }
    /// The least room of a message.
    uint64_t least() const noexcept { return shaped ? dims_bytes() : bytes; }
    /// Dimensions that lie at the end of the room of a shaped message. False with PeerCorrupted set.
    bool read_dims(const std::byte* data, uint64_t given, Dims& out) const;
    void write_dims(std::byte* data, uint64_t given, const Dims& d) const;
};

/// float32, or (stamp: uint64, accel: float32[3]) of a record.
std::string dtype_text(nb::handle dtype);

/// An array over foreign memory that keeps `base` alive. `count` < 0: one message, else that many, `stride` apart.
PyObject* array_over(PyArray_Descr* descr, const Dims& dims, bool fortran, std::byte* data, Py_ssize_t count,
                     uint64_t stride, PyObject* base, bool writable);

/// The native descriptor behind a field of a Struct.
struct FieldObject {
    PyObject_HEAD
    PyArray_Descr* descr;
    Dims dims;
    uint64_t offset, bytes;
    Layout* nested;    // of a Struct in a Struct, else null
    PyObject* type;    // its class
};
extern PyTypeObject* field_type;

}  // namespace psyne::python
