// Messages that are longer than the slots of their ring: each has pages of its own beside its slot, while it is needed.
//
//   slab      │ slot 0 │ slot 1 │ slot 2 │ …      the word of slot 1 in the column of extents: how many bytes
//   extents   │        │▓▓▓▓▓▓▓▓▓▓▓▓ · · │ …      sparse; the extent of slot 1, its room as large as the longest message
//
// Which pages there are changes who has the turn (turn.hpp); in older rings, the thread. A tap may copy from pages that
// nobody else needs: their word is marked as gone before the look whether one does, and then they are kept for a while.
#pragma once

#include <psyne/ring_buffer.hpp>
#include <psyne/slab_allocator.hpp>

namespace psyne {

class Extents {
public:
    explicit Extents(DynamicSlabAllocator& allocator) : allocator_(allocator) {}

    /// That have pages now, of all rings; from any thread.
    uint64_t bytes() const noexcept { return bytes_.load(relaxed); }

    /// The slot of a loan has room for its message.
    static void leave(const Loan& loan) noexcept {
        for (uint64_t i = 0; loan.ring->slab.extents && i < loan.count; ++i)
            if (Atomic64& word = loan.ring->slab.extents[loan.slot + i]; word.load(relaxed) != 0) word.store(0, release);
    }
    /// Pages for a loan of one message of `bytes` bytes. Throws Errc::no_space, Errc::invalid.
    void take(Loan& loan, uint64_t bytes) {
        const RingBuffer& ring = *loan.ring;
        uint64_t& pages = loan.ring->extent_pages[loan.slot];
        const uint64_t had = std::exchange(pages, allocator_.add_extent(ring.slab, loan.slot, pages, bytes));
        bytes_.fetch_add(pages - had, relaxed);
        ring.slab.extents[loan.slot].store(bytes, release);
        loan.data = ring.slab.data(loan.slot);
        loan.room = bytes;
    }
    /// Gives back those of messages that are let go by all; how many bytes.
    uint64_t give_back(RingBuffer& ring) noexcept {
        uint64_t sum = 0;
        for (uint64_t slot = 0; slot < ring.extent_pages.size(); ++slot) {
            uint64_t& pages = ring.extent_pages[slot];
            if (pages == 0 || !unused(ring, slot) || allocator_.tapped(ring.slab)) continue;
            allocator_.remove_extent(ring.slab, slot, pages);
            sum += std::exchange(pages, 0);
        }
        bytes_.fetch_sub(sum, relaxed);
        return sum;
    }
    /// The slab was retired with all its pages.
    void forget(RingBuffer& ring) noexcept {
        for (uint64_t& pages : ring.extent_pages) bytes_.fetch_sub(std::exchange(pages, 0), relaxed);
    }

private:
    DynamicSlabAllocator& allocator_;
    std::atomic<uint64_t> bytes_{0};

    /// Says so in its word, for those who look on.
    static bool unused(const RingBuffer& ring, uint64_t slot) noexcept {
        Atomic64& word = ring.slab.extents[slot];
        const uint64_t w = word.load(relaxed), lap = ring.lap_lent(slot);
        if (w == 0 || (w & kGone) != 0) return true;
        if (lap_of(ring.slab.ready[slot].load(acquire)) < lap || ring.held(slot) || !ring.let_go_by_all(slot, lap, Next::writes)) return false;
        word.store(w | kGone, seq_cst);  // GONE: before the look
        return true;
    }
};

}  // namespace psyne
