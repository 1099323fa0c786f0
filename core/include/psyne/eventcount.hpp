// Sleeping without losing a wake: an idle mask with a bit per member, and a futex word of each member's own.
//
//   sleeper: set the bit · barrier · look again · sleep        waker: publish · barrier · look at the mask
//            └───────────── WAKE PAIR ──────────────┘                 └────────── WAKE PAIR ─────────┘
#pragma once

#include <bit>

#include <psyne/channel_file.hpp>

namespace psyne {

inline constexpr uint64_t kSlice = 100'000'000;     // ns: bounds what the killed and stopped swallow
inline constexpr uint64_t kLateSlice = 20'000'000;  // ns: a wake that has not come by then was lost
inline constexpr uint64_t kLinger = 1'000'000;      // ns: how often a batch looks for more
inline constexpr uint64_t kForever = ~0ull;

/// The waker's half of the pair. Free where sleepers can raise a barrier in every process.
class WakerFence {
public:
    WakerFence() = default;
    explicit WakerFence(ChannelHeader& header) : header_(&header) {
        if (kThreadSanitizer || !sys::register_barrier()) header.fences_needed.fetch_add(1, seq_cst);
    }
    void operator()() const noexcept {  // WAKE PAIR, waker
        if (header_->fences_needed.load(relaxed) != 0)
            full_fence();
        else
            compiler_fence();
    }

private:
    ChannelHeader* header_ = nullptr;
};

inline void sleeper_fence(ChannelHeader& header) noexcept {  // WAKE PAIR, sleeper
    if (header.fences_needed.load(seq_cst) != 0 || !sys::heavy_barrier()) {
        header.fences_needed.fetch_add(header.fences_needed.load(relaxed) == 0, seq_cst);
        full_fence();
    }
}

inline void wake(MemberRecord& member) noexcept {
    member.wakes.fetch_add(1, seq_cst);
    sys::futex_wake(member.wakes);
}

/// Claims one bit and wakes that member. `base` is the id of bit 0.
inline void wake_one(const ChannelFile& c, Atomic64& mask, uint64_t base) noexcept {
    for (uint64_t m = mask.load(seq_cst); m != 0; m = mask.load(seq_cst)) {
        const uint64_t bit = m & (~m + 1);
        if (mask.fetch_and(~bit, seq_cst) & bit) {
            wake(c.member(base + static_cast<uint64_t>(std::countr_zero(bit))));
            return;
        }
    }
}
inline void wake_all(const ChannelFile& c, Atomic64& mask, uint64_t base) noexcept {
    for (uint64_t m = mask.exchange(0, seq_cst); m != 0; m &= m - 1)
        wake(c.member(base + static_cast<uint64_t>(std::countr_zero(m))));
}
inline void wake_stage(const ChannelFile& c, uint32_t stage) noexcept { wake_all(c, c.stage(stage).idle, 0); }
inline void wake_everybody(const ChannelFile& c) noexcept {
    for (uint32_t s = 0; s < c.shape.stage_count; ++s) wake_stage(c, s);
    wake_all(c, c.header().senders_idle, kMaxReceivers);
}

/// How long to spin before sleeping: learns from its own hits.
class Spinner {
public:
    enum class Mode { adaptive, spin, block };
    explicit Spinner(Mode mode = Mode::adaptive) : mode_(mode), alone_(sys::usable_cpus() < 2) {}
    Mode mode() const noexcept { return mode_; }
    /// Nanoseconds to spin for now.
    uint64_t budget() const noexcept {
        if (mode_ == Mode::spin) return kForever;
        return mode_ == Mode::block || alone_ ? 0 : budget_;
    }
    void hit() noexcept { budget_ = std::min<uint64_t>(budget_ * 2, kLongest); }
    void missed() noexcept { budget_ = std::max<uint64_t>(budget_ / 2, kShortest); }

private:
    static constexpr uint64_t kShortest = 1'000, kLongest = 50'000;
    Mode mode_;
    bool alone_;
    uint64_t budget_ = 20'000;
};

}  // namespace psyne
