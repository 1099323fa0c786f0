// Whose turn it is to change a ring: the sender's, or that of the thread beside it. The sender pays two stores and a load.
//
//   sender: inside = 1 · barrier · wanted?                thread: wanted = 1 · barrier · inside?
//           └────────── TURN ───────────┘                         └─────────── TURN ───────────┘
#pragma once

#include <psyne/eventcount.hpp>

namespace psyne {

class Turns {
public:
    /// One thread at a time; the other one keeps it for some microseconds at most.
    void enter() noexcept {
        inside_.store(1, relaxed);
        compiler_fence();
        if (wanted_.load(acquire) != 0) [[unlikely]]  // TURN
            enter_with_care();
    }
    void leave() noexcept { inside_.store(0, release); }  // TURN

    /// For the thread; false while the sender is in its own.
    bool take() noexcept {
        const bool fences = (wanted_.fetch_or(kWanted, seq_cst) & kFences) != 0;
        if (fences || sys::heavy_barrier()) {
            full_fence();
            for (int i = 0; i < kTries; ++i) {
                if (inside_.load(acquire) == 0) return true;  // TURN
                cpu_pause();
            }
        } else {
            wanted_.fetch_or(kFences, seq_cst);  // from the next turn on
        }
        give();
        return false;
    }
    void give() noexcept { wanted_.fetch_and(~kWanted, release); }  // TURN

private:
    static constexpr uint64_t kWanted = 1, kFences = 2;  // the thread wants the turn; whoever enters raises a fence
    static constexpr int kTries = 100;
    std::atomic<uint64_t> inside_{0}, wanted_{kThreadSanitizer || !sys::register_barrier() ? kFences : 0};

    [[gnu::noinline, gnu::cold]] void enter_with_care() noexcept {
        for (;; inside_.store(1, relaxed)) {
            full_fence();  // where the thread has no barrier that reaches the sender
            if ((wanted_.load(acquire) & kWanted) == 0) return;  // TURN
            leave();
            while ((wanted_.load(acquire) & kWanted) != 0) ::sched_yield();
        }
    }
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
