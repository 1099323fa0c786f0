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
    const uint64_t w = lane.slabs[cell].number.load(seq_cst);  // LINK
    if (w == 0) return std::nullopt;
    return SlabPlace{index, join, cell, w - 1};
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

}  // namespace psyne
