#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

void put_many(Sender& s, uint64_t n) {
    const Loan loan = lend(s, n);
    for (uint64_t i = 0; i < n; ++i) write_value(loan, s, i, loan.position + i);
    s.commit(loan, n);
}
}  // namespace

TESTS(receiver_test) {
    return check::run({
        {"messages of one sender come in the order they were sent",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             for (uint64_t lap = 0; lap < 5; ++lap) {
                 for (uint64_t i = 0; i < 8; ++i) put(*tx, lap * 8 + i);
                 for (uint64_t i = 0; i < 8; ++i) CHECK_EQ(take_value(*rx), lap * 8 + i);
             }
             CHECK(nothing(*rx));
         }},
        {"lanes take turns",
         [] {
             Home home;
             auto a = sender(home), b = sender(home);
             auto rx = receiver(home);
             for (uint64_t i = 0; i < 3; ++i) put(*a, i), put(*b, 100 + i);
             uint64_t from_a = 0, from_b = 0;
             for (int i = 0; i < 6; ++i) {
                 const uint64_t v = take_value(*rx);
                 (v < 100 ? from_a : from_b) += 1;
                 CHECK(from_a <= from_b + 1 && from_b <= from_a + 1);
             }
         }},
        {"or give what was sent first, where they keep the time",
         [] {
             Home home;
             auto a = sender(home, spec(kShared), {.stamps = true}), b = sender(home, spec(kShared), {.stamps = true});
             auto rx = receiver(home), other = receiver(home);
             rx->oldest_first = other->oldest_first = true;
             for (uint64_t i = 0; i < 3; ++i) put(*b, i);
             for (uint64_t i = 3; i < 6; ++i) put(*a, i);
             put(*b, 6);
             for (uint64_t i = 0; i < 6; ++i) CHECK_EQ(take_value(i % 2 ? *other : *rx), i);
             put(*a, 7);
             CHECK_EQ(take_value(*rx), 6u);
             CHECK_EQ(take_value(*rx), 7u);
         }},
        {"a message that came over a network has the time of its first sender, too",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared), {.stamps = true, .remote = true}), here = sender(home, spec(kShared));
             auto rx = receiver(home);
             for (uint64_t lap = 0; lap < 3; ++lap) {
                 const Loan loan = lend(*tx, 8);
                 for (uint64_t i = 0; i < 8; ++i) loan.ring->slab.remote[loan.slot + i].store(100 * lap + i, relaxed);
                 tx->commit(loan, 8);
                 for (uint64_t i = 0; i < 8; ++i) {
                     const Taken t = take(*rx);
                     CHECK_EQ(t.remote(), 100 * lap + i);
                     CHECK(t.stamp() > t.remote());
                     rx->end(t, false);
                 }
             }
             put(*here, 1);
             const Taken t = take(*rx);
             CHECK_EQ(t.remote(), 0u);
             rx->end(t, false);
         }},
        {"a batch takes what is there, up to its limit and up to the end of the lap",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put_many(*tx, 5);
             CHECK_EQ(take_batch(*rx, 3), 3u);
             CHECK_EQ(take_batch(*rx, 100), 2u);
             for (int i = 0; i < 6; ++i) put(*tx, 0);
             CHECK_EQ(take_batch(*rx, 100), 3u);  // slots 5, 6, 7
             CHECK_EQ(take_batch(*rx, 100), 3u);
         }},
        {"SKIP ends a batch and is done at once",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 0);
             const Loan gone = lend(*tx);
             put(*tx, 2), put(*tx, 3);
             tx->discard(gone);
             CHECK_EQ(take_batch(*rx, 100), 1u);
             CHECK_EQ(take_batch(*rx, 100), 2u);
             CHECK_EQ(ack_word(*tx, 1), word(1, Ack::done));
         }},
        {"members of a shared stage share the messages out: each one once",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             for (uint64_t round = 0; round < 30; ++round) {
                 for (uint64_t i = 0; i < 8; ++i) put(*tx, i);
                 CHECK_EQ(take_value(*a), 0u);
                 CHECK_EQ(take_value(*b), 1u);
                 CHECK_EQ(take_batch(*b, 3), 3u);
                 CHECK_EQ(take_value(*a), 5u);
                 CHECK_EQ(take_batch(*b, 100), 2u);
                 CHECK(nothing(*a) && nothing(*b));
             }
         }},
        {"members that take at the same moment never take the same message",
         [] {
             Home home;
             constexpr uint64_t n = kSanitized ? 1 << 12 : 1 << 16;
             auto tx = sender(home, spec(kShared), {.capacity = n});
             auto a = receiver(home), b = receiver(home);
             for (int round = 0; round < 30; ++round) {
                 for (uint64_t i = 0; i < n; ++i) put(*tx, i);
                 std::atomic<int> started{0};
                 std::vector<std::atomic<uint8_t>> taken(n);
                 const auto rush = [&](Receiver& rx) {
                     started += 1;
                     while (started.load() != 2) ::sched_yield();
                     for (Taken t; rx.try_take(1, t); rx.end(t, false)) taken[value_of(t)] += 1;
                 };
                 std::thread other([&] { check::guarded([&] { rush(*b); }); });
                 rush(*a);
                 other.join();
                 for (const auto& times : taken) CHECK_EQ(static_cast<int>(times.load()), 1);
             }
         }},
        {"a member that fell laps behind goes on where the stage is",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0);
             CHECK_EQ(take_value(*a), 0u);
             for (uint64_t i = 1; i < 30; ++i) {
                 put(*tx, i);
                 CHECK_EQ(take_value(*b), i);
             }
             put(*tx, 30);
             CHECK_EQ(take_value(*a), 30u);
         }},
        {"a new member starts behind what its stage has taken",
         [] {
             Home home;
             auto tx = sender(home);
             auto a = receiver(home);
             for (uint64_t i = 0; i < 6; ++i) put(*tx, i);
             const Taken held = take(*a);
             CHECK_EQ(take_value(*a), 1u);
             a->close();  // its view lives on, its place is free
             auto b = receiver(home);
             CHECK_EQ(take_value(*b), 2u);
             a->end(held, false);
             leave(a->registry);
             CHECK_EQ(take_value(*b), 3u);
         }},
        {"orphans come first, flagged, and out of order",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             put(*tx, 0), put(*tx, 1);
             {
                 auto gone = receiver(home);
                 take(*gone);
             }
             CHECK(rx->registry.bury_dead());
             const Taken t = take(*rx, 100);
             CHECK_EQ(value_of(t), 0u);
             CHECK_EQ(t.count, 1u);
             CHECK_EQ(t.deaths, 1u);
             rx->end(t, false);
             const Taken u = take(*rx);
             CHECK_EQ(value_of(u), 1u);
             CHECK_EQ(u.deaths, 0u);
         }},
        {"the next that joins gets what the only member held when it was killed",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spsc));
             put(*tx, 0), put(*tx, 1), put(*tx, 2);
             {
                 auto gone = receiver(home);
                 CHECK_EQ(take_value(*gone), 0u);
                 take(*gone);
             }
             auto rx = receiver(home);
             const Taken t = take(*rx);
             CHECK_EQ(value_of(t), 1u);
             CHECK_EQ(t.deaths, 1u);
             CHECK_EQ(take_value(*rx), 2u);
         }},
        {"a message that the caller never saw goes to another member, without a flag",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0), put(*tx, 1);
             a->give_back(take(*a));
             const Taken t = take(*b);
             CHECK_EQ(value_of(t), 0u);
             CHECK_EQ(t.deaths, 0u);
             CHECK_EQ(a->outstanding(), 0u);
             CHECK_EQ(b->outstanding(), 1u);
         }},
        {"a stage that reads goes on at PASSED, one that writes waits until no stage before it uses the bytes",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b", 1}, {"c", 2, true}}));
             auto a = receiver(home, "a"), b = receiver(home, "b"), c = receiver(home, "c");
             put(*tx, 7);
             CHECK(nothing(*b));
             const Taken ta = take(*a);
             CHECK(nothing(*b));
             a->end(ta, true);
             const Taken tb = take(*b);
             b->end(tb, false);
             CHECK(nothing(*c));  // a's view lives: not its direct predecessor, but c writes
             a->end(ta, false);
             const Taken tc = take(*c);
             CHECK(c->writes());
             std::memset(tc.data, 1, 8);
             c->end(tc, false);
             CHECK_EQ(ack_word(*tx, 0, 2), word(1, Ack::done));
         }},
        {"stages without order between them see a message side by side",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b"}, {"join", 3}}));
             auto a = receiver(home, "a"), b = receiver(home, "b"), j = receiver(home, "join");
             put(*tx, 7);
             const Taken ta = take(*a), tb = take(*b);
             a->end(ta, false);
             CHECK(nothing(*j));
             b->end(tb, false);
             CHECK_EQ(take_value(*j), 7u);
         }},
        {"a lane of a stage is taken in order even when a later message was let go first",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(home, "a"), b = receiver(home, "b");
             put(*tx, 0), put(*tx, 1);
             const Taken t0 = take(*a), t1 = take(*a);
             a->end(t1, false);
             CHECK(nothing(*b));
             a->end(t0, false);
             CHECK_EQ(take_batch(*b, 100), 2u);
         }},
        {"who joins finds new lanes at the next take",
         [] {
             Home home;
             auto a = sender(home);
             auto rx = receiver(home);
             put(*a, 1);
             auto b = sender(home);
             put(*b, 2);
             CHECK_EQ(take_value(*rx) + take_value(*rx), 3u);
             CHECK_EQ(rx->lanes().size(), 2u);
         }},
        {"in a channel with one sender the older lane comes first",
         [] {
             Home home;
             auto first = sender(home, spec(Pattern::spsc));
             auto rx = receiver(home);
             for (uint64_t i = 0; i < 3; ++i) put(*first, i);
             goodbye(first);
             auto second = sender(home, spec(Pattern::spsc));
             for (uint64_t i = 3; i < 6; ++i) put(*second, i);
             for (uint64_t i = 0; i < 6; ++i) CHECK_EQ(take_value(*rx), i);
         }},
        {"messages of a removed lane stay readable",
         [] {
             Home home;
             auto keeper = sender(home);
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 77);
             const Taken t = take(*rx);
             goodbye(tx);
             rx->look_after_others();
             CHECK_EQ(rx->lanes().size(), 2u);  // still held: not reaped
             CHECK_EQ(value_of(t), 77u);
             rx->end(t, false);
             rx->look_after_others();
             CHECK_EQ(rx->lanes().size(), 1u);
             CHECK_EQ(rx->outstanding(), 0u);
         }},
        {"who holds every slot of all open lanes is told so",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 4});
             auto rx = receiver(home);
             for (int i = 0; i < 4; ++i) put(*tx, 0);
             const Taken t = take(*rx, 3);
             CHECK(!rx->hoards());
             const Taken u = take(*rx);
             CHECK(rx->hoards());
             rx->end(t, true);
             CHECK(rx->hoards());
             rx->end(t, false);
             CHECK(!rx->hoards());
             rx->end(u, false);
         }},
        {"lingering fills a batch up to its limit",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 0);
             Taken t = take(*rx, 4);
             CHECK_EQ(t.count, 1u);
             std::thread later([&] { check::guarded([&] { put(*tx, 1), put(*tx, 2), put(*tx, 3), put(*tx, 4); }); });
             CHECK(rx->linger(t, 4, sys::now_ns() + 20'000'000'000u, keep_going));
             later.join();
             CHECK_EQ(t.count, 4u);
             for (uint64_t i = 0; i < 4; ++i) CHECK_EQ(value_of(t, i), i);
             CHECK_EQ(take_value(*rx), 4u);
         }},
        {"lingering takes what comes at the very moment when it looks",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 4});
             auto rx = receiver(home);
             const int rounds = kSanitized ? 300 : 2000;
             std::atomic<int> round{0};
             std::thread other([&] {
                 check::guarded([&] {
                     for (int i = 1; i <= rounds; ++i) {
                         while (round.load() != i) ::sched_yield();
                         for (int k = 0; k < 3; ++k) put(*tx, 0);
                     }
                 });
             });
             for (int i = 1; i <= rounds; ++i) {
                 put(*tx, 0);
                 Taken t = take(*rx, 1);
                 round.store(i);
                 CHECK(rx->linger(t, 4, kForever, keep_going));
                 CHECK_EQ(t.count, 4u);
                 rx->end(t, false);
             }
             other.join();
         }},
        {"lingering ends at its time, at the end of the lap and at the end of the lane",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 4});
             auto rx = receiver(home);
             put(*tx, 0);
             Taken t = take(*rx, 4);
             CHECK(rx->linger(t, 4, sys::now_ns() + 1'000'000, keep_going));
             CHECK_EQ(t.count, 1u);
             put(*tx, 1), put(*tx, 2), put(*tx, 3);
             CHECK(rx->linger(t, 100, kForever, keep_going));
             CHECK_EQ(t.count, 4u);
             rx->end(t, false);
             put(*tx, 4);
             t = take(*rx, 4);
             tx->close(false);
             CHECK(rx->linger(t, 4, kForever, keep_going));
             CHECK_EQ(t.count, 1u);
         }},
        {"lingering never takes what does not follow, nor behind a redelivered message",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 0), put(*tx, 1), put(*tx, 2);
             Taken t = take(*a, 4);
             CHECK_EQ(t.count, 3u);
             put(*tx, 3);
             CHECK_EQ(take_value(*b), 3u);
             put(*tx, 4);
             CHECK(a->linger(t, 8, sys::now_ns(), keep_going));
             CHECK_EQ(t.count, 3u);
             CHECK_EQ(take_value(*b), 4u);  // was not taken and given back
             a->end(t, false);
             put(*tx, 5);
             {
                 auto gone = receiver(home);
                 take(*gone);
             }
             CHECK(a->registry.bury_dead());
             Taken again = take(*a);
             CHECK_EQ(again.deaths, 1u);
             put(*tx, 6);
             CHECK(a->linger(again, 8, sys::now_ns(), keep_going));
             CHECK_EQ(again.count, 1u);
         }},
        {"an end that leaves with a view keeps its id until the view is gone",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto a = receiver(home);
             put(*tx, 0);
             const Taken t = take(*a);
             a->end(t, true);
             a->close();
             CHECK_EQ(state_in<MemberState>(tx->registry.file.member(0).state.load(seq_cst)), MemberState::leaving);
             auto b = receiver(home);
             CHECK_EQ(b->registry.id, 1u);
             CHECK_EQ(a->outstanding(), 1u);
             a->end(t, false);
             CHECK_EQ(a->outstanding(), 0u);
             leave(a->registry);
             auto c = receiver(home);
             CHECK_EQ(c->registry.id, 0u);
         }},
        {"a single member that looks at a damaged word finds what a take would give",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 7);
             tx->slab().row(0)[0].store(word(9, Ack::done), seq_cst);  // of a lap to come
             CHECK_EQ(rx->there(8), 1u);
             CHECK_EQ(take_value(*rx), 7u);
         }},
        {"a damaged word in shared memory harms nobody",
         [] {
             Home home;
             auto tx = sender(home, spec(kShared));
             auto rx = receiver(home);
             put(*tx, 0);
             take_value(*rx);
             tx->close(false);
             CHECK(rx->ended());
             for (const uint64_t w : std::initializer_list<uint64_t>{word(1, Ack::taken, 0xffff), word(1, Ack::taken, 64),
                                                                     ~0ull, word(kMaxLap, Ack::orphan)}) {
                 tx->slab().row(0)[3].store(w, seq_cst);
                 (void)rx->ended();
                 (void)nothing(*rx);
                 rx->look_after_others();
             }
             CHECK_EQ(rx->registry.file.header().lanes_epoch.fetch_add(1, seq_cst), 1u);  // a join that never was
             (void)nothing(*rx);
         }},
    });
}
