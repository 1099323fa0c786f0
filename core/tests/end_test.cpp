#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

bool at_end(const Receiver& r) { return r.registry.me().at_end.load(seq_cst) != 0; }

/// A sender of its own process that does `body` and is killed and buried.
template <class Body>
void killed_sender(const Home& home, Registry& undertaker, const ChannelSpec& s, Body&& body) {
    static std::unique_ptr<Sender> tx;
    Child c([&](Child&) {
        tx = sender(home, s);
        body(*tx);
    });
    c.wait_here();
    c.kill();
    CHECK(undertaker.bury_dead());
}

}  // namespace

TESTS(end_test) {
    return check::run({
        {"a position that is not published yet holds up those behind it while its sender lives",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             const Loan open = lend(*tx);
             put(*tx, 1);
             CHECK(nothing(*rx));
             rx->look_after_others();
             CHECK(nothing(*rx));
             tx->commit(open, 1);
             CHECK_EQ(take_batch(*rx, 100), 2u);
         }},
        {"holes that a dead sender left are passed over; what it committed is delivered, then its lane has ended",
         [] {
             Home home;
             auto keeper = sender(home);
             auto rx = receiver(home);
             killed_sender(home, rx->registry, spec(), [](Sender& tx) {
                 const Loan a = lend(tx), b = lend(tx), c = lend(tx), d = lend(tx);
                 (void)a, (void)c, (void)d;
                 write_value(b, tx, 0, 7);
                 tx.commit(b, 1);
                 put(tx, 9);
                 lend(tx);
             });
             CHECK_EQ(take_value(*rx), 7u);
             CHECK_EQ(take_value(*rx), 9u);
             CHECK(nothing(*rx));
             goodbye(keeper);
             CHECK(nothing(*rx));
             CHECK(rx->ended());
             CHECK(rx->sender_lost());
         }},
        {"holes at the wrap are passed over too",
         [] {
             Home home;
             auto keeper = sender(home);
             auto rx = receiver(home);
             Child c([&](Child& me) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(home);
                 for (uint64_t i = 0; i < 6; ++i) put(*tx, i);
                 me.here();
                 CHECK_EQ(tx->drain(kForever, keep_going), Wait::ready);
                 lend(*tx), lend(*tx), lend(*tx);  // slots 6, 7 and 0
                 put(*tx, 9);                      // slot 1 of lap 2
             });
             c.wait_here();
             for (uint64_t i = 0; i < 6; ++i) CHECK_EQ(take_value(*rx), i);
             c.wait_here();
             c.kill();
             CHECK(nothing(*rx));
             CHECK(rx->registry.bury_dead());
             CHECK_EQ(take_value(*rx), 9u);
         }},
        {"every stage passes the same holes",
         [] {
             Home home;
             const auto s = spec(Pattern::mpsc, {{"a"}, {"b", 1}});
             auto keeper = sender(home, s);
             auto a = receiver(home, "a"), b = receiver(home, "b");
             killed_sender(home, a->registry, s, [](Sender& tx) {
                 lend(tx);
                 put(tx, 1);
                 lend(tx);
                 put(tx, 3);
             });
             for (const uint64_t want : {1, 3}) {
                 CHECK(nothing(*b));
                 CHECK_EQ(take_value(*a), want);
                 CHECK_EQ(take_value(*b), want);
             }
         }},
        {"a channel that never had a sender's lane has not ended",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             CHECK(!rx->ended());
             goodbye(tx);
             CHECK(nothing(*rx));
             CHECK(rx->ended());
         }},
        {"the end waits for what another member still works on",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0), put(*tx, 1);
             const Taken ta = take(*a), tb = take(*b);
             tx->close(false);
             CHECK(nothing(*a));
             CHECK(!a->ended());  // b may die on it, then it comes back
             b->end(tb, true);    // a view is no work
             CHECK(a->ended());   // what oneself holds does not count
             a->end(ta, false);
         }},
        {"members that all wait for the end do not wait for each other",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0), put(*tx, 1);
             take(*a), take(*b);  // both keep theirs, like list(rx)
             tx->close(false);
             CHECK(nothing(*a) && nothing(*b));
             CHECK(!a->ended());
             CHECK(b->ended());
             CHECK(a->ended());
         }},
        {"who stops waiting for the end takes its word back",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0), put(*tx, 1);
             const Taken ta = take(*a);
             take(*b);
             tx->close(false);
             Taken none;
             CHECK_EQ(wait_for_one(*a, none, 1), Wait::timeout);
             CHECK(!at_end(*a));
             CHECK(nothing(*b) && !b->ended());  // a may work on its message now
             CHECK(!b->ended_now());
             CHECK(!at_end(*b));
             a->end(ta, false);
             CHECK(b->ended());
         }},
        {"an orphan holds up the end",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home);
             put(*tx, 0);
             {
                 auto gone = receiver(home);
                 take(*gone);
             }
             tx->close(false);
             CHECK(nothing(*a) && !a->ended());  // nobody knows yet that it is one
             CHECK(a->registry.bury_dead());
             CHECK(!a->ended());
             CHECK_EQ(take_value(*a), 0u);
             CHECK(nothing(*a));
             CHECK(a->ended());
         }},
        {"the next sender ends the end",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             tx->close(true);
             CHECK(nothing(*rx));
             CHECK(rx->ended() && rx->sender_lost());
             auto next = sender(home);
             CHECK(!rx->ended());
             CHECK(!rx->sender_lost());
             put(*next, 3);
             CHECK_EQ(take_value(*rx), 3u);
         }},
    });
}
