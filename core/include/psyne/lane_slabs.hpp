// The directory of a lane: which slabs it has. A slab stands in its cell from before it can be reached until it is retired.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include <psyne/channel_file.hpp>
#include <psyne/slab.hpp>

namespace psyne {

/// The slab in a cell, if there is one.
inline std::optional<SlabPlace> slab_in(const LaneRecord& lane, uint64_t index, uint64_t join, uint64_t cell) noexcept {
    const uint64_t w = lane.slabs[cell].slab.load(seq_cst);  // LINK
    if (number_in(w) == ~0ull || w != cell_word(join, number_in(w))) return std::nullopt;
    return SlabPlace{index, join, cell, number_in(w)};
}

/// All slabs of a lane, the oldest first.
inline std::vector<SlabPlace> slabs_of(const LaneRecord& lane, uint64_t index, uint64_t join) {
    std::vector<SlabPlace> found;
    for (uint64_t i = 0; i < kMaxSlabs; ++i)
        if (const auto place = slab_in(lane, index, join, i)) found.push_back(*place);
    std::sort(found.begin(), found.end(), [](const SlabPlace& a, const SlabPlace& b) { return a.number < b.number; });
    return found;
}

/// The oldest slab whose number is `least` or more. Two looks must agree: a slab that was linked before one that is seen
/// is seen by the second look, or was retired, and then it was let go by all.
inline std::optional<SlabPlace> slab_from(const LaneRecord& lane, uint64_t index, uint64_t join, uint64_t least) noexcept {
    const auto look = [&] {
        std::optional<SlabPlace> found;
        for (uint64_t i = 0; i < kMaxSlabs; ++i)
            if (const auto place = slab_in(lane, index, join, i); place && place->number >= least && (!found || place->number < found->number))
                found = place;
        return found;
    };
    for (auto found = look();;) {
        const auto again = look();
        if (again.has_value() == found.has_value() && (!found || again->number == found->number)) return found;
        found = again;
    }
}

/// How many positions of a closed slab have no message; nothing while one of them is not published.
/// `frozen`: its sender is dead, what it did not publish will never be.
inline std::optional<uint64_t> skips_in(const Slab& slab, bool frozen) noexcept {
    const uint64_t end = slab.end(), claim = slab.header->claim.load(acquire), told = slab.header->skips.load(acquire);
    const uint64_t ring = end - std::min(end - slab.first, slab.capacity);
    uint64_t skips = static_cast<uint32_t>(told);
    for (Cursor c = Cursor::at(ring, slab.first, slab.capacity); c.position < end; c.advance(slab.capacity)) {
        const uint64_t w = slab.ready[c.slot].load(acquire);  // PUBLISH
        if (lap_of(w) < c.lap && !frozen) return std::nullopt;
        const bool counted = told != 0 && c.position + slab.capacity < claim;
        skips += !counted && w != word(c.lap, Ready::ready);
    }
    return skips;
}

/// Tells each slab how many positions before it have no message, as far as that is known by now: for taps that jump.
/// `slabs` are those of a lane, in order, mapped writable.
inline void settle_skips(const std::vector<const Slab*>& slabs, bool frozen) noexcept {
    for (size_t i = 1; i < slabs.size(); ++i) {
        const Slab &before = *slabs[i - 1], &slab = *slabs[i];
        if (slab.header->skips_before.load(seq_cst) != 0) continue;
        const uint64_t sum = before.header->skips_before.load(seq_cst);
        if (sum == 0 || before.end() != slab.first) return;  // open, or one between them is gone
        const auto skips = skips_in(before, frozen);
        if (!skips) return;
        slab.header->skips_before.store(sum + *skips, seq_cst);  // SETTLE SKIPS
    }
}

/// Does a tap copy from this slab just now? After what it looks at was changed.
inline bool tapped(const ChannelFile& c, const Slab& slab) noexcept {
    full_fence();
    for (uint64_t i = 0; i < kMaxReceivers; ++i)
        if (c.member(i).tap_at.load(seq_cst) == slab.place.id()) return true;
    return false;
}

/// Gives back a closed slab that all stages let go and nobody's views use; false while a tap copies from it.
/// `pages`: at once, though others have it mapped; else they go with the last mapping. Who does it has it mapped writable.
inline bool retire(const ChannelFile& c, const Slab& slab, bool pages) noexcept {
    if (pages) {
        slab.header->claim.store(~0ull, seq_cst);  // RETIRE: before the look
        if (tapped(c, slab)) return false;
    }
    c.storage().remove(slab.place);
    SlabCell& cell = c.lane(slab.place.lane).slabs[slab.place.cell];
    uint64_t w = cell_word(slab.place.join, slab.place.number);
    cell.slab.compare_exchange_strong(w, 0, seq_cst);
    if (pages) slab.give_back_payload();  // last: who attaches a slab touches its pages
    return true;
}

}  // namespace psyne
