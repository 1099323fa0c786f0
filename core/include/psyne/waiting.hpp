// One wait for all ends: spin a little, then sleep in slices on one's own futex word.
#pragma once

#include <atomic>

#include <psyne/registry.hpp>

namespace psyne {

enum class Wait { ready, timeout, stopped, interrupted };

/// Lying down in an idle mask. On the way up, a wake that was meant for us but is not used goes to somebody else.
class Bed {
public:
    Bed(const Registry& r, Atomic64& idle, uint64_t base) : r_(r), idle_(idle), base_(base), bit_(1ull << (r.id - base)) {}
    ~Bed() {
        if (in_) rise(false);
    }
    void lie_down() noexcept {
        idle_.fetch_or(bit_, seq_cst);
        in_ = true;
        sleeper_fence(r_.file.header());
    }
    bool woken() const noexcept { return !(idle_.load(seq_cst) & bit_); }
    /// `took`: who takes passes a wake on itself, if more is there.
    void rise(bool took) noexcept {
        in_ = false;
        if (!(idle_.fetch_and(~bit_, seq_cst) & bit_) && !took) wake_one(r_.file, idle_, base_);
    }

private:
    const Registry& r_;
    Atomic64& idle_;
    uint64_t base_, bit_;  // id of bit 0; our bit
    bool in_ = false;
};

/// Waits until `ready()` (which may take a message), `stop()`, the deadline, or `tick()` says false.
/// `tick` runs once a slice: it buries the dead and looks at signals.
/// `peek()` names what `ready` would take, 0 for nothing: so a wake that was lost is seen and counted.
template <class Ready, class Stop, class Peek, class Tick>
Wait wait_for(Registry& r, Atomic64& idle, uint64_t base, Spinner& spinner, uint64_t deadline, Ready&& ready,
              Stop&& stop, Peek&& peek, Tick&& tick) {
    MemberRecord& me = r.me();
    if (ready()) return Wait::ready;
    if (stop()) return Wait::stopped;
    const uint64_t start = sys::now_ns();
    if (const uint64_t budget = spinner.budget(); budget != 0) {
        for (uint64_t now = start; now - start < budget;) {
            for (int i = 0; i < 64; ++i) {
                if (ready()) {
                    spinner.hit();
                    return Wait::ready;
                }
                cpu_pause();
            }
            now = sys::now_ns();
            if (stop()) return Wait::stopped;
            if (r.due() && !tick()) return Wait::interrupted;
            if (now >= deadline) return ready() ? Wait::ready : Wait::timeout;
        }
        spinner.missed();
    }
    Bed bed(r, idle, base);
    for (;;) {
        const uint32_t wakes = me.wakes.load(seq_cst);
        bed.lie_down();
        if (ready()) return bed.rise(true), Wait::ready;
        if (stop()) return Wait::stopped;
        if (r.due() && !tick()) return Wait::interrupted;
        const uint64_t now = sys::now_ns();
        if (now >= deadline) return ready() ? (bed.rise(true), Wait::ready) : Wait::timeout;
        const bool slept_on = !sys::futex_wait(me.wakes, wakes, std::min(kSlice, deadline - now));
        if (slept_on && !bed.woken()) {
            if (const uint64_t there = peek(); there != 0) {  // its publisher may be about to wake us; if not, that is lost
                sys::futex_wait(me.wakes, wakes, kLateSlice);
                if (!bed.woken() && peek() == there) r.file.header().late_wakes.fetch_add(1, relaxed);
            }
        }
        if (ready()) return bed.rise(true), Wait::ready;
        if (!slept_on && !bed.woken()) {  // a signal, perhaps
            r.ticked = sys::now_ns();
            if (!tick()) return Wait::interrupted;
        }
    }
}

}  // namespace psyne
