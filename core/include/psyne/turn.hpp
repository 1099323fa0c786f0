// Whose turn it is to change a ring: the sender's, or that of the thread beside it. The sender pays two stores and a load.
//
//   sender: inside = 1 · barrier · wanted?                thread: wanted = 1 · barrier · inside?
//           └────────── TURN ───────────┘                         └─────────── TURN ───────────┘
#pragma once

#include <psyne/eventcount.hpp>

namespace psyne {

class Turns {
public:
    explicit Turns(ChannelHeader& header) : header_(header), fence_(header) {}

    /// One thread at a time; the other one keeps it for some microseconds at most.
    void enter() noexcept {
        for (;;) {
            inside_.store(1, relaxed);
            fence_();
            if (wanted_.load(acquire) == 0) [[likely]]  // TURN
                return;
            leave();
            while (wanted_.load(acquire) != 0) ::sched_yield();
        }
    }
    void leave() noexcept { inside_.store(0, release); }  // TURN

    /// For the thread; false while the sender is in its own.
    bool take() noexcept {
        wanted_.store(1, seq_cst);
        sleeper_fence(header_);
        for (int i = 0; i < kTries; ++i) {
            if (inside_.load(acquire) == 0) return true;  // TURN
            cpu_pause();
        }
        give();
        return false;
    }
    void give() noexcept { wanted_.store(0, release); }  // TURN

private:
    static constexpr int kTries = 100;
    ChannelHeader& header_;
    WakerFence fence_;
    std::atomic<uint64_t> inside_{0}, wanted_{0};
};

/// The sender's turn; without anybody else there is nothing to take.
class Turn {
public:
    explicit Turn(Turns* turns) noexcept : turns_(turns) {
        if (turns_) turns_->enter();
    }
    ~Turn() {
        if (turns_) turns_->leave();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

private:
    Turns* turns_;
};

}  // namespace psyne
