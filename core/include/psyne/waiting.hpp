// One wait for all ends: spin a little, then sleep in slices on one's own futex word.
#pragma once

#include <atomic>

#include <psyne/registry.hpp>

namespace psyne {

enum class Wait { ready, timeout, stopped, interrupted };

/// Lying down in an idle mask. On the way up, a wake that was meant for us but is not used goes to somebody else.
class Bed {
public:
    /// `by_bell`: an event loop watches our FIFO; else this thread sleeps on our futex word.
    Bed(const Registry& r, Atomic64& idle, uint64_t base, bool by_bell = false)
        : r_(r), idle_(idle), base_(base), bit_(1ull << (r.id - base)), by_bell_(by_bell) {}
    ~Bed() {
        if (in_ && r_.file.fd()) rise(false);  // without its locks: a forked child, and the bit is the parent's
    }
    void lie_down() noexcept {
        Atomic32& bell = r_.me().bell;
        if (bell.load(relaxed) != by_bell_) bell.store(by_bell_, seq_cst);  // before the bit: who claims it sees which
        idle_.fetch_or(bit_, seq_cst);
        in_ = true;
        sleeper_fence(r_.file.header());
    }
    bool woken() const noexcept { return !(idle_.load(seq_cst) & bit_); }
    /// `took`: who takes passes a wake on itself, if more is there.
    void rise(bool took) noexcept {
        in_ = false;
        suspect_ = 0;
        if (!(idle_.fetch_and(~bit_, seq_cst) & bit_) && !took) r_.wake_one(idle_, base_);
    }
    /// In it, and nobody has woken us.
    bool asleep() const noexcept { return in_ && !woken(); }
    bool in() const noexcept { return in_; }

    /// For who waits in an event loop, once a slice. Nanoseconds until the next time; 0: get up and look.
    template <class Peek>
    uint64_t look(Peek&& peek) noexcept {
        if (!asleep()) return 0;
        const uint64_t there = peek();
        if (there == 0) return suspect_ = 0, kSlice;
        if (there != suspect_) return suspect_ = there, kLateSlice;  // its publisher may be about to wake us
        r_.file.header().late_wakes.fetch_add(1, relaxed);
        return suspect_ = 0;
    }

private:
    const Registry& r_;
    Atomic64& idle_;
    uint64_t base_, bit_;  // id of bit 0; our bit
    uint64_t suspect_ = 0;  // what was there although nobody had woken us
    bool by_bell_, in_ = false;
};

/// Brings the descriptor of an end up to date: readable while its calls would not wait, else quiet until a wake.
template <class End>
void keep_level(End& end, Bell& bell) {
    bool ready = end.ready();
    if (!ready) bell.drain();  // whoever claimed our bit rings later: what has rung before this look is seen by it
    if (!ready && !end.standby().asleep()) {
        end.arm(bell, false);
        ready = end.ready();
    }
    if (!ready) return;
    end.disarm(true);
    end.pass_on();
    bell.keep_ringing();
}

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
    if (const uint64_t budget = spinner.budget(start); budget != 0) {
        for (uint64_t now = start; now - start < budget;) {
            for (int i = 0; i < 64; ++i) {
                if (ready()) {
                    spinner.hit(now);
                    return Wait::ready;
                }
                cpu_pause();
            }
            now = sys::now_ns();
            spinner.goes_on();
            if (stop()) return Wait::stopped;
            if (r.due() && !tick()) return Wait::interrupted;
            if (now >= deadline) return ready() ? Wait::ready : Wait::timeout;
        }
        spinner.missed(sys::now_ns());
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
