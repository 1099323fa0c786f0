// A lane as a tap sees it: a reader of the slab in which it stands, that takes nothing and counts exactly.
//
//      claim − capacity          next                    claim              close
//   ──────────┬───────────────────┬────────────────────────┬──────────────────┬─────
//    written  │ whole             │ whole, or not sent yet │ not in use       │ in the next slab
//    over     │                   │                        │                  │
#pragma once

#include <memory>
#include <tuple>

#include <psyne/lane.hpp>

namespace psyne {

/// Copies what may be written meanwhile: whoever calls it finds out afterwards.
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline)) inline void copy_shared(std::byte* to, const std::byte* from, uint64_t n) noexcept {
    const auto* in = reinterpret_cast<const volatile unsigned char*>(from);
    auto* out = reinterpret_cast<volatile unsigned char*>(to);
    uint64_t i = 0;
    if (reinterpret_cast<uintptr_t>(from) % 8 == 0 && reinterpret_cast<uintptr_t>(to) % 8 == 0)
        for (; i + 8 <= n; i += 8)
            *reinterpret_cast<volatile uint64_t*>(out + i) = *reinterpret_cast<const volatile uint64_t*>(in + i);
    for (; i < n; ++i) out[i] = in[i];
}
#else
inline void copy_shared(std::byte* to, const std::byte* from, uint64_t n) noexcept { std::memcpy(to, from, n); }
#endif

/// `before` are the declared stages that write.
struct TapLane : LaneReader {
    uint64_t skips = 0;   // positions of the slab before the cursor that have no message
    uint64_t missed = 0;  // messages since the last one that was read
    uint64_t drops = 0;   // before the last message that was read, where its sender sums them
    uint64_t slips = 0;   // copies of late that were overwritten meanwhile
    bool last = false;    // its sender has left or is dead, and no slab comes behind this one

    uint64_t claim() const noexcept { return slab.header->claim.load(acquire); }  // CLAIM
    bool whole(uint64_t position) const noexcept { return claim() <= position + slab.capacity; }
    /// Its payload goes back, or is gone; the words stay.
    bool retired() const noexcept { return claim() == ~0ull; }  // RETIRE
    /// Its sender has left or is dead: no word changes any more, except those of stages.
    bool frozen() const noexcept { return !is(LaneState::open); }

    /// Of the extent that has the message of a slot, 0: it lies in the slot. It changes while the message is there only
    /// when the extent is given back.
    uint64_t extent(uint64_t slot) const noexcept { return slab.extents ? slab.extents[slot].load(acquire) : 0; }  // GONE

    /// Moves over one position that is published; false when it is not, or is written over.
    bool step() noexcept {
        const uint64_t w = published();
        if (w == word(next.lap, Ready::skip)) ++skips;
        else if (w == word(next.lap, Ready::ready)) ++missed;
        else return false;
        next.advance(slab.capacity);
        return true;
    }

    /// From a position that is claimed again to one that is whole; not to the very first where copies come too late, but
    /// never over the last message that is there: its sender may send no other.
    void catch_up() noexcept {
        const uint64_t claimed = claim(), told = slab.header->skips.load(acquire);  // of this claim, or of a later one
        if (claimed <= next.position + slab.capacity || claimed == ~0ull) return;
        uint64_t oldest = claimed - slab.capacity, passed = skips;
        if (told != 0) {
            oldest += static_cast<uint32_t>((told >> 32) - claimed);
            passed += static_cast<uint32_t>(told - skips);
        }
        missed += (oldest - next.position) - (passed - skips);
        skips = passed;
        next = Cursor::at(oldest, slab.first, slab.capacity);
        if (slips == 0 || frozen()) return;
        const uint64_t more = std::max<uint64_t>(slab.capacity / 8, 1) << std::min<uint64_t>(slips - 1, 4);
        auto to_read = std::tuple(next, skips, missed);
        for (uint64_t n = std::min(more, slab.capacity - 1);; --n) {
            if (published() == word(next.lap, Ready::ready)) to_read = {next, skips, missed};
            if (n == 0 || !step()) break;
        }
        std::tie(next, skips, missed) = to_read;
    }

    /// Moves over what a dead sender did not publish; false when there is nothing like that.
    bool pass_holes() noexcept {
        Cursor behind = published_behind();
        if (behind.position == next.position && slab.end() != ~0ull && !closed_here())
            behind = Cursor::at(slab.end(), slab.first, slab.capacity);
        skips += behind.position - next.position;
        return std::exchange(next, behind).position != behind.position;
    }

    /// Begins where `former` has ended, or was retired, and counts what it did not see. False: that is not known yet.
    bool come_from(const TapLane& former) noexcept {
        const uint64_t then = former.slab.header->skips_before.load(acquire), now = slab.header->skips_before.load(acquire);  // SETTLE SKIPS
        const bool walked = former.closed_here() && slab.first == former.slab.end();  // numbers have gaps
        if (!walked && (then == 0 || now == 0)) return false;
        missed = former.missed;
        if (!walked) missed += (slab.first - former.next.position) - (now - then - former.skips);
        return true;
    }
    /// Begins at the first slab that is there, and counts what was sent before it.
    void come_from_start() noexcept {
        if (const uint64_t w = slab.header->skips_before.load(acquire); w != 0) missed = slab.first - (w - 1);
    }

    /// Nothing more comes behind the cursor.
    bool over() const noexcept {  // first whether it is frozen, then its words
        if (!frozen()) return false;
        return last || (slab.end() == ~0ull && whole(next.position) && lap_of(published()) < next.lap &&
                        published_behind().position == next.position);
    }

    /// Messages of a slab from `position` on.
    static uint64_t messages(const Slab& slab, uint64_t position) noexcept {
        uint64_t n = 0;
        for (uint64_t i = 0; i < slab.capacity; ++i) {
            const uint64_t w = slab.ready[i].load(relaxed), lap = lap_of(w);
            n += w == word(lap, Ready::ready) && slab.position(i, lap) >= position;
        }
        return n;
    }
};
using TapLanePtr = std::shared_ptr<TapLane>;

/// Where a tap stands in a lane; it keeps the slab.
struct Stand {
    TapLanePtr lane;
    Cursor next;
    uint64_t skips = 0, missed = 0;
    static Stand of(const TapLanePtr& l) noexcept { return {l, l->next, l->skips, l->missed}; }
};

/// Ends a walk that runs after its sender: after so many rounds of one ring.
class Walk {
public:
    bool goes_on(const TapLane& lane) noexcept {
        if (slab_ != lane.slab.place.number) {
            slab_ = lane.slab.place.number;
            left_ = kRounds * lane.slab.capacity + kRounds;
        }
        return left_-- != 0;
    }

private:
    static constexpr uint64_t kRounds = 2;
    uint64_t slab_ = ~0ull, left_ = 0;
};

/// `count` consecutive messages of one lane that a tap could read, still in their slots, or one in an extent.
struct Sight {
    TapLane* lane = nullptr;
    uint64_t slot = 0, lap = 0, count = 0;
    uint64_t extent = 0;  // word of the one that has an extent
    uint64_t missed = 0;  // messages just before; known once they are read
    bool ends = false;    // no message will join them: the lap ends, another type comes, a SKIP, another slab
    const Slab& slab() const noexcept { return lane->slab; }
    uint64_t position() const noexcept { return slab().position(slot, lap); }
    std::byte* data() const noexcept { return extent == 0 ? slab().at(slot) : slab().extent_at(slot); }
    /// Bytes that each of them may use.
    uint64_t room() const noexcept { return extent == 0 ? slab().room : std::min(extent_bytes(extent), slab().extent_stride()); }
    /// Bytes from one to the next.
    uint64_t stride() const noexcept { return extent == 0 ? slab().stride : room(); }
    uint64_t side(const Atomic64* column, uint64_t i = 0) const noexcept { return column ? column[slot + i].load(relaxed) : 0; }
};

}  // namespace psyne
