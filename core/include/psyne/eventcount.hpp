// Sleeping without losing a wake: an idle mask with a bit per member, and a futex word of each member's own.
//
//   sleeper: set the bit · barrier · look again · sleep        waker: publish · barrier · look at the mask
//            └───────────── WAKE PAIR ──────────────┘                 └────────── WAKE PAIR ─────────┘
#pragma once

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

/// How long to spin before sleeping: learns from its hits, and rests after a spin in which somebody else needed the CPU.
class Spinner {
public:
    enum class Mode { adaptive, spin, block };
    explicit Spinner(Mode mode = Mode::adaptive) : mode_(mode), alone_(sys::usable_cpus() < 2) {}
    Mode mode() const noexcept { return mode_; }
    /// A spin begins at the time `now`: for so many nanoseconds.
    uint64_t budget(uint64_t now) noexcept {
        before_ = kNotCounted;
        if (mode_ == Mode::spin) return kForever;
        return mode_ == Mode::block || alone_ || now < rests_until_ ? 0 : budget_;
    }
    /// This spin does not hit at once: counts who takes the CPU away.
    void goes_on() noexcept {
        if (mode_ == Mode::adaptive && before_ == kNotCounted) before_ = sys::preemptions();
    }
    void hit(uint64_t now) noexcept {
        budget_ = std::min<uint64_t>(budget_ * 2, kLongest);
        if (before_ != kNotCounted && !look(now)) rest_ = kShortestRest;
    }
    void missed(uint64_t now) noexcept {
        budget_ = std::max<uint64_t>(budget_ / 2, kShortest);
        if (before_ != kNotCounted) look(now);
    }

private:
    static constexpr uint64_t kShortest = 1'000, kLongest = 50'000;                       // ns
    static constexpr uint64_t kShortestRest = 1'000'000, kLongestRest = 1'000'000'000;  // ns
    static constexpr uint64_t kNotCounted = ~0ull;
    Mode mode_;
    bool alone_;
    uint64_t budget_ = 20'000;
    uint64_t rest_ = kShortestRest, rests_until_ = 0;
    uint64_t before_ = kNotCounted;  // preemptions when the spin began

    /// After a spin in which this thread was preempted there is none for a while, each time for longer.
    bool look(uint64_t now) noexcept {
        if (sys::preemptions() == std::exchange(before_, kNotCounted)) return false;
        rests_until_ = now + rest_;
        rest_ = std::min(rest_ * 2, kLongestRest);
        return true;
    }
};

}  // namespace psyne
