// When a ring becomes larger or smaller. Numbers in, decisions out: no memory, no clock, no threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace psyne {

/// What a sender allows.
struct Growth {
    uint64_t budget = 0;                    // bytes of all lanes of the channel; 0: the ring never changes
    uint64_t shrink_after = 1'000'000'000;  // ns of low load
    explicit operator bool() const noexcept { return budget != 0; }
};

/// Why a ring was changed last.
enum class Change : uint64_t { none, full, long_message, long_messages, many_slots, idle };

class GrowthPolicy {
public:
    static constexpr uint64_t kSmallSlab = 256 * 1024;  // bytes that one longer message may cost
    static constexpr uint64_t kRun = 16;                // extents in a row, of like sizes, that are worth slots of their own
    static constexpr uint64_t kExtentFrom = 8;          // times the room of a slot: always an extent

    GrowthPolicy(uint64_t slots, uint64_t room, uint64_t shrink_after) : slots_(slots), room_(room), shrink_after_(shrink_after) {}

    /// Slots of the ring that follows one that is full.
    static uint64_t more_slots(uint64_t slots, uint64_t needed) noexcept { return std::max(slots * 2, needed); }

    /// A message of `bytes` does not fit into a slot of `room`. Bytes of the slots that are worth it; 0: an extent.
    uint64_t longer_slots(uint64_t room, uint64_t bytes) noexcept {
        if (run_ == 0 || bytes > 2 * least_ || 2 * bytes < most_) run_ = 0, least_ = most_ = bytes;  // another run
        least_ = std::min(least_, bytes), most_ = std::max(most_, bytes);
        ++run_;
        const uint64_t wanted = power_of_two(bytes);
        if (run_ >= kRun) return run_ = 0, power_of_two(most_);
        if (bytes <= kExtentFrom * room && wanted * kFewest <= kSmallSlab) return run_ = 0, wanted;
        return 0;
    }
    /// How many slots of that size: as many bytes as before, but a few.
    static uint64_t slots_of(uint64_t slots, uint64_t room, uint64_t longer) noexcept {
        return std::clamp<uint64_t>(std::max(slots * room, kSmallSlab) / longer, kFewest, std::max(slots, kFewest));
    }
    /// A message of that size was lent in a slot or an extent.
    void saw(uint64_t bytes) noexcept { longest_ = std::max(longest_, bytes); }
    /// A message fitted into its slot: the run of longer ones is over.
    void fitted() noexcept { run_ = 0; }

    struct Size {
        uint64_t slots = 0, room = 0;
        explicit operator bool() const noexcept { return slots != 0; }
    };
    /// At `now` `used` slots of a ring of that size are in use; at `loaded` it was half full. The size of a smaller one once
    /// it is time, else nothing.
    Size shrink(uint64_t now, uint64_t loaded, uint64_t used, const Size& is) noexcept {
        peak_ = std::max(peak_, used);
        since_ = std::max(since_ == 0 ? now : since_, loaded);
        if (now < since_ + shrink_after_) return {};
        const auto less = [](uint64_t n, uint64_t most, uint64_t least) {
            return 4 * most <= n ? std::clamp(power_of_two(2 * most), least, n) : n;
        };
        Size to{less(is.slots, peak_, std::min(slots_, is.slots)), less(is.room, longest_, std::min(room_, is.room))};
        if (to.room < is.room && to.room <= room_) to.slots = std::max(to.slots, slots_);  // longer slots were fewer
        peak_ = used;
        since_ = now;
        longest_ = 0;
        return 2 * to.slots <= is.slots || 2 * to.room <= is.room ? to : Size{};
    }
    /// Is a ring larger than the first one was?
    bool larger(const Size& is) const noexcept { return is.slots > slots_ || is.room > room_; }

private:
    static constexpr uint64_t kFewest = 8;  // slots
    uint64_t slots_, room_, shrink_after_;  // of the first ring
    uint64_t peak_ = 0, since_ = 0, longest_ = 0;
    uint64_t run_ = 0, least_ = 0, most_ = 0;

    static uint64_t power_of_two(uint64_t n) noexcept {
        uint64_t p = 1;
        while (p < n) p *= 2;
        return p;
    }
};

}  // namespace psyne
