#include "payload.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

struct Looks {
    bool latest = false;
    uint64_t history = 0;
    bool from_start = false;
};
std::unique_ptr<Tap> tap(const Home& home, const Looks& o = {}, const std::string& name = "test") {
    return open_tap(home.directory, name, {o.latest, o.history, o.from_start, Mode::block}, "test");
}

/// What a tap read: of one message its first word.
struct Read {
    uint64_t value, missed, count;
};
std::optional<Read> try_read(Tap& t, uint64_t limit = 1) {
    for (Sight s; t.find(limit, s);) {
        std::vector<std::byte> copy(s.count * s.stride());
        if (!t.read(s, [&] { copy_shared(copy.data(), s.data(), copy.size()); })) continue;
        Read r{0, s.missed, s.count};
        std::memcpy(&r.value, copy.data(), 8);
        return r;
    }
    return std::nullopt;
}
Read read(Tap& t, uint64_t limit = 1) {
    const auto r = try_read(t, limit);
    if (!r) check::fail("no message is there");
    return *r;
}
void check_read(Tap& t, uint64_t value, uint64_t missed = 0) {
    const Read r = read(t);
    CHECK_EQ(r.value, value);
    CHECK_EQ(r.missed, missed);
}
void goodbye(std::unique_ptr<Tap>& t) {
    t->close();
    leave(t->registry);
    t.reset();
}
const ChannelSpec kOpen = spec(Pattern::mpsc, {});  // holds nobody

/// A sender's messages carry numbers; what is taken back carries none. Returns how many were sent.
uint64_t send_some(Sender& s, Random& random, uint64_t& number) {
    const uint64_t before = number, most = std::min<uint64_t>(s.capacity(), 1 + pick(random, 6));
    if (pick(random, 3) == 0) {
        const Loan all = lend(s, most);  // skips the rest of a lap
        const uint64_t n = pick(random, most + 1);
        for (uint64_t i = 0; i < n; ++i) write_value(all, s, i, number++);
        n != 0 ? s.commit(all, n, pick(random, 2) != 0) : s.discard(all, pick(random, 2) != 0);
        return number - before;
    }
    std::vector<Loan> loans;
    for (uint64_t i = 0; i < most; ++i) {
        loans.push_back(lend(s));
        write_value(loans.back(), s, 0, ~0ull);
    }
    for (const Loan& loan : loans)
        if (pick(random, 3) != 0) write_value(loan, s, 0, number++);
    for (; !loans.empty(); loans.erase(loans.begin())) {
        uint64_t v;
        const size_t i = pick(random, loans.size());  // in any order
        std::swap(loans[0], loans[i]);
        std::memcpy(&v, loans[0].data, 8);
        v != ~0ull ? s.commit(loans[0], 1) : s.discard(loans[0]);
    }
    return number - before;
}

}  // namespace

TESTS(tap_test) {
    return check::run({
        {"a tap sees what is sent after it came, and holds nobody up",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             put(*tx, 1);
             auto t = tap(home);
             CHECK(!try_read(*t));
             for (uint64_t lap = 0; lap < 3; ++lap) {
                 for (uint64_t i = 0; i < 6; ++i) put(*tx, 10 * lap + i);
                 for (uint64_t i = 0; i < 6; ++i) check_read(*t, 10 * lap + i);
             }
             CHECK(!try_read(*t));
             for (uint64_t i = 0; i < 100; ++i) put(*tx, i);
             CHECK_EQ(t->registry.me().tap_at.load(), 0u);
         }},
        {"a tap begins with the last messages that are there, messages and not positions",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             for (uint64_t i = 0; i < 21; ++i) {
                 const Loan gone = lend(*tx);
                 put(*tx, i);
                 tx->discard(gone);
             }
             auto last = tap(home, {.history = 2}), all = tap(home, {.history = 1000}), none = tap(home);
             check_read(*last, 19), check_read(*last, 20);
             CHECK(!try_read(*last) && !try_read(*none));
             const uint64_t first = read(*all).value;
             CHECK(first >= 17 && first <= 18);  // of 8 slots, one claimed ahead
             for (uint64_t i = first + 1; i < 21; ++i) check_read(*all, i);
             put(*tx, 21);
             check_read(*last, 21), check_read(*all, 21), check_read(*none, 21);
         }},
        {"a tap that was lapped goes on with what is whole and knows what it missed",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             auto t = tap(home);
             for (uint64_t i = 0; i < 1000; ++i) put(*tx, i);
             const Read r = read(*t);
             CHECK_EQ(r.value, r.missed);
             CHECK(r.value >= 992 && r.value <= 993);
             for (uint64_t i = r.value + 1; i < 1000; ++i) check_read(*t, i);
         }},
        {"a tap whose copies came too late gets the last message of a sender that pauses",
         [] {
             for (const bool taken_back : {false, true}) {
                 Home home;
                 auto tx = open_sender(home.directory, "test", kOpen, {64, 4, {}, Mode::block}, "test");
                 auto t = tap(home);
                 uint64_t number = 0;
                 const auto some = [&] {
                     for (int i = 0; i < 6; ++i) {
                         const Loan loan = lend(*tx), gone = lend(*tx);
                         write_value(loan, *tx, 0, number++);
                         if (taken_back) tx->commit(loan, 1, true), tx->discard(gone, true);
                         else tx->discard(gone), tx->commit(loan, 1);
                     }
                 };
                 some();
                 for (int late = 0; late < 5; ++late) {
                     Sight s;
                     CHECK(t->find(1, s));
                     CHECK(!t->read(s, some));
                 }
                 Read r = read(*t);
                 CHECK_EQ(r.value, r.missed);
                 CHECK_EQ(r.value, number - 1);
                 CHECK(!try_read(*t));
             }
         }},
        {"what a tap saw and what it missed is what was sent, whatever senders take back",
         [] {
             for (uint64_t capacity : {1, 2, 3, 8, 64, 500}) {
                 Home home;
                 auto tx = open_sender(home.directory, "test", kOpen, {64, capacity, {}, Mode::block}, "test");
                 auto t = tap(home), young = tap(home);
                 Random random(static_cast<unsigned>(capacity));
                 uint64_t number = 0, next = 0, young_next = 0;
                 for (uint64_t round = 0; round < 20'000; ++round) {
                     send_some(*tx, random, number);
                     if (pick(random, round / 2'000 + 1) == 0)
                         while (const auto r = try_read(*t)) {
                             CHECK_EQ(r->value, next + r->missed);
                             next = r->value + 1;
                         }
                     if (pick(random, 100) == 0) {  // comes again, with a history
                         goodbye(young);
                         const uint64_t history = 1 + pick(random, 10);
                         young = tap(home, {.history = history});
                         const auto r = try_read(*young);
                         if (r) CHECK_EQ(r->missed, 0u);
                         if (r) CHECK(r->value + history >= number);
                         young_next = r ? r->value + 1 : number;
                     }
                     if (pick(random, 70) == 0)
                         while (const auto r = try_read(*young)) {
                             CHECK_EQ(r->value, young_next + r->missed);
                             young_next = r->value + 1;
                         }
                 }
                 goodbye(tx);
                 while (const auto r = try_read(*t)) {
                     CHECK_EQ(r->value, next + r->missed);
                     next = r->value + 1;
                 }
                 CHECK(t->ended());
             }
         }},
        {"a tap that looks for the newest misses all between",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             auto t = tap(home, {.latest = true});
             for (uint64_t i = 0; i < 5; ++i) put(*tx, i);
             check_read(*t, 4, 4);
             CHECK(!try_read(*t));
             for (uint64_t i = 5; i < 100; ++i) put(*tx, i);
             check_read(*t, 99, 94);
         }},
        {"a copy that was overwritten meanwhile does not count",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             auto t = tap(home);
             put(*tx, 0);
             Sight s;
             CHECK(t->find(1, s));
             CHECK(!t->read(s, [&] {
                 for (uint64_t i = 1; i < 20; ++i) put(*tx, i);
             }));
             const Read r = read(*t);
             CHECK_EQ(r.value, r.missed);
             CHECK(r.value > 11);
         }},
        {"behind a stage that writes a tap sees only what that has finished",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"look"}, {"write", 1, true}}));
             auto look = receiver(home, "look");
             auto write = receiver(home, "write");
             auto t = tap(home);
             put(*tx, 1), put(*tx, 2);
             const Taken a = take(*look, 2);
             CHECK(!try_read(*t));
             look->end(a, false);
             const Taken first = take(*write), second = take(*write);
             write->end(second, false);
             CHECK(!try_read(*t));  // in order
             write->end(first, true);
             CHECK(!try_read(*t));  // views of the writer live
             write->finish(first);
             check_read(*t, 1), check_read(*t, 2);
         }},
        {"half-changed messages that were taken out are missed",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"write", 0, true}}));
             auto t = tap(home);
             for (uint64_t i = 0; i < 2; ++i) put(*tx, i);
             {
                 Child child([&](Child&) {
                     auto write = receiver(home);
                     write->dirty(take(*write));
                 });
                 child.wait_here();
             }
             t->registry.bury_dead();
             auto write = receiver(home);
             write->end(take(*write), false);
             check_read(*t, 1, 1);
         }},
        {"holes of a dead sender count nothing, and its lane is over once it is read",
         [] {
             Home home;
             auto other = sender(home, kOpen);
             auto t = tap(home);
             {
                 Child child([&](Child&) {
                     auto tx = sender(home, kOpen);
                     put(*tx, 0);
                     const Loan a = lend(*tx), b = lend(*tx);
                     put(*tx, 1);
                     tx->discard(b, true);
                     (void)a;
                 });
                 child.wait_here();
             }
             check_read(*t, 0);
             CHECK(!try_read(*t));
             t->look_after_others();
             check_read(*t, 1);
             CHECK(!t->ended());
             goodbye(other);
             CHECK(t->ended() && t->sender_lost());
         }},
        {"a run of messages is read at once",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             auto t = tap(home);
             for (uint64_t i = 0; i < 5; ++i) put(*tx, i);
             CHECK_EQ(read(*t, 3).count, 3u);
             CHECK_EQ(read(*t, 10).count, 2u);
             for (uint64_t i = 5; i < 11; ++i) put(*tx, i);
             CHECK_EQ(read(*t, 10).count, 3u);  // up to the end of the lap
         }},
        {"every tap that sleeps is woken by a message, and by the end",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             std::vector<std::unique_ptr<Tap>> taps;
             std::vector<std::thread> threads;
             uint64_t bits = 0;
             for (int i = 0; i < 3; ++i) taps.push_back(tap(home)), bits |= 1ull << taps.back()->registry.id;
             for (auto& t : taps)
                 threads.push_back(in_thread([&t] {
                     CHECK_EQ(t->wait(kForever, keep_going), Wait::ready);
                     check_read(*t, 7);
                     CHECK_EQ(t->wait(kForever, keep_going), Wait::stopped);
                     CHECK(t->ended());
                 }));
             Atomic64& idle = tx->registry.file.header().taps_idle;
             until_asleep(idle, bits);
             put(*tx, 7);
             until_asleep(idle, bits);
             goodbye(tx);
             for (auto& t : threads) t.join();
             CHECK_EQ(late_wakes(taps[0]->registry), 0u);
         }},
        {"behind a stage that writes a tap is woken by it",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"write", 0, true}}));
             auto write = receiver(home);
             auto t = tap(home);
             auto thread = in_thread([&t] {
                 CHECK_EQ(t->wait(kForever, keep_going), Wait::ready);
                 check_read(*t, 5);
             });
             until_asleep(tx->registry.file.header().taps_idle, 1ull << t->registry.id);
             put(*tx, 5);
             CHECK(tx->registry.file.header().taps_idle.load() != 0);
             write->end(take(*write), false);
             thread.join();
             CHECK_EQ(late_wakes(t->registry), 0u);
         }},
        {"a killed tap leaves its place to the next one",
         [] {
             Home home;
             auto tx = sender(home, kOpen);
             Atomic64& idle = tx->registry.file.header().taps_idle;
             Child child([&](Child& c) {
                 auto t = tap(home);
                 t->registry.me().tap_at.store(1);
                 c.here();
                 t->wait(kForever, keep_going);
             });
             child.wait_here();
             until_asleep(idle, 1);
             child.kill();
             tx->registry.bury_dead();
             CHECK_EQ(idle.load(), 0u);
             CHECK_EQ(tx->registry.file.member(0).tap_at.load(), 0u);
             auto t = tap(home);
             CHECK_EQ(t->registry.id, 0u);
         }},
        {"what was mapped can be read after its lane was removed",
         [] {
             Home home;
             auto tx = sender(home, kOpen), other = sender(home, kOpen);
             auto t = tap(home);
             for (uint64_t i = 0; i < 3; ++i) put(*tx, i);
             goodbye(tx);
             t->look_after_others();
             CHECK(t->lanes() == 2);
             for (uint64_t i = 0; i < 3; ++i) check_read(*t, i);
             t->look_after_others();
             CHECK(t->lanes() == 1);
             CHECK(!t->ended());
         }},
        {"a copy is whole under senders at full speed, and the count is exact",
         [] {
             for (const bool latest : {false, true}) {
                 Home home;
                 constexpr uint64_t kWords = 512;
                 const ChannelSpec wide = spec(Pattern::mpsc, {}, kWords * 8);
                 std::vector<std::unique_ptr<Sender>> senders;
                 for (int i = 0; i < 2; ++i) senders.push_back(sender(home, wide, {.capacity = 4}));
                 auto t = tap(home, {.latest = latest});
                 std::map<uint64_t, uint64_t> next;
                 for (auto& s : senders) next[s->registry.join()] = 0;
                 const uint64_t many = kSanitized ? 20'000 : 200'000;
                 std::vector<std::thread> threads;
                 for (auto& s : senders)
                     threads.push_back(in_thread([&s, many] {
                         for (uint64_t n = 0; n < many; ++n) {
                             const Loan loan = lend(*s), gone = lend(*s);
                             fill(loan.data, kWords, s->registry.join() & 0xffff, n);
                             if (n % 5 == 0) {
                                 s->commit(loan, 1, true);
                                 s->discard(gone, true);
                             } else {
                                 s->discard(gone);
                                 s->commit(loan, 1);
                             }
                         }
                         s->close(false);
                     }));
                 std::vector<std::byte> copy(kWords * 8);
                 uint64_t seen = 0;
                 while (t->wait(kForever, keep_going) == Wait::ready) {
                     Sight s;
                     if (!t->find(1, s) || !t->read(s, [&] { copy_shared(copy.data(), s.data(), copy.size()); })) continue;
                     verify(copy.data(), kWords, 0);
                     const auto* w = reinterpret_cast<const uint64_t*>(copy.data());
                     uint64_t& expected = next[w[0]];
                     CHECK_EQ(w[1], expected + s.missed);
                     expected = w[1] + 1;
                     ++seen;
                 }
                 for (auto& thread : threads) thread.join();
                 for (const auto& [join, n] : next) CHECK_EQ(n, many);
                 CHECK(seen > 2);
             }
         }},
    });
}
