// One wait for all ends: spin a little, then sleep in slices on one's own futex word.
#pragma once

#include <atomic>

#include <psyne/registry.hpp>

namespace psyne {

enum class Wait { ready, timeout, stopped, interrupted };

/// Where an end sleeps: its bit in an idle mask. `base` is the id of bit 0.
struct Bed {
    Atomic64& idle;
    uint64_t base;
};

/// Waits until `ready()` (which may take a message), `stop()`, the deadline, or `tick()` says false.
/// `tick` runs after each slice: it buries the dead and looks at signals. `late` is told of lost wakes.
template <class Ready, class Stop, class Tick>
Wait wait_for(const Registry& r, Bed bed, Spinner& spinner, uint64_t deadline, Ready&& ready, Stop&& stop, Tick&& tick) {
    MemberRecord& me = r.me();
    const uint64_t bit = 1ull << (r.id - bed.base);
    if (ready()) return Wait::ready;
    if (stop()) return Wait::stopped;
    const uint64_t start = sys::now_ns();
    if (const uint64_t budget = spinner.budget(); budget != 0) {
        for (uint64_t now = start, ticked = start;;) {
            for (int i = 0; i < 64; ++i) {
                if (ready()) {
                    spinner.hit();
                    return Wait::ready;
                }
                cpu_pause();
            }
            now = sys::now_ns();
            if (stop()) return Wait::stopped;
            if (now >= deadline) return Wait::timeout;
            if (now - start >= budget) break;
            if (now - ticked >= kSlice) {
                ticked = now;
                if (!tick()) return Wait::interrupted;
            }
        }
        spinner.missed();
    }
    // A wake that was meant for us but that we do not use goes to somebody else.
    const auto rise = [&](Wait result) {
        if (!(bed.idle.fetch_and(~bit, seq_cst) & bit)) wake_one(r.file, bed.idle, bed.base);
        return result;
    };
    for (;;) {
        const uint32_t wakes = me.wakes.load(seq_cst);
        bed.idle.fetch_or(bit, seq_cst);
        sleeper_fence(r.file.header());
        if (ready()) {
            bed.idle.fetch_and(~bit, seq_cst);  // who takes passes a wake on itself, if more is there
            return Wait::ready;
        }
        if (stop()) return rise(Wait::stopped);
        const uint64_t now = sys::now_ns();
        if (now >= deadline) return rise(Wait::timeout);
        const bool woken = sys::futex_wait(me.wakes, wakes, std::min(kSlice, deadline - now));
        if (!woken && (bed.idle.load(seq_cst) & bit) != 0 && ready()) {
            // There, but nobody woke us: its publisher may be about to. If not, the wake was lost.
            sys::futex_wait(me.wakes, wakes, kLateSlice);
            if (bed.idle.fetch_and(~bit, seq_cst) & bit) r.file.header().late_wakes.fetch_add(1, relaxed);
            return Wait::ready;
        }
        if (ready()) {
            bed.idle.fetch_and(~bit, seq_cst);
            return Wait::ready;
        }
        const bool claimed = !(bed.idle.load(seq_cst) & bit);
        if ((!woken || !claimed) && !tick()) return rise(Wait::interrupted);
    }
}

}  // namespace psyne
