// Threads that wait, and how to know that they lie down.
#pragma once

#include "support.hpp"

namespace psyne::test {

using Mode = Spinner::Mode;

inline std::thread in_thread(auto body) {
    return std::thread([body] { check::guarded(body); });
}
inline Atomic64& idle(const Registry& r, uint32_t stage = 0) { return r.file.stage(stage).idle; }
inline Atomic64& senders_idle(const Registry& r) { return r.file.header().senders_idle; }
inline void until_asleep(const Atomic64& mask, uint64_t bits) {
    while ((mask.load(seq_cst) & bits) != bits) ::sched_yield();
}
inline uint64_t late_wakes(const Registry& r) { return r.file.header().late_wakes.load(relaxed); }

inline Taken receive(Receiver& r) {
    Taken t;
    CHECK_EQ(r.receive(1, t, kForever, keep_going), Wait::ready);
    return t;
}
inline uint64_t receive_value(Receiver& r) {
    const Taken t = receive(r);
    const uint64_t v = value_of(t);
    r.end(t, false);
    return v;
}
inline void send_value(Sender& s, uint64_t value) {
    Loan loan;
    CHECK_EQ(s.loan(1, loan, kForever, keep_going), Wait::ready);
    write_value(loan, s, 0, value);
    s.commit(loan, 1);
}

}  // namespace psyne::test
