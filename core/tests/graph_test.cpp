#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

std::unique_ptr<Receiver> added(const Home& home, Graph::Wanted wanted, const Options& o = {}) {
    return open_receiver(home.directory, o.name, {wanted.name, &wanted}, o.wait, "test");
}
/// After nobody, after those named, or after all.
std::unique_ptr<Receiver> beside(const Home& home, const std::string& name) { return added(home, {name, {}}); }
std::unique_ptr<Receiver> after(const Home& home, const std::string& name, const std::string& other) {
    return added(home, {name, {other}});
}
std::unique_ptr<Receiver> at_the_end(const Home& home, const std::string& name) { return added(home, {name, {}, true}); }

/// Ends all that is there; how many.
uint64_t take_all(Receiver& r) {
    uint64_t n = 0;
    for (Taken t; r.try_take(100, t); n += t.count) r.end(t, false);
    return n;
}
uint64_t send_all(Sender& tx, uint64_t first, uint64_t most) {
    Loan loan;
    uint64_t n = 0;
    for (; n < most && tx.try_loan(1, loan); ++n) write_value(loan, tx, 0, first + n), tx.commit(loan, 1);
    return n;
}
Graph graph_of(const Receiver& r) { return r.registry.graph(); }
StageState state_of(const Registry& r, uint32_t s) { return state_in<StageState>(r.file.stage(s).word.load(seq_cst)); }

}  // namespace

TESTS(graph_test) {
    return check::run({
        {"a stage that is added gets what is sent from then on, each message once and in order",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             put(*tx, 1);
             auto log = beside(home, "log");
             CHECK(nothing(*log));
             for (uint64_t v = 2; v < 6; ++v) put(*tx, v);
             for (uint64_t v = 2; v < 6; ++v) CHECK_EQ(take_value(*log), v);
             CHECK(nothing(*log));
             for (uint64_t v = 1; v < 6; ++v) CHECK_EQ(take_value(*rx), v);
         }},
        {"it holds the sender back from its first message on, and no longer when its last member has left",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             put(*tx, 1), put(*tx, 2), put(*tx, 3);
             auto log = beside(home, "log");
             CHECK_EQ(send_all(*tx, 4, 100), 5u);  // the ring is full
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 9, 100), 3u);  // those before its first do not count
             CHECK(tx->why_full().find("stage 'log' has not taken the oldest message (1 member)") != std::string::npos);
             CHECK_EQ(take_value(*log), 4u);
             CHECK_EQ(send_all(*tx, 12, 100), 1u);
             goodbye(log);
             CHECK_EQ(take_all(*rx), 4u);
             CHECK_EQ(send_all(*tx, 13, 100), 8u);
             CHECK_EQ(graph_of(*rx).added(), 0u);
         }},
        {"what the last member keeps when it leaves is not overwritten; what it has not taken is let go",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto log = beside(home, "log");
             for (uint64_t v = 0; v < 8; ++v) put(*tx, v);
             CHECK_EQ(take_value(*log), 0u);
             const Taken kept = take(*log);
             log->close();
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 8, 100), 1u);
             CHECK_EQ(value_of(kept), 1u);
             {
                 auto other = beside(home, "other");
                 CHECK_EQ(graph_of(*rx).added(), 0b110u);  // its row is not given to another
                 goodbye(other);
             }
             log->end(kept, false);
             CHECK_EQ(send_all(*tx, 9, 100), 7u);
             leave(log->registry);
             CHECK_EQ(graph_of(*rx).added(), 0u);
         }},
        {"a view that outlives its message is kept the same way",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto log = beside(home, "log");
             for (uint64_t v = 0; v < 8; ++v) put(*tx, v);
             const Taken kept = take(*log);
             log->end(kept, true);
             log->close();
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 8, 100), 0u);
             log->finish(kept);
             CHECK_EQ(send_all(*tx, 8, 100), 8u);
         }},
        {"a place in the table is used again, and old words in it mean nothing",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared), {.capacity = 4});
             auto rx = receiver(home);
             for (uint64_t turn = 0; turn < 100; ++turn) {
                 auto log = beside(home, "log" + std::to_string(turn));
                 CHECK_EQ(graph_of(*log).added(), 2u);
                 CHECK(nothing(*log));
                 const uint64_t n = 1 + turn % 4;
                 CHECK_EQ(send_all(*tx, turn * 10, n), n);
                 CHECK_EQ(take_value(*log), turn * 10);
                 if (n > 1) {
                     const Taken t = take(*log);  // comes back as an orphan that nobody takes
                     log->give_back(t);
                 }
                 CHECK_EQ(take_all(*rx), n);
                 goodbye(log);
             }
         }},
        {"a loan that came back after the sender had looked ahead does not let it run over the new stage",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared), {.capacity = 2});
             auto rx = receiver(home);
             const Loan a = lend(*tx), b = lend(*tx);
             tx->discard(b), tx->discard(a);
             auto log = beside(home, "log");
             CHECK_EQ(send_all(*tx, 0, 100), 2u);
             CHECK_EQ(take_all(*rx), 2u);
             CHECK_EQ(send_all(*tx, 2, 100), 0u);
             CHECK_EQ(take_value(*log), 0u);
             CHECK_EQ(send_all(*tx, 2, 100), 1u);
         }},
        {"without any stage a sender does not run over its own open loans",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {}), {.capacity = 4});
             CHECK_EQ(send_all(*tx, 0, 10), 10u);
             const Loan open = lend(*tx);
             CHECK_EQ(send_all(*tx, 0, 10), 3u);
             tx->commit(open, 1);
             CHECK_EQ(send_all(*tx, 0, 10), 10u);
         }},
        {"a stage added behind others sees a message after them",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared, {{"a"}, {"b", 1}}));
             auto a = receiver(home, "a"), b = receiver(home, "b");
             auto end = at_the_end(home, "end"), log = after(home, "log", "a"), last = after(home, "last", "log");
             put(*tx, 1);
             CHECK(nothing(*log) && nothing(*end) && nothing(*last));
             take_value(*a);
             CHECK(nothing(*end) && nothing(*last));
             CHECK_EQ(take_value(*log), 1u);
             CHECK_EQ(take_value(*last), 1u);
             take_value(*b);
             CHECK_EQ(take_value(*end), 1u);
         }},
        {"behind a stage that has gone those before it still count",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared, {{"a", 0, true}}));
             auto a = receiver(home, "a");
             auto mid = after(home, "mid", "a"), last = after(home, "last", "mid");
             put(*tx, 1);
             goodbye(mid);
             CHECK(nothing(*last));
             take_value(*a);
             CHECK_EQ(take_value(*last), 1u);
             auto other = after(home, "other", "last");  // not in the place of mid, which last names
             CHECK_EQ(graph_of(*other).added(), 0b1110u);
             put(*tx, 2);
             take_value(*a);
             CHECK(nothing(*other));
             CHECK_EQ(take_value(*last), 2u);
             CHECK_EQ(take_value(*other), 2u);
             goodbye(last), goodbye(other);
             CHECK_EQ(graph_of(*a).added(), 0u);
         }},
        {"half changed by a stage that is over, a message is taken out",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto change = added(home, {"change", {"main"}, false, true, true});
             auto last = after(home, "last", "change");
             put(*tx, 1), put(*tx, 2);
             take_all(*rx);
             const Taken t = take(*change);
             change->dirty(t);
             {
                 auto& row = tx->slab().row(1)[0];  // as a burial does when its stage redelivers
                 row.store(word(1, Ack::orphan) | kDirty, seq_cst);
             }
             goodbye(change);
             CHECK_EQ(take_value(*last), 2u);
         }},
        {"what cannot be is refused, and leaves nothing",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared, {{"a", 0, true}, {"b", 1}}));
             auto b = receiver(home, "b");
             CHECK_THROWS(invalid, "'a' mutates while 'log' may read the same message", beside(home, "log"));
             CHECK_THROWS(invalid, "'log' mutates while 'b' may read the same message: say after=['b']", added(home, {"log", {"a"}, false, true}));
             CHECK_THROWS(invalid, "runs after 'c', which is none of the stages of ipc://test: 'a', 'b'", after(home, "log", "c"));
             CHECK_THROWS(invalid, "was opened with the stage 'b'", beside(home, "b"));
             auto log = after(home, "log", "a");
             CHECK_THROWS(mismatch, "another after=", after(home, "log", "b"));
             CHECK_THROWS(mismatch, "mutate=", added(home, {"log", {"a"}, false, true}));
             auto second = after(home, "log", "a"), third = receiver(home, "log");
             CHECK_EQ(graph_of(*b).added(), 0b100u);
             goodbye(log), goodbye(second);
             CHECK_EQ(graph_of(*b).added(), 0b100u);
             goodbye(third);
             CHECK_EQ(graph_of(*b).added(), 0u);
             CHECK_THROWS(invalid, "no stage 'log'", receiver(home, "log"));
         }},
        {"where the pattern allows one member an added stage has one",
         [] {
             Home home;
             auto tx = sender(home);
             auto log = beside(home, "log");
             CHECK_THROWS(busy, "stage 'log' of ipc://test has a member (pid", beside(home, "log"));
             goodbye(log);
             log = beside(home, "log");
             put(*tx, 5);
             CHECK_EQ(take_value(*log), 5u);
         }},
        {"there are at most 32 stages",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             std::vector<std::unique_ptr<Receiver>> all;
             for (int i = 1; i < 32; ++i) all.push_back(beside(home, "s" + std::to_string(i)));
             CHECK_THROWS(busy, "has 32 stages already", beside(home, "one more"));
             put(*tx, 1);
             for (auto& r : all) CHECK_EQ(take_value(*r), 1u);
             goodbye(all[7]);
             all[7] = beside(home, "one more");
         }},
        {"an added stage ends when it has seen all, also where a sender never admitted it",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared)), idle = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto log = beside(home, "log");
             put(*tx, 1);
             CHECK(!log->ended());
             CHECK_EQ(take_value(*log), 1u);
             goodbye(tx);
             CHECK(!log->ended());
             goodbye(idle);
             CHECK(log->ended());
             CHECK(!rx->ended());
         }},
        {"the lane of a sender that has closed stays until the added stage has read it",
         [] {
             Home home;
             auto keeper = sender(home, spec(kShared)), tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto log = beside(home, "log");
             put(*tx, 1), put(*tx, 2);
             goodbye(tx);
             CHECK_EQ(take_all(*rx), 2u);
             rx->look_after_others();
             CHECK_EQ(take_value(*log), 1u);
             CHECK_EQ(take_value(*log), 2u);
         }},
        {"a new lane admits the stages that are there from its first message on",
         [] {
             Home home;
             auto first = sender(home, spec(kShared));
             auto log = beside(home, "log");
             auto second = sender(home, spec(kShared));
             put(*second, 7);
             CHECK_EQ(take_value(*log), 7u);
         }},
        {"the last member is killed: what it held comes to nobody, and the sender goes on",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             Child child([&](Child& c) {
                 static auto log = beside(home, "log");
                 c.here();
                 for (Taken t; !log->try_take(1, t);) std::this_thread::yield();
             });
             child.wait_here();
             CHECK_EQ(send_all(*tx, 0, 100), 8u);
             child.wait_here();
             child.kill();
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 8, 100), 0u);
             CHECK(rx->registry.bury_dead());
             CHECK_EQ(send_all(*tx, 8, 100), 8u);
             CHECK_EQ(graph_of(*rx).added(), 0u);
             auto log = beside(home, "log");
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 16, 100), 8u);
             CHECK_EQ(take_value(*log), 16u);
         }},
        {"one of two members is killed: the other gets its message, flagged",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             auto log = beside(home, "log");
             Child child([&](Child& c) {
                 static auto other = receiver(home, "log");
                 c.here();
                 for (Taken t; !other->try_take(1, t);) std::this_thread::yield();
             });
             child.wait_here();
             put(*tx, 1);
             child.wait_here();
             child.kill();
             CHECK(nothing(*log));
             CHECK(rx->registry.bury_dead());
             const Taken t = take(*log);
             CHECK_EQ(value_of(t), 1u);
             CHECK_EQ(t.deaths, 1u);
         }},
        {"whoever is killed between two steps of adding a stage leaves nothing behind",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             for (int steps = 0; steps < 3; ++steps) {
                 Child child([&](Child&) {
                     static std::optional<Registry> r;
                     r.emplace(*find_channel(home.directory, "test"), "test");
                     CHECK(r->enlist(0, kMaxReceivers, kTapStage) && r->count_in_channel());
                     StageRecord& s = r->file.stage(1);
                     store_name(s.name, "log");
                     const uint64_t generation = generation_in(s.word.load(seq_cst)) + 1;
                     s.word.store(stage_word(generation, r->id, StageState::proposed), seq_cst);
                     if (steps > 0) r->me().stage.store(1, seq_cst);
                     const uint64_t g = r->file.header().graph.load(seq_cst);
                     if (steps > 1) r->file.header().graph.store(graph_word((g >> 32) + 1, 0b10), seq_cst);
                 });
                 child.wait_here();
                 if (steps == 2) {  // whoever sees the bit opens it
                     CHECK(graph_of(*rx).find("log").stage == 1u);
                     CHECK(state_of(rx->registry, 1) == StageState::open);
                 }
                 child.kill();
                 CHECK(rx->registry.bury_dead());
                 CHECK(state_of(rx->registry, 1) != StageState::proposed && state_of(rx->registry, 1) != StageState::open);
                 CHECK_EQ(graph_of(*rx).added(), 0u);
                 auto log = beside(home, "log");
                 CHECK_EQ(graph_of(*log).added(), 0b10u);
                 goodbye(log);
             }
         }},
        {"two that add the same stage at once become two members of it",
         [] {
             for (int turn = 0; turn < 50; ++turn) {
                 Home home;
                 auto tx = sender(home, spec(kShared));
                 std::atomic<int> in{0};
                 std::vector<std::thread> threads;
                 std::vector<std::unique_ptr<Receiver>> all(4);
                 for (auto& r : all)
                     threads.emplace_back([&] {
                         for (++in; in < 4;) std::this_thread::yield();
                         r = beside(home, "log");
                     });
                 for (auto& t : threads) t.join();
                 CHECK_EQ(std::popcount(graph_of(*all[0]).added()), 1);  // in whichever record the winner had proposed
                 put(*tx, 1);
                 uint64_t got = 0;
                 for (auto& r : all) got += take_all(*r);
                 CHECK_EQ(got, 1u);
             }
         }},
        {"of two that cannot be together at most one gets in",
         [] {
             for (int turn = 0; turn < 50; ++turn) {
                 Home home;
                 auto tx = sender(home, spec(kShared, {}));
                 std::atomic<int> in{0}, refused{0};
                 std::vector<std::unique_ptr<Receiver>> all(4);
                 std::vector<std::thread> threads;
                 for (size_t i = 0; i < all.size(); ++i)
                     threads.emplace_back([&, i] {
                         for (++in; in < 4;) std::this_thread::yield();
                         try {
                             all[i] = added(home, {"s" + std::to_string(i), {}, false, i % 2 == 0, false});
                         } catch (const Error& e) {
                             refused += e.code == Errc::invalid;
                         }
                     });
                 for (auto& t : threads) t.join();
                 const int in_now = static_cast<int>(std::count_if(all.begin(), all.end(), [](auto& r) { return r != nullptr; }));
                 CHECK_EQ(in_now + refused, 4);
                 CHECK(in_now == 1 || (in_now == 2 && all[1] && all[3]));
             }
         }},
        {"a full memory refuses the stage, and says so",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto log = beside(home, "log");
             tx->registry.file.lane(0).admitted[1].store(graph_of(*log).find("log").generation | kRefused, seq_cst);
             CHECK_THROWS(no_space, "no space in shared memory for the words of stage 'log'", nothing(*log));
             CHECK_EQ(send_all(*tx, 0, 100), 8u);
             auto rx = receiver(home);
             CHECK_EQ(take_all(*rx), 8u);
             CHECK_EQ(send_all(*tx, 0, 100), 8u);  // it holds up nobody
         }},
    });
}
