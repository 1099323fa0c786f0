// SlabAllocator and DynamicSlabAllocator by themselves: the memory of messages without a channel around it.
//
//   allocator ──▶ pool ◀── memory ◀── slab        the slab's memory is given back when the slab and the last
//                             ▲────── array       array over it are gone
#include "layout.hpp"

#include <psyne/slab_allocator.hpp>

#include <mutex>

namespace psyne::python {

namespace {

constexpr uint64_t kJoin = 1;  // of the only one who allocates

/// A memory without a name, of which one lane is used.
struct Pool {
    ChannelFile file;
    std::unique_ptr<SlabAllocator> allocator;
    std::mutex lock;
    const pid_t owner = ::getpid();

    explicit Pool(uint64_t budget) : file(ChannelFile::make(Anonymous(), "slabs", {}, Anonymous::kGeneration)) {
        if (budget != 0) allocator = std::make_unique<DynamicSlabAllocator>(file, 0, kJoin, budget);
        else allocator = std::make_unique<SlabAllocator>(file, 0, kJoin);
        allocator->begin();
    }
    Slab allocate(uint64_t slot_bytes, uint64_t capacity) {
        if (slot_bytes == 0 || capacity == 0)
            fail(Errc::invalid, "a slab has at least one slot of at least one byte; got slot_bytes=" + std::to_string(slot_bytes) +
                                    ", capacity=" + std::to_string(capacity));
        std::lock_guard guard(lock);
        if (owner != ::getpid())
            fail(Errc::invalid, "this allocator belongs to the parent process; make one in the child");
        Slab slab = allocator->allocate({slot_bytes, slot_bytes, capacity, 0, {}, slot_bytes});
        allocator->link(slab, 0);
        return slab;
    }
    void give_back(Slab& slab) noexcept {
        if (owner != ::getpid()) return;  // a forked child: the slab is its parent's
        std::lock_guard guard(lock);
        const SlabPlace place = slab.place;
        retire(file, slab, true);
        slab = Slab{};  // unmapped: its place may be used again
        file.storage().remove(place);
        allocator->record().slabs[place.cell].bytes.store(0, seq_cst);
    }
};

struct Fixed {
    std::shared_ptr<Pool> pool = std::make_shared<Pool>(0);
    uint64_t slot_bytes, capacity;
    Fixed(uint64_t bytes, uint64_t slots) : slot_bytes(bytes), capacity(slots) {}
};
struct Dynamic {
    uint64_t budget;
    std::shared_ptr<Pool> pool;
    explicit Dynamic(uint64_t bytes) : budget(bytes) {
        if (bytes == 0) fail(Errc::invalid, "budget is a number of bytes, 1 or more; got 0");
        pool = std::make_shared<Pool>(bytes);
    }
};

struct Allocated {
    std::shared_ptr<Pool> pool;
    Slab slab;
};
constexpr const char* kMemory = "psyne slab";
void let_go(PyObject* memory) {
    auto* a = static_cast<Allocated*>(PyCapsule_GetPointer(memory, kMemory));
    a->pool->give_back(a->slab);
    delete a;
}

struct SlabObject {
    nb::object memory;  // an Allocated: arrays keep it; empty once it was let go
    uint64_t bytes, slot_bytes, capacity;

    SlabObject(const std::shared_ptr<Pool>& pool, uint64_t slot, uint64_t slots) : slot_bytes(slot), capacity(slots) {
        auto a = std::make_unique<Allocated>(pool, pool->allocate(slot, slots));
        bytes = a->slab.reserved();
        memory = nb::steal(PyCapsule_New(a.get(), kMemory, let_go));
        if (!memory.is_valid()) throw nb::python_error();
        count_as_one(memory.ptr());
        (void)a.release();
    }
    /// Null with an exception set.
    PyObject* array() const {
        if (!memory.is_valid()) return raise("MessageReleased", "this slab was freed; allocate() another one");
        const auto* a = static_cast<Allocated*>(PyCapsule_GetPointer(memory.ptr(), kMemory));
        Dims dims;
        dims.ndim = 1;
        dims.n[0] = static_cast<npy_intp>(slot_bytes);
        PyArray_Descr* descr = PyArray_DescrFromType(NPY_UBYTE);
        PyObject* made = array_over(descr, dims, false, a->slab.payload, static_cast<Py_ssize_t>(capacity), slot_bytes, memory.ptr(), true);
        Py_DECREF(descr);
        return made;
    }
    void free() {
        if (memory.is_valid() && references(memory.ptr()) > 1) {
            raise("ViewsAlive", "arrays still use this slab; drop them, then free() it");
            throw nb::python_error();
        }
        memory.reset();
    }
};

int slab_buffer(PyObject* o, Py_buffer* view, int flags) {
    PyObject* array = nb::inst_ptr<SlabObject>(o)->array();
    view->obj = nullptr;
    if (!array) return -1;
    const int result = PyObject_GetBuffer(array, view, flags);
    Py_DECREF(array);
    return result;
}

template <class A>
void bind_both(nb::class_<A>& c) {
    c.def_prop_ro("reserved", [](const A& a) { return a.pool->allocator->reserved(); }, "Bytes of memory that its slabs have.")
        .def_prop_ro("slabs", [](const A& a) { return a.pool->allocator->slabs(); }, "Slabs that it has now.");
}

}  // namespace

void bind_allocator(nb::module_& m) {
    static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(slab_buffer)}, {0, nullptr}};
    nb::class_<SlabObject>(m, "Slab", nb::type_slots(slots),
                           "Memory for messages, all of whose pages are there: a writable uint8 array of (capacity, slot_bytes).\n\n"
                           "It begins at a page. It is given back once it and the last array or memoryview over it are gone.")
        .def_prop_ro("array", [](const SlabObject& s) {
                         PyObject* made = s.array();
                         if (!made) throw nb::python_error();
                         return nb::steal(made);
                     },
                     nb::lock_self(), nb::sig("def array(self) -> numpy.typing.NDArray[numpy.uint8]"),
                     "All of it as a numpy array. Raises MessageReleased after free().")
        .def("free", &SlabObject::free, nb::lock_self(), "Give it back now. Raises ViewsAlive while arrays use it.")
        .def_ro("bytes", &SlabObject::bytes, "That it takes of the budget, with what the slab says of itself.")
        .def_ro("slot_bytes", &SlabObject::slot_bytes)
        .def_ro("capacity", &SlabObject::capacity);
    nb::class_<Fixed> fixed(m, "SlabAllocator",
                            "Has one slab of `capacity` slots: what a channel of a fixed ring is made of, by itself.\n\n"
                            "Slots have `slot_bytes` bytes. Raises InvalidArgument.");
    fixed.def(nb::init<uint64_t, uint64_t>(), nb::arg("slot_bytes"), nb::arg("capacity"))
        .def("allocate", [](const Fixed& a) { return new SlabObject(a.pool, a.slot_bytes, a.capacity); },
             "The slab. Raises NoSpace, and ChannelBusy for a second one.");
    bind_both(fixed);
    nb::class_<Dynamic> dynamic(m, "DynamicSlabAllocator",
                                "Has up to 32 slabs of any sizes, which come and go, within `budget` bytes: what a ring that grows is\n"
                                "made of, by itself.\n\nRaises InvalidArgument.");
    dynamic.def(nb::init<uint64_t>(), nb::arg("budget"))
        .def("allocate", [](const Dynamic& a, uint64_t slot_bytes, uint64_t capacity) { return new SlabObject(a.pool, slot_bytes, capacity); },
             nb::arg("slot_bytes"), nb::arg("capacity"),
             "Another slab. Raises NoSpace beyond the budget, ChannelBusy for the 33rd, InvalidArgument.")
        .def_ro("budget", &Dynamic::budget);
    bind_both(dynamic);
}

}  // namespace psyne::python
