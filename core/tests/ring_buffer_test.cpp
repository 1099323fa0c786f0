// RingBuffer and DynamicRingBuffer by themselves: a memory without a name, no sender, no receiver.
#include <psyne/dynamic_ring_buffer.hpp>
#include <psyne/memory.hpp>

#include "check.hpp"

using namespace psyne;

namespace {

constexpr uint64_t kJoin = 1, kStride = 64;
constexpr uint64_t kMost = 1 << 20;  // bytes of a message

/// A memory with one lane and one stage.
struct Place {
    ChannelFile file = ChannelFile::make(Anonymous(), "ring", {"bytes", kMost, Pattern::spsc, {{"main"}}}, Anonymous::kGeneration);
    Gates gates{&file, 0};
    SlabSpec spec{kStride, kStride, 8, 1, {}, kMost};

    Place() {
        for (SlabCell& cell : file.lane(0).slabs) cell.slab.store(0, seq_cst);
        file.lane(0).state.store(stated(kJoin, LaneState::open), seq_cst);
    }
};

uint64_t value_at(const std::byte* data) {
    uint64_t v;
    std::memcpy(&v, data, 8);
    return v;
}
void write_value(const Loan& loan, uint64_t value) { std::memcpy(loan.data, &value, 8); }

/// One who reads: its words in each slab say how far it has come.
struct Reader {
    const ChannelFile& file;
    Slab slab;
    Cursor next;

    explicit Reader(const ChannelFile& f) : file(f) { go_to(0); }
    void go_to(uint64_t number) {
        const auto place = slab_from(file.lane(0), 0, kJoin, number);
        CHECK(place.has_value());
        slab = Slab::attach(file.storage(), *place, 8, false, sys::Populate::no);
        next = {slab.first, 0, 1};
    }
    /// The next message, left in its slot; null when there is none.
    const std::byte* look() {
        while (lap_of(slab.ready[next.slot].load(acquire)) < next.lap) {
            if (next.position != slab.end()) return nullptr;
            go_to(slab.place.number + 1);
        }
        return slab.data(next.slot);
    }
    void let_go() {
        slab.row(0)[next.slot].store(word(next.lap, Ack::done), release);
        next.advance(slab.capacity);
    }
    uint64_t take() {
        const std::byte* data = look();
        CHECK(data != nullptr);
        const uint64_t v = value_at(data);
        let_go();
        return v;
    }
};

/// A ring that grows, and who writes there.
struct Growing {
    Place place;
    DynamicRingBuffer ring;
    uint64_t dropped = 0;

    explicit Growing(Growth growth, bool extents = false)
        : ring(place.gates, kJoin, with(place.spec, extents), growth, [](uint64_t room) { return round_up(room, kStride); }, [] {}) {
        ring.start();
    }
    static SlabSpec with(SlabSpec spec, bool extents) {
        spec.columns.extents = extents;
        return spec;
    }
    bool try_lend(Loan& loan, uint64_t bytes = 8) {
        const Turn turn(&ring.turns);
        if (bytes > ring.current().slab.room && ring.place(bytes) == DynamicRingBuffer::Where::nowhere) return false;
        if (!ring.current().claim(1) && (!ring.grow(1) || !ring.current().claim(1))) return false;
        ring.current().lend(1, loan);
        if (ring.settle_in(loan, bytes)) return true;
        ring.current().give_back(loan, 0, false);
        return false;
    }
    Loan lend(uint64_t bytes = 8) {
        Loan loan;
        for (const uint64_t end = sys::now_ns() + 20'000'000'000; !try_lend(loan, bytes); ::usleep(100)) CHECK(sys::now_ns() < end);
        return loan;
    }
    void publish(const Loan& loan) { loan.ring->publish(loan, 1, dropped); }
    void put(uint64_t value) {
        const Loan loan = lend();
        write_value(loan, value);
        publish(loan);
    }
};

template <class F>
void until(F&& f) {
    for (const uint64_t end = sys::now_ns() + 20'000'000'000; !f(); ::usleep(1000)) CHECK(sys::now_ns() < end);
}

}  // namespace

TESTS(ring_buffer_test) {
    return check::run({
        {"a ring lends its slots in order, and again once they were let go",
         [] {
             Place place;
             SlabAllocator allocator(place.file, 0, kJoin);
             RingBuffer ring(allocator.allocate(place.spec), place.gates);
             allocator.link(ring.slab, 0);
             Reader reader(place.file);
             uint64_t dropped = 0;
             for (uint64_t n = 0; n < 100; ++n) {
                 Loan loan;
                 CHECK(ring.claim(1));
                 ring.lend(1, loan);
                 CHECK_EQ(loan.position, n);
                 CHECK_EQ(loan.room, kStride);
                 write_value(loan, n);
                 CHECK(reader.look() == nullptr);
                 ring.publish(loan, 1, dropped);
                 CHECK_EQ(ring.occupied(), 1u);
                 CHECK_EQ(reader.take(), n);
                 CHECK(ring.passed());
             }
         }},
        {"a ring is full until the oldest slot is let go",
         [] {
             Place place;
             SlabAllocator allocator(place.file, 0, kJoin);
             RingBuffer ring(allocator.allocate(place.spec), place.gates);
             allocator.link(ring.slab, 0);
             Reader reader(place.file);
             uint64_t dropped = 0;
             Loan loan;
             CHECK(ring.claim(8));
             ring.lend(8, loan);
             ring.publish(loan, 8, dropped);
             CHECK(!ring.claim(1));
             CHECK_EQ(ring.occupied(), 8u);
             (void)reader.take();
             CHECK(ring.claim(1));
             CHECK(!ring.claim(2));
         }},
        {"a loan that is given back was never there",
         [] {
             Place place;
             SlabAllocator allocator(place.file, 0, kJoin);
             RingBuffer ring(allocator.allocate(place.spec), place.gates);
             allocator.link(ring.slab, 0);
             Loan first, second;
             CHECK(ring.claim(3));
             ring.lend(1, first), ring.lend(2, second);
             CHECK(!ring.give_back(second, 0, false));
             CHECK_EQ(ring.next.position, 1u);
             CHECK(!ring.give_back(first, 0, false));
             CHECK_EQ(ring.next.position, 0u);
         }},
        {"a fixed allocator has one slab",
         [] {
             Place place;
             SlabAllocator allocator(place.file, 0, kJoin);
             const Slab slab = allocator.allocate(place.spec);
             CHECK_EQ(allocator.reserved(), slab.reserved());
             try {
                 (void)allocator.allocate(place.spec);
                 check::fail("there are two");
             } catch (const Error& e) {
                 CHECK_EQ(e.code, Errc::busy);
             }
         }},
        {"a ring that is full goes on in a larger one, which readers find by the close of the one before",
         [] {
             Growing g({64 << 20, 1'000'000'000});
             Reader reader(g.place.file);
             for (uint64_t n = 0; n < 1000; ++n) g.put(n);
             CHECK(g.ring.seen().grown >= 6);
             for (uint64_t n = 0; n < 1000; ++n) CHECK_EQ(reader.take(), n);
             CHECK(reader.look() == nullptr);
         }},
        {"after low load it is small again, and the memory is given back",
         [] {
             Growing g({64 << 20, 5'000'000});
             Reader reader(g.place.file);
             const uint64_t first = g.ring.seen().reserved;
             for (uint64_t n = 0; n < 5000; ++n) g.put(n);
             CHECK(g.ring.seen().reserved > 2 * first);
             for (uint64_t n = 0; n < 5000; ++n) CHECK_EQ(reader.take(), n);
             until([&] { return g.ring.seen().slabs == 1 && g.ring.seen().reserved == first; });
             CHECK(g.ring.seen().shrunk >= 1);
         }},
        {"a message that is longer than a slot has an extent or longer slots, and its bytes",
         [] {
             Growing g({64 << 20, 5'000'000}, true);
             Reader reader(g.place.file);
             const uint64_t first = g.ring.seen().reserved;
             for (const uint64_t bytes : {uint64_t{8}, uint64_t{64}, uint64_t{72}, uint64_t{4096}, uint64_t{100'000}, kMost, uint64_t{8}}) {
                 const Loan loan = g.lend(bytes);
                 CHECK(loan.room >= bytes);
                 std::memset(loan.data, static_cast<int>(bytes % 251), bytes);
                 g.publish(loan);
                 const std::byte* data = reader.look();
                 CHECK(data != nullptr);
                 for (uint64_t i = 0; i < bytes; ++i) CHECK(data[i] == static_cast<std::byte>(bytes % 251));
                 reader.let_go();
             }
             until([&] { return g.ring.seen().reserved <= first; });
         }},
        {"beyond its budget it stays as it is, and says why",
         [] {
             Growing g({256 * 1024, 1'000'000'000});
             Reader reader(g.place.file);
             Loan loan;
             uint64_t sent = 0;
             for (const uint64_t end = sys::now_ns() + 20'000'000'000; g.ring.refused().empty(); ::usleep(100)) {
                 CHECK(sys::now_ns() < end);
                 while (g.try_lend(loan)) {
                     write_value(loan, sent++);
                     g.publish(loan);
                 }
             }
             CHECK(g.ring.refused().find("budget=262144") != std::string::npos);
             CHECK(g.ring.seen().reserved <= 256 * 1024);
             for (uint64_t n = 0; n < sent; ++n) CHECK_EQ(reader.take(), n);
         }},
    });
}
