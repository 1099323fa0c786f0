// For devices: which pages of which file have a message, and mappings of them that belong to nobody but the device.
//
//   file of a slab   │ header · words │ payloads ············· │      the region of each message in it
//   its extents      │ · · · │▓▓▓▓▓▓▓▓▓│ · · · · · · · · · · · │      a region for each message, as long as that lives
//
// A device registers a mapping of its own. So nobody takes the memory from under it, however long the driver needs.
#include "message.hpp"

namespace psyne::python {

namespace {

/// What the file of a region was when it was looked at.
struct stat looked_at(const sys::Fd& file) {
    struct stat st {};
    if (::fstat(file.get(), &st) != 0) sys::fail_errno("cannot look at the memory of a channel");
    return st;
}

/// Pages of a slab's file, mapped once more.
struct DeviceMapping {
    sys::Fd file;  // keeps the place: nobody else's slab comes there
    std::weak_ptr<const SlabFiles> slab;
    uint64_t offset;
    bool writable, named;
    sys::Mapping pages;  // last: unmapped before the file is let go

    DeviceMapping(const Stretch& from, bool write)
        : file(sys::duplicate(*from.file)), slab(from.files), offset(from.offset), writable(write), named(looked_at(file).st_nlink != 0),
          pages(sys::map(file, from.bytes, write, sys::Populate::no, from.offset)) {}

    void close() {
        pages = sys::Mapping();
        file.reset();
    }
    /// No other message will come here: the slab is unlinked, or nobody in this process maps it.
    bool over() const {
        struct stat st {};
        return slab.expired() || (named && file && ::fstat(file.get(), &st) == 0 && st.st_nlink == 0);
    }
};

/// Where the bytes of an array lie.
struct Region {
    nb::object lease;  // keeps the message
    Stretch pages;
    uint64_t device, inode, bytes;  // bytes: from the first to the last of the array, gaps included
    bool writable;
};

/// The bytes that an array covers.
std::pair<const std::byte*, uint64_t> span_of(PyArrayObject* a) {
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(a));
    const std::byte *low = data, *high = data + PyDataType_ELSIZE(PyArray_DESCR(a));
    if (PyArray_SIZE(a) == 0) return {data, 0};
    for (int i = 0; i < PyArray_NDIM(a); ++i) {
        const npy_intp reach = (PyArray_DIM(a, i) - 1) * PyArray_STRIDE(a, i);
        (reach < 0 ? low : high) += reach;
    }
    return {low, static_cast<uint64_t>(high - low)};
}

[[noreturn]] void refused(const char* error, const std::string& text) {
    raise(error, text);
    throw nb::python_error();
}

Region region_of(nb::object array) {
    if (!PyArray_Check(array.ptr())) throw nb::type_error("region() takes a numpy array");
    auto* a = reinterpret_cast<PyArrayObject*>(array.ptr());
    LeaseObject* lease = lease_under(array.ptr());
    if (!lease)
        refused("CannotShare", "this array is not in the memory of a channel, so no device can have it without a copy: copy it "
                               "into a loan, or take the array of a message");
    if (lease->generation != fork_generation.load(std::memory_order_relaxed))
        refused("ForkedError", "this array is of a message of the parent process; open an end of your own in the child");
    if (!lease->slab)
        refused("CannotShare", "these bytes are in private memory of this process (a message that was made, copied, made private "
                               "or came from a tap), so no device can have them without a copy. Copy them into a loan");
    const auto [data, bytes] = span_of(a);
    Region r{nb::borrow(reinterpret_cast<PyObject*>(lease)), lease->slab->stretch_of(data), 0, 0, bytes, false};
    if (r.pages.at + bytes > r.pages.bytes)
        refused("PeerCorrupted", "a message of " + std::to_string(bytes) + " bytes lies in pages of " +
                                     std::to_string(r.pages.bytes) + "; its sender is damaged or hostile");
    const struct stat st = looked_at(*r.pages.file);
    r.device = static_cast<uint64_t>(st.st_dev);
    r.inode = st.st_ino;
    const Hold::Kind kind = lease->hold.kind;  // of a message that is over the views hold it, and nobody may write
    r.writable = PyArray_ISWRITEABLE(a) && (kind == Hold::Kind::nothing || kind == Hold::Kind::taken);
    return r;
}

/// As `like`, but of other bytes, which `owner` keeps.
nb::object array_at(nb::object like, uintptr_t address, nb::object owner, bool writable) {
    if (!PyArray_Check(like.ptr()) || address == 0) throw nb::type_error("array_at() takes a numpy array and an address");
    auto* a = reinterpret_cast<PyArrayObject*>(like.ptr());
    nb::object made = nb::steal(PyArray_NewFromDescr(
        &PyArray_Type, reinterpret_cast<PyArray_Descr*>(Py_NewRef(reinterpret_cast<PyObject*>(PyArray_DESCR(a)))), PyArray_NDIM(a),
        PyArray_DIMS(a), PyArray_STRIDES(a), reinterpret_cast<void*>(address), writable ? NPY_ARRAY_WRITEABLE : 0, nullptr));
    if (!made.is_valid() || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(made.ptr()), owner.release().ptr()) < 0)
        throw nb::python_error();
    return made;
}

}  // namespace

void bind_region(nb::module_& m) {
    nb::class_<DeviceMapping>(m, "Mapping", "Pages of a channel's memory, mapped once more: for a device alone.")
        .def_prop_ro("address", [](const DeviceMapping& p) { return reinterpret_cast<uintptr_t>(p.pages.data()); }, nb::lock_self(),
                     "Of the first byte, a multiple of the page; 0 once it is closed.")
        .def_prop_ro("nbytes", [](const DeviceMapping& p) { return p.pages.size(); }, nb::lock_self(), "A multiple of the page.")
        .def_prop_ro("writable", [](const DeviceMapping& p) { return p.writable; })
        .def_prop_ro("fd", [](const DeviceMapping& p) { return p.file.get(); }, nb::lock_self(), "Of the file; it stays the mapping's.")
        .def_prop_ro("offset", [](const DeviceMapping& p) { return p.offset; }, "Where it begins in that file.")
        .def_prop_ro("over", &DeviceMapping::over, nb::lock_self(),
                     "No other message will come here: the slab is unlinked, or nobody else in this process maps it.")
        .def("close", &DeviceMapping::close, nb::lock_self(), "Unmap it. The device must have let it go.");
    nb::class_<Region>(m, "Region", "Which pages of which file have the bytes of an array of a message.")
        .def_prop_ro("key",
                     [](const Region& r) { return nb::make_tuple(r.device, r.inode, r.pages.offset, r.pages.bytes); },
                     nb::sig("def key(self) -> tuple[int, int, int, int]"),
                     "(st_dev, st_ino, offset in the file, bytes) of the pages.")
        .def_prop_ro("offset", [](const Region& r) { return r.pages.at; }, "Of the array's lowest byte in the pages.")
        .def_prop_ro("nbytes", [](const Region& r) { return r.bytes; }, "From the array's lowest byte to its last, gaps included.")
        .def_prop_ro("writable", [](const Region& r) { return r.writable; }, "May the array be written now?")
        .def_prop_ro("end", [](const Region& r) { return nb::borrow(reinterpret_cast<LeaseObject*>(r.lease.ptr())->end); },
                     "The end that has the message.")
        .def_prop_ro("lasting", [](const Region& r) { return r.pages.lasting; },
                     "The pages serve later messages too. Else they are given back when this message is let go.")
        .def("map",
             [](const Region& r, bool writable) {
                 if (writable && !r.writable)
                     refused("ReadOnly", "this message is read-only: it was received by a stage that does not mutate, or is over");
                 return new DeviceMapping(r.pages, writable);
             },
             nb::arg("writable"), "Map the pages once more. Raises ReadOnly.");
    m.def("array_at", array_at, nb::arg("like"), nb::arg("address"), nb::arg("owner"), nb::arg("writable"),
          nb::sig("def array_at(like: numpy.typing.NDArray[typing.Any], address: int, owner: object, writable: bool) -> "
                  "numpy.typing.NDArray[typing.Any]"),
          "An array of the same dtype, shape and strides over bytes that the owner keeps.");
    m.def("region", region_of, nb::arg("array"),
          nb::sig("def region(array: numpy.typing.NDArray[typing.Any]) -> Region"),
          "Where the bytes of an array of a message lie. Raises CannotShare for memory that is no channel's, ForkedError.");
}

}  // namespace psyne::python
