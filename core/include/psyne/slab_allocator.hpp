// Where the rings of a lane come from: SlabAllocator has one slab, DynamicSlabAllocator as many as a budget allows.
//
//   allocate()                    link()                   retire()
//   ───────────▶  complete, but  ────────▶  in the lane's ─────────▶  gone
//                 nobody finds it           directory       once it is closed and let go
#pragma once

#include <mutex>

#include <psyne/lane_slabs.hpp>

namespace psyne {

class SlabAllocator {
public:
    /// For the lane of one sender. `file` must outlive it.
    SlabAllocator(const ChannelFile& file, uint64_t lane, uint64_t join) : file_(file), lane_(lane), join_(join) {}
    SlabAllocator(const SlabAllocator&) = delete;
    SlabAllocator& operator=(const SlabAllocator&) = delete;
    virtual ~SlabAllocator() = default;

    /// Forgets what a former sender of the lane had: before the lane is open.
    void begin() noexcept {
        for (SlabCell& cell : record().slabs) {
            cell.slab.store(0, seq_cst);
            cell.bytes.store(0, seq_cst);
        }
    }

    /// The slab, complete and prefaulted. Throws Errc::no_space; Errc::busy where there is one already.
    virtual Slab allocate(const SlabSpec& spec) {
        if (number_ != 0) fail(Errc::busy, "a SlabAllocator has one slab; a DynamicSlabAllocator has many");
        return make(spec);
    }

    /// From now on others find it; its first message has this position.
    void link(Slab& slab, uint64_t position) noexcept {
        slab.begin_at(position);
        if (position == 0) slab.header->skips_before.store(1, seq_cst);  // nothing is before it
        record().slabs[slab.place.cell].slab.store(cell_word(join_, slab.place.number), seq_cst);  // LINK
    }

    /// Bytes that are reserved for the lane.
    uint64_t reserved() const noexcept { return reserved_by(record()); }
    /// Slabs that others find.
    uint64_t slabs() const noexcept {
        uint64_t n = 0;
        for (const SlabCell& cell : record().slabs) n += cell.slab.load(relaxed) != 0;
        return n;
    }
    LaneRecord& record() const noexcept { return file_.lane(lane_); }

protected:
    const ChannelFile& file_;
    uint64_t lane_, join_;

    /// Where nobody allocates any more, what is left in cells without a slab means nothing.
    static uint64_t reserved_by(const LaneRecord& lane, bool open = true) noexcept {
        uint64_t sum = 0;
        for (const SlabCell& cell : lane.slabs) sum += open || cell.slab.load(relaxed) != 0 ? cell.bytes.load(relaxed) : 0;
        return sum;
    }

    /// From any thread.
    Slab make(const SlabSpec& spec) {
        for (uint64_t from = 0;;) {
            const SlabPlace place = reserve(Slab::bytes_of(spec), from);
            SlabCell& cell = record().slabs[place.cell];
            try {
                check_budget();
                if (Slab slab = Slab::create(file_.storage(), place, spec)) return slab;
            } catch (...) {
                file_.storage().remove(place);
                cell.bytes.store(0, seq_cst);
                throw;
            }
            cell.bytes.store(0, seq_cst);
            from = place.cell + 1;  // somebody still maps what was there
        }
    }
    virtual void check_budget() const {}

private:
    std::mutex lock_;
    uint64_t number_ = 0;  // of the next slab

    /// A cell, from `from` on, and a number for a slab. Throws Errc::busy.
    SlabPlace reserve(uint64_t bytes, uint64_t from) {
        std::lock_guard guard(lock_);
        for (uint64_t i = from; i < kMaxSlabs; ++i) {
            const SlabPlace place{lane_, join_, i, number_};
            SlabCell& cell = record().slabs[i];
            if (cell.slab.load(relaxed) != 0 || cell.bytes.load(relaxed) != 0) continue;
            cell.bytes.store(bytes, seq_cst);
            ++number_;
            return place;
        }
        fail(Errc::busy, "all " + std::to_string(kMaxSlabs) + " places of a lane of " + file_.address() +
                             " are still mapped by others; release messages, or close ends");
    }
};

/// Slabs come and go; together with those of all other lanes they keep within `budget` bytes, but for each one's first.
class DynamicSlabAllocator final : public SlabAllocator {
public:
    DynamicSlabAllocator(const ChannelFile& file, uint64_t lane, uint64_t join, uint64_t most)
        : SlabAllocator(file, lane, join), budget(most) {}

    const uint64_t budget;

    /// Another slab. Throws Errc::no_space, also where it is beyond the budget; Errc::busy without a place.
    Slab allocate(const SlabSpec& spec) override { return make(spec); }

    /// A slab that nobody has found goes again, once it is unmapped.
    void forget(const SlabPlace& place) noexcept {
        file_.storage().remove(place);
        record().slabs[place.cell].bytes.store(0, seq_cst);
    }
    /// A closed slab goes, which all have let go; false while a tap copies from it.
    bool retire(const Slab& slab) noexcept {
        if (!psyne::retire(file_, slab, true)) return false;
        record().slabs[slab.place.cell].bytes.store(0, seq_cst);
        return true;
    }

    /// Pages beside a slot for a message of `bytes` bytes, where it has `had`. How many there are now. Throws Errc::no_space.
    uint64_t add_extent(const Slab& slab, uint64_t slot, uint64_t had, uint64_t bytes) {
        const uint64_t pages = Slab::extent_pages(bytes);
        if (pages <= had) return had;
        Atomic64& used = record().slabs[slab.place.cell].bytes;
        used.fetch_add(pages - had, seq_cst);
        try {
            check_budget();
            slab.back_extent(file_.storage(), slot, pages);
        } catch (...) {
            used.fetch_sub(pages - had, seq_cst);
            throw;
        }
        return pages;
    }
    void remove_extent(const Slab& slab, uint64_t slot, uint64_t pages) noexcept {
        slab.give_back_extent(slot, pages);
        record().slabs[slab.place.cell].bytes.fetch_sub(pages, seq_cst);
    }
    /// Does a tap copy from this slab just now?
    bool tapped(const Slab& slab) const noexcept { return psyne::tapped(file_, slab); }

    /// Bytes reserved for all lanes of the channel.
    uint64_t reserved_by_all() const noexcept {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < kMaxLanes; ++i)
            if (const auto s = state_in<LaneState>(file_.lane(i).state.load(relaxed)); s != LaneState::free || i == lane_)
                sum += reserved_by(file_.lane(i), s == LaneState::open || i == lane_);
        return sum;
    }

protected:
    /// Each sender may have its first slab, whatever the others have: else nobody could open an end of a full channel.
    void check_budget() const override {
        if (const uint64_t sum = slabs() == 0 ? reserved() : reserved_by_all(); sum > budget)
            fail(Errc::no_space, "budget=" + std::to_string(budget) + " of " + file_.address() + " is used up: " +
                                     std::to_string(sum) + " bytes would be reserved in " + std::to_string(slabs()) +
                                     " slabs of this sender and those of others; raise budget=");
    }
};

}  // namespace psyne
