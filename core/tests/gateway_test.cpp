#include "carried.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr uint64_t kMany = kSanitized ? 3000 : 20'000;

void nap(Random& random, uint64_t most_us) { ::usleep(static_cast<useconds_t>(pick(random, most_us))); }

}  // namespace

TESTS(gateway_test) {
    return check::run({
        {"who sends wakes a connection that sleeps, at whatever moment it lay down",
         [] {
             for (const bool kicked : {true, false}) {
                 Pair road({}, kicked);
                 Random random(1);
                 for (uint64_t n = 0; n < kMany / 10; ++n) {
                     road.send(n);
                     road.check(n);
                     if (n % 3 == 0) nap(random, 60);  // the pump lingers, lies down, sleeps
                 }
             }
         }},
        {"a stream goes through sender, pump and receiver, whoever of them is at it",
         [] {
             for (const auto wait : {Spinner::Mode::block, Spinner::Mode::adaptive}) {
                 Pair road({.capacity = 64, .far_capacity = 64}, true, wait);
                 std::thread sends = in_thread([&] {
                     Random random(2);
                     for (uint64_t n = 0; n < kMany; ++n) {
                         road.send(n);
                         if (pick(random, 50) == 0) nap(random, 100);
                     }
                 });
                 Random random(3);
                 for (uint64_t n = 0; n < kMany; ++n) {
                     road.check(n);
                     if (pick(random, 500) == 0) nap(random, 8000);  // longer than it has its connections to itself
                 }
                 sends.join();
             }
         }},
        {"what a receiver lets go is told while it does not come back",
         [] {
             Pair road;
             for (uint64_t n = 0; n < 20; ++n) {
                 road.send(n);
                 road.check(n);
                 CHECK_EQ(road.tx->drain(kForever, keep_going), Wait::ready);
             }
             const Taken kept = (road.send(20), receive_carried(*road.rx, *road.b.gateway));
             ::usleep(40'000);
             road.rx->end(kept, false);
             CHECK_EQ(road.tx->drain(kForever, keep_going), Wait::ready);
         }},
        {"messages arrive while a receiver that waited works on one",
         [] {
             Pair road;
             std::thread waits = in_thread([&] {  // until the pump does not look any more
                 ::usleep(20'000);
                 road.send(0);
             });
             road.check(0);
             waits.join();
             road.send(1);
             while (road.rx->there(1) == 0) ::sched_yield();
             road.check(1);
         }},
        {"a receiver that keeps its whole ring stops the sender, and what it lets go starts it again",
         [] {
             Pair road({.capacity = 4, .far_capacity = 4});
             std::atomic<uint64_t> sent{0};
             std::thread sends = in_thread([&] {
                 for (uint64_t n = 0; n < 200; ++n) road.send(n), ++sent;
             });
             for (uint64_t n = 0; n < 200; n += 4) {
                 std::vector<Taken> kept;
                 for (uint64_t i = 0; i < 4; ++i) {
                     kept.push_back(receive_carried(*road.rx, *road.b.gateway));
                     check_message(road.far.kind.shape(n + i), kept.back(), 0, n + i);
                 }
                 CHECK(sent.load() <= n + 9);  // both rings, and one that is being counted
                 for (const Taken& t : kept) road.rx->end(t, false);
             }
             sends.join();
         }},
        {"several senders kick one connection",
         [] {
             Pair road({.capacity = 16, .far_capacity = 16});
             std::vector<std::thread> threads;
             for (uint64_t s = 0; s < 4; ++s)
                 threads.push_back(in_thread([&, s] {
                     auto tx = road.near.sender();
                     Random random(static_cast<unsigned>(s));
                     for (uint64_t n = 0; n < kMany / 8; ++n) {
                         send_carried(road.near.kind, *tx, *road.a.gateway, s << 32 | n);
                         if (pick(random, 20) == 0) nap(random, 50);
                     }
                     CHECK_EQ(tx->drain(kForever, keep_going), Wait::ready);
                     goodbye(tx);
                 }));
             uint64_t next[4] = {};
             for (uint64_t n = 0; n < 4 * (kMany / 8); ++n) {
                 const Taken t = receive_carried(*road.rx, *road.b.gateway);
                 uint64_t s = 0;
                 for (; s < 4; ++s) {  // whose next one is it?
                     bool same = true;
                     for (uint64_t i = 0; same && i < 64; ++i) same = t.data[i] == byte_of(s << 32 | next[s], i);
                     if (same) break;
                 }
                 CHECK(s < 4);
                 ++next[s];
                 road.rx->end(t, false);
             }
             for (auto& t : threads) t.join();
         }},
        {"what comes in over one connection goes out over another of the same channel",
         [] {
             Home home;
             Host a, b, c;
             Local near(home, "near"), mid(home, "mid"), far(home, "far");
             auto tx = near.sender();
             Wire first(near, mid, *a.gateway, *b.gateway);
             Wire second(mid, far, *b.gateway, *c.gateway);
             auto rx = far.receiver();
             first.connect(*a.pump, *b.pump);
             second.connect(*b.pump, *c.pump);
             Random random(5);
             for (uint64_t n = 0; n < kMany / 4; ++n) {
                 send_carried(near.kind, *tx, *a.gateway, n);
                 check_carried(far.kind, *rx, *c.gateway, n);
                 if (n % 3 == 0) nap(random, 60);
             }
         }},
        {"connections are lost and made again while a stream goes on: each message once, in order",
         [] {
             Pair road({.shapes = {rows(3000)}, .capacity = 16, .far_capacity = 8});
             std::atomic<bool> over{false};
             std::thread sends = in_thread([&] {
                 for (uint64_t n = 0; n < kMany / 4; ++n) road.send(n);
             });
             std::thread breaks = in_thread([&] {
                 Random random(6);
                 while (!over) {
                     nap(random, 3000);
                     road.wire.disconnect();
                     nap(random, 300);
                     road.connect();
                 }
             });
             for (uint64_t n = 0; n < kMany / 4; ++n) road.check(n);
             over = true;
             sends.join(), breaks.join();
         }},
        {"64 connections into one channel, of which some come and go",
         [] {
             constexpr uint64_t kWires = 64, kEach = kSanitized ? 50 : 300;
             Home home;
             Host a, b;
             Local far(home, "far", {.capacity = 8, .far_capacity = 8});
             struct Source {
                 Local near;
                 std::unique_ptr<Sender> tx;
                 Wire wire;
                 Source(const Home& h, const Local& to, Host& a, Host& b, uint64_t i)
                     : near(h, "near" + std::to_string(i)), tx(near.sender()), wire(near, to, *a.gateway, *b.gateway) {
                     wire.connect(*a.pump, *b.pump);
                 }
             };
             std::vector<std::unique_ptr<Source>> sources;
             for (uint64_t i = 0; i < kWires / 2; ++i) sources.push_back(std::make_unique<Source>(home, far, a, b, i));
             auto rx = far.receiver();
             std::thread sends = in_thread([&] {
                 for (uint64_t i = kWires / 2; i < kWires; ++i) sources.push_back(std::make_unique<Source>(home, far, a, b, i));
                 for (uint64_t n = 0; n < kEach; ++n)
                     for (uint64_t i = 0; i < kWires; ++i) send_carried(sources[i]->near.kind, *sources[i]->tx, *a.gateway, n);
             });
             std::map<const LaneReader*, uint64_t> next;
             for (uint64_t n = 0; n < kWires * kEach; ++n) {
                 const Taken t = receive_carried(*rx, *b.gateway);
                 check_message(far.kind.shape(0), t, 0, next[t.lane]++);
                 rx->end(t, false);
             }
             sends.join();
             CHECK_EQ(next.size(), kWires);
         }},
        {"a sender without a pause does not keep the pump from the others",
         [] {
             Home home;
             Host a, b;
             const Kind kind{.capacity = 256, .far_capacity = 256};
             Local near(home, "near", kind), far(home, "far", kind), other(home, "other"), last(home, "last");
             auto tx = near.sender(), quiet = other.sender();
             Gateway second(a.pump), fourth(b.pump);
             Wire busy(near, far, *a.gateway, *b.gateway), wire(other, last, second, fourth);
             auto rx = far.receiver(), final = last.receiver();
             std::atomic<bool> over{false};
             busy.connect(*a.pump, *b.pump);
             wire.connect(*a.pump, *b.pump);
             std::thread sends = in_thread([&] {
                 for (uint64_t n = 0; !over; ++n) {
                     Loan loan;
                     if (!tx->try_loan(1, loan)) continue;
                     tx->commit(loan, 1);
                     if (a.gateway->asleep()) a.gateway->kick();
                 }
             });
             std::thread reads = in_thread([&] {
                 while (!over) {
                     Taken t;
                     if (b.gateway->receive(*rx, 64, t, sys::now_ns() + 1'000'000, keep_going) == Wait::ready) rx->end(t, false);
                 }
             });
             for (uint64_t n = 0; n < 50; ++n) {
                 CHECK(send(other.kind, *quiet, n));
                 Taken t;
                 a.pump->wake();
                 if (second.asleep()) second.kick();
                 while (!final->try_take(1, t)) ::sched_yield();
                 check_message(last.kind.shape(n), t, 0, n);
                 final->end(t, false);
                 while (quiet->occupied() != 0) ::sched_yield();
             }
             over = true;
             sends.join(), reads.join();
         }},
        {"a connection that breaks is told of, with the reason, by whoever met it",
         [] {
             Pair road;
             road.send(0);
             road.check(0);
             const uint64_t before = road.b.told.load();
             {
                 const std::lock_guard guard(road.wire.out->lock);
                 road.wire.out->disconnect();
             }
             Taken t;
             while (road.b.told.load() == before) {
                 CHECK_EQ(road.b.gateway->receive(*road.rx, 1, t, sys::now_ns() + 1'000'000, keep_going), Wait::timeout);
             }
             const std::lock_guard guard(road.wire.in->lock);
             CHECK(road.wire.in->failed());
             const std::string& why = road.wire.in->failure();  // a reset, if something came that was not read there
             CHECK(why.find("the peer closed the connection") != std::string::npos || why.find("reset") != std::string::npos);
         }},
        {"a message wakes a receiver whose connections are changed meanwhile",
         [] {
             Pair road;
             for (uint64_t n = 0; n < 100; ++n) {
                 std::thread changes = in_thread([&] {
                     road.b.gateway->remove(*road.wire.in);
                     road.b.gateway->add(road.wire.in);
                     road.send(n);
                 });
                 road.check(n);
                 changes.join();
             }
         }},
        {"the last message, and that there are no more, come when the sender closes",
         [] {
             Pair road;
             road.send(0);
             road.check(0);
             goodbye(road.tx);
             road.a.gateway->wake();
             for (;;) {
                 const std::lock_guard guard(road.wire.in->lock);
                 if (const char* why = road.wire.in->over()) {
                     CHECK_EQ(std::string(why), "closed");
                     break;
                 }
             }
             for (;;) {
                 const std::lock_guard guard(road.wire.out->lock);
                 if (road.wire.out->finished()) break;
             }
         }},
        {"a forked child does not keep the connections of its parent open",
         [] {
             if (kThreadSanitizer) return;  // it forks no process with threads
             Pair road;
             road.send(0);
             road.check(0);
             road.a.pump->before_fork();
             Child child([&](Child& c) {
                 road.wire.out->close_in_child();
                 road.a.pump->after_fork_in_child();
                 c.here();
                 for (;;) ::pause();
             });
             road.a.pump->after_fork_in_parent();
             child.wait_here();
             {
                 const std::lock_guard guard(road.wire.out->lock);
                 road.wire.out->close_in_child();  // as when the parent is killed
             }
             road.a.pump->wake();  // what it polls stays open
             while (road.b.told.load() == 0) ::sched_yield();
         }},
    });
}
