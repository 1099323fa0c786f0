#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

struct Lane {
    Home home;
    std::unique_ptr<Sender> tx;
    std::unique_ptr<Receiver> rx;
    explicit Lane(uint64_t capacity = 8, bool count_dropped = false) {
        tx = sender(home, spec(), {.capacity = capacity, .count_dropped = count_dropped});
        rx = receiver(home);
    }
    uint64_t ready(uint64_t slot) const { return tx->slab().ready[slot].load(seq_cst); }
    uint64_t claim() const { return tx->slab().header->claim.load(seq_cst); }
    bool full(uint64_t n = 1) {
        Loan loan;
        return !tx->try_loan(n, loan);
    }
    void send(uint64_t n) {
        for (uint64_t i = 0; i < n; ++i) put(*tx, tx->position());
    }
    void read(uint64_t n) {
        for (uint64_t i = 0; i < n; ++i) take_value(*rx);
    }
};

}  // namespace

TESTS(lane_test) {
    return check::run({
        {"a loan is nothing to anybody until it is committed",
         [] {
             Lane l;
             const Loan loan = lend(*l.tx);
             write_value(loan, *l.tx, 0, 7);
             CHECK_EQ(l.ready(0), 0u);
             CHECK(nothing(*l.rx));
             l.tx->commit(loan, 1);
             CHECK_EQ(l.ready(0), word(1, Ready::ready));
             CHECK_EQ(take_value(*l.rx), 7u);
         }},
        {"loans may be committed in any order; they are received in the order of the slots",
         [] {
             Lane l;
             const Loan a = lend(*l.tx), b = lend(*l.tx), c = lend(*l.tx);
             write_value(a, *l.tx, 0, 1), write_value(b, *l.tx, 0, 2), write_value(c, *l.tx, 0, 3);
             l.tx->commit(c, 1);
             l.tx->commit(b, 1);
             CHECK(nothing(*l.rx));
             l.tx->commit(a, 1);
             for (const uint64_t want : {1, 2, 3}) CHECK_EQ(take_value(*l.rx), want);
         }},
        {"the last loan that is discarded was never there",
         [] {
             Lane l;
             l.tx->discard(lend(*l.tx));
             CHECK_EQ(l.tx->position(), 0u);
             CHECK_EQ(l.ready(0), 0u);
             put(*l.tx, 5);
             CHECK_EQ(l.tx->position(), 1u);
             CHECK_EQ(take_value(*l.rx), 5u);
         }},
        {"a discarded loan with a later one becomes SKIP and is passed over",
         [] {
             Lane l;
             const Loan a = lend(*l.tx), b = lend(*l.tx);
             write_value(b, *l.tx, 0, 2);
             l.tx->commit(b, 1);
             CHECK(nothing(*l.rx));
             l.tx->discard(a);
             CHECK_EQ(l.ready(0), word(1, Ready::skip));
             CHECK_EQ(take_value(*l.rx), 2u);
             CHECK_EQ(ack_word(*l.tx, 0), word(1, Ack::done));
         }},
        {"a pinned loan that is discarded becomes SKIP, because its memory is still in use",
         [] {
             Lane l;
             l.tx->discard(lend(*l.tx), true);
             CHECK_EQ(l.tx->position(), 1u);
             CHECK_EQ(l.ready(0), word(1, Ready::skip));
         }},
        {"a batch lies in consecutive memory",
         [] {
             Lane l;
             const Loan loan = lend(*l.tx, 5);
             CHECK_EQ(loan.count, 5u);
             for (uint64_t i = 0; i < 5; ++i) {
                 CHECK(loan.data + i * l.tx->stride() == l.tx->slab().at(loan.slot + i));
                 write_value(loan, *l.tx, i, i);
             }
             l.tx->commit(loan, 5);
             const Taken t = take(*l.rx, 100);
             CHECK_EQ(t.count, 5u);
             for (uint64_t i = 0; i < 5; ++i) CHECK_EQ(value_of(t, i), i);
         }},
        {"a truncated batch sends its beginning, the rest was never there",
         [] {
             Lane l;
             const Loan loan = lend(*l.tx, 5);
             for (uint64_t i = 0; i < 5; ++i) write_value(loan, *l.tx, i, i);
             l.tx->commit(loan, 2);
             CHECK_EQ(l.tx->position(), 2u);
             CHECK_EQ(take(*l.rx, 100).count, 2u);
             put(*l.tx, 9);
             CHECK_EQ(take_value(*l.rx), 9u);
         }},
        {"a truncated batch with a later loan leaves SKIPs",
         [] {
             Lane l;
             const Loan a = lend(*l.tx, 3), b = lend(*l.tx);
             write_value(b, *l.tx, 0, 9);
             l.tx->commit(b, 1);
             l.tx->commit(a, 1);
             CHECK_EQ(l.ready(1), word(1, Ready::skip));
             CHECK_EQ(l.ready(2), word(1, Ready::skip));
             take_value(*l.rx);
             CHECK_EQ(take_value(*l.rx), 9u);
         }},
        {"a batch that does not fit before the wrap starts the next lap",
         [] {
             Lane l;
             l.send(6), l.read(6);
             const Loan loan = lend(*l.tx, 4);
             CHECK_EQ(loan.slot, 0u);
             CHECK_EQ(loan.lap, 2u);
             CHECK_EQ(loan.position, 8u);
             CHECK_EQ(l.ready(6), word(1, Ready::skip));
             CHECK_EQ(l.ready(7), word(1, Ready::skip));
             write_value(loan, *l.tx, 0, 60);
             l.tx->commit(loan, 4);
             const Taken t = take(*l.rx, 100);
             CHECK_EQ(t.count, 4u);
             CHECK_EQ(t.position(), 8u);
             CHECK_EQ(value_of(t), 60u);
         }},
        {"a batch of all slots needs an empty ring",
         [] {
             Lane l;
             l.send(8);
             CHECK(l.full(8));
             l.read(7);
             CHECK(l.full(8));
             l.read(1);
             CHECK_EQ(lend(*l.tx, 8).count, 8u);
         }},
        {"more than all slots is never there",
         [] {
             Lane l;
             CHECK(l.full(9));
             CHECK(l.full(9));
         }},
        {"the ring is full when the oldest message was not let go, and goes on when it is",
         [] {
             Lane l;
             l.send(8);
             CHECK(l.full());
             const Taken t = take(*l.rx);
             CHECK(l.full());
             l.rx->end(t, true);  // passed, but a view lives
             CHECK(l.full());
             l.rx->end(t, false);
             CHECK_EQ(lend(*l.tx).lap, 2u);
             CHECK(l.full());
         }},
        {"messages ended out of order free their slots in order",
         [] {
             Lane l;
             l.send(8);
             const Taken a = take(*l.rx), b = take(*l.rx);
             l.rx->end(b, false);
             CHECK(l.full());
             l.rx->end(a, false);
             lend(*l.tx), lend(*l.tx);
             CHECK(l.full());
         }},
        {"every stage must let go, also one without members",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b"}}), {.capacity = 2});
             auto a = receiver(home, "a");
             put(*tx, 1), put(*tx, 2);
             take_value(*a), take_value(*a);
             Loan loan;
             CHECK(!tx->try_loan(1, loan));
             CHECK(tx->why_full().find("stage 'b' has no member") != std::string::npos);
             auto b = receiver(home, "b");
             CHECK(tx->why_full().find("has not taken the oldest message (1 member)") != std::string::npos);
             const Taken t = take(*b);
             CHECK(tx->why_full().find("holds the oldest message (pid") != std::string::npos);
             b->end(t, false);
             CHECK(tx->try_loan(1, loan));
         }},
        {"a ring of one slot alternates",
         [] {
             Lane l(1);
             for (uint64_t i = 0; i < 5; ++i) {
                 put(*l.tx, i);
                 CHECK(l.full());
                 CHECK_EQ(take_value(*l.rx), i);
             }
         }},
        {"the claim is raised before a slot is lent, an eighth of the ring at once",
         [] {
             Lane l(64);
             lend(*l.tx);
             CHECK_EQ(l.claim(), 8u);
             for (uint64_t i = 1; i < 8; ++i) lend(*l.tx);
             CHECK_EQ(l.claim(), 8u);
             lend(*l.tx);
             CHECK_EQ(l.claim(), 16u);
             Lane one(4);
             lend(*one.tx);
             CHECK_EQ(one.claim(), 1u);
         }},
        {"the claim never passes what is let go",
         [] {
             Lane l(64);
             l.send(64);
             CHECK_EQ(l.claim(), 64u);
             CHECK(l.full());
             l.read(3);
             lend(*l.tx);
             CHECK_EQ(l.claim(), 67u);
         }},
        {"a batch raises the claim past itself",
         [] {
             Lane l(64);
             lend(*l.tx, 33);
             CHECK(l.claim() >= 33);
         }},
        {"own arrays on a sent message keep its slot",
         [] {
             Lane l(2);
             const Loan loan = lend(*l.tx);
             loan.ring->hold(loan.slot);
             l.tx->commit(loan, 1);
             put(*l.tx, 2);
             l.read(2);
             CHECK(l.full());
             CHECK(l.tx->blocked_by_own_view(1));
             CHECK(l.tx->why_full().find("your own arrays") != std::string::npos);
             loan.ring->unhold(loan.slot);
             CHECK_EQ(lend(*l.tx).lap, 2u);
         }},
        {"an own array further on stops a batch, not a single message",
         [] {
             Lane l(8);
             const Loan a = lend(*l.tx), b = lend(*l.tx);
             b.ring->hold(b.slot);
             l.tx->commit(a, 1), l.tx->commit(b, 1);
             l.send(6), l.read(8);
             CHECK(l.full(3));
             CHECK(l.tx->blocked_by_own_view(3));
             CHECK(!l.tx->blocked_by_own_view(1));
             b.ring->unhold(b.slot);
             CHECK_EQ(lend(*l.tx, 3).count, 3u);
         }},
        {"messages that were dropped are counted at the next one that is sent",
         [] {
             Lane l(2, true);
             put(*l.tx, 1);
             l.tx->drop(3);
             l.tx->drop(1);
             const Loan batch = [&] {
                 take_value(*l.rx);
                 return lend(*l.tx);
             }();
             l.tx->commit(batch, 1);
             put(*l.tx, 3);
             const Taken a = take(*l.rx), b = take(*l.rx);
             CHECK_EQ(Receiver::missed(a), 4u);
             CHECK_EQ(Receiver::missed(b), 0u);
             Lane without(2);
             put(*without.tx, 1);
             CHECK_EQ(Receiver::missed(take(*without.rx)), 0u);
         }},
        {"the end of a lane makes open loans SKIP and says where it ends",
         [] {
             Lane l;
             const Loan open = lend(*l.tx);
             put(*l.tx, 2);
             lend(*l.tx);
             l.tx->close(false);
             CHECK_EQ(l.ready(open.slot), word(1, Ready::skip));
             CHECK_EQ(l.ready(2), word(1, Ready::skip));
             const LaneRecord& lane = l.rx->registry.file.lane(0);
             CHECK_EQ(lane.end.load(seq_cst), 4u);
             CHECK_EQ(state_in<LaneState>(lane.state.load(seq_cst)), LaneState::ended);
             CHECK_EQ(take_value(*l.rx), 2u);
             CHECK(nothing(*l.rx));
             CHECK(l.rx->ended() && !l.rx->sender_lost());
         }},
        {"a sender that failed is told apart from one that ended",
         [] {
             Lane l;
             put(*l.tx, 1);
             l.tx->close(true);
             CHECK_EQ(take_value(*l.rx), 1u);
             CHECK(nothing(*l.rx));
             CHECK(l.rx->ended() && l.rx->sender_lost());
         }},
        {"all was passed when every stage has at least passed every message that was sent",
         [] {
             Lane l;
             const auto drained = [&] { return l.tx->drain(sys::now_ns(), keep_going) == Wait::ready; };
             CHECK(drained());
             l.send(2);
             const Loan open = lend(*l.tx);
             CHECK(!drained());
             CHECK(l.tx->why_not_passed().find("stage 'main' has") != std::string::npos);
             const Taken a = take(*l.rx), b = take(*l.rx);
             l.rx->end(a, true), l.rx->end(b, false);
             CHECK(drained());  // what is not sent does not count
             l.tx->discard(open);
             l.rx->end(a, false);
         }},
        {"a damaged word in shared memory harms nobody",
         [] {
             Lane l(2);
             l.send(2);
             l.tx->slab().row(0)[0].store(word(1, Ack::taken, 0xffff), seq_cst);
             CHECK(l.full());
             CHECK(l.tx->why_full().find("nobody that is known") != std::string::npos);
             for (const uint64_t w : std::initializer_list<uint64_t>{~0ull, 1ull << 63, word(1, static_cast<Ack>(7), 5)}) {
                 l.tx->slab().row(0)[0].store(w, seq_cst);
                 (void)l.full();
                 (void)l.tx->why_full();
                 (void)l.tx->why_not_passed();
             }
         }},
    });
}
