#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

using Mode = Spinner::Mode;

constexpr uint64_t kRounds = kThreadSanitizer ? 5000 : 20000;

std::thread in_thread(auto body) {
    return std::thread([body] { check::guarded(body); });
}
Atomic64& idle(const Registry& r, uint32_t stage = 0) { return r.file.stage(stage).idle; }
Atomic64& senders_idle(const Registry& r) { return r.file.header().senders_idle; }
void until_asleep(const Atomic64& mask, uint64_t bits) {
    while ((mask.load(seq_cst) & bits) != bits) ::sched_yield();
}
uint64_t late_wakes(const Registry& r) { return r.file.header().late_wakes.load(relaxed); }

Taken receive(Receiver& r) {
    Taken t;
    CHECK_EQ(r.receive(1, t, kForever, keep_going), Wait::ready);
    return t;
}
uint64_t receive_value(Receiver& r) {
    const Taken t = receive(r);
    const uint64_t v = value_of(t);
    r.end(t, false);
    return v;
}
void send_value(Sender& s, uint64_t value) {
    Loan loan;
    CHECK_EQ(s.loan(1, loan, kForever, keep_going), Wait::ready);
    write_value(loan, s, 0, value);
    s.commit(loan, 1);
}

void pause_or_yield(uint64_t spins) {
    if (spins % 4096 == 0) ::sched_yield();
    else cpu_pause();
}

/// A message forth and an answer back: each one finds the other asleep.
void ping_pong(uint64_t n) {
    Home home;
    auto out = sender(home, spec(Pattern::spsc), {.name = "forth"});
    auto back = sender(home, spec(Pattern::spsc), {.name = "back"});
    auto in = receiver(home, "", {.name = "forth"});
    auto answers = receiver(home, "", {.name = "back"});
    std::thread other = in_thread([&] {
        for (uint64_t i = 0; i < n; ++i) send_value(*back, receive_value(*in));
    });
    for (uint64_t i = 0; i < n; ++i) {
        send_value(*out, i);
        CHECK_EQ(receive_value(*answers), i);
    }
    other.join();
    CHECK_EQ(late_wakes(out->registry) + late_wakes(back->registry), 0u);
}

/// Both halves of the wake pair at the same moment, again and again: one of them must see the other.
void wake_pair(uint64_t n, bool fences) {
    Home home;
    auto tx = sender(home);
    auto rx = receiver(home);
    ChannelHeader& header = tx->registry.file.header();
    const WakerFence fence(header);
    if (fences) header.fences_needed.fetch_add(1, seq_cst);
    Atomic64& mask = idle(tx->registry);
    alignas(128) static Atomic64 published, round, seen_by_waker;
    published.store(0), round.store(0), seen_by_waker.store(0);
    const auto dawdle = [](std::minstd_rand& random) {
        for (uint64_t k = random() % 64; k > 0; --k) std::atomic_signal_fence(seq_cst);
    };
    std::thread waker = in_thread([&] {
        std::minstd_rand random(1);
        for (uint64_t i = 1; i <= n; ++i) {
            for (uint64_t k = 1; round.load(acquire) != i; ++k) pause_or_yield(k);
            dawdle(random);
            published.store(i, release);
            fence();
            seen_by_waker.store(i << 1 | (mask.load(relaxed) != 0), release);
        }
    });
    std::minstd_rand random(2);
    Bed bed(rx->registry, mask, 0);
    for (uint64_t i = 1; i <= n; ++i) {
        round.store(i, release);
        dawdle(random);
        bed.lie_down();
        const bool seen = published.load(acquire) == i;
        for (uint64_t k = 1; seen_by_waker.load(acquire) >> 1 != i; ++k) pause_or_yield(k);
        if (!seen && !(seen_by_waker.load(acquire) & 1)) check::fail("a lost wake in round " + std::to_string(i));
        bed.rise(true);
    }
    waker.join();
}

}  // namespace

int main() {
    return check::run({
        {"no wake is lost over many sleeps", [] { ping_pong(kRounds); }},
        {"who publishes sees who lies down, or is seen", [] { wake_pair(4 * kRounds, false); }},
        {"also where wakers need fences of their own", [] { wake_pair(100 * kRounds, true); }},
        {"a publish wakes a receiver, an end wakes the sender",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 1});
             auto rx = receiver(home);
             std::thread reader = in_thread([&] {
                 for (uint64_t i = 0; i < 3; ++i) {
                     CHECK_EQ(receive_value(*rx), i);
                     until_asleep(senders_idle(tx->registry), 1);
                 }
                 receive_value(*rx);
                 receive_value(*rx);
             });
             for (uint64_t i = 0; i < 5; ++i) {
                 if (i == 0) until_asleep(idle(rx->registry), 1);
                 send_value(*tx, i);
             }
             reader.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"the end of a message wakes the stage behind",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(home, "a"), b = receiver(home, "b");
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*b), 7u); });
             until_asleep(idle(b->registry, 1), 2);
             put(*tx, 7);
             const Taken t = take(*a);
             CHECK_EQ(idle(b->registry, 1).load(seq_cst), 2u);  // not by the publish
             a->end(t, true);
             reader.join();
             a->end(t, false);
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"one wake for a batch is passed on from member to member",
         [] {
             Home home;
             constexpr int n = 4;
             auto tx = sender(home, spec(Pattern::spmc));
             std::vector<std::unique_ptr<Receiver>> members;
             std::vector<std::thread> threads;
             std::atomic<uint64_t> sum{0};
             for (int i = 0; i < n; ++i) members.push_back(receiver(home));
             for (auto& m : members)
                 threads.push_back(in_thread([&] {
                     const Taken t = receive(*m);
                     sum.fetch_add(value_of(t));
                     while (sum.load() != 1111) ::sched_yield();  // busy with it until all have theirs
                     m->end(t, false);
                 }));
             until_asleep(idle(tx->registry), (1 << n) - 1);
             const Loan loan = lend(*tx, n);
             for (uint64_t i = 0, v = 1; i < n; ++i, v *= 10) write_value(loan, *tx, i, v);
             tx->commit(loan, n);
             for (auto& t : threads) t.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"who was woken and does not use it passes the wake on",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spmc));
             auto a = receiver(home), b = receiver(home);
             Atomic64& mask = idle(tx->registry);
             const auto wakes = [](const Receiver& r) { return r.registry.me().wakes.load(seq_cst); };
             for (const bool took : {false, true}) {
                 Bed bed_a(a->registry, mask, 0), bed_b(b->registry, mask, 0);
                 bed_a.lie_down(), bed_b.lie_down();
                 CHECK_EQ(mask.load(seq_cst), 3u);
                 const uint32_t before_a = wakes(*a), before_b = wakes(*b);
                 wake_one(tx->registry.file, mask, 0);
                 CHECK(bed_a.woken() && !bed_b.woken());
                 CHECK_EQ(wakes(*a), before_a + 1);
                 bed_a.rise(took);
                 CHECK_EQ(bed_b.woken(), !took);
                 CHECK_EQ(wakes(*b), before_b + !took);
             }
             CHECK_EQ(mask.load(seq_cst), 0u);
         }},
        {"a time-out passes on the wake that came too late for it",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spmc));
             auto a = receiver(home), b = receiver(home);
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*b), 5u); });
             until_asleep(idle(tx->registry), 2);
             Bed bed(a->registry, idle(tx->registry), 0);
             bed.lie_down();
             put(*tx, 5);       // wakes a, the lower id
             bed.rise(false);  // which goes away without a message
             reader.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"an exception in a wait leaves no bit behind that would swallow a wake",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             Taken t;
             bool threw = false;
             try {
                 rx->receive(1, t, kForever, []() -> bool { throw std::runtime_error("out of file descriptors"); });
             } catch (const std::runtime_error&) {
                 threw = true;
             }
             CHECK(threw);
             CHECK_EQ(idle(rx->registry).load(seq_cst), 0u);
         }},
        {"a wait ends at its deadline, not before it",
         [] {
             for (const Mode mode : {Mode::block, Mode::adaptive, Mode::spin}) {
                 Home home;
                 auto tx = sender(home, spec(), {.capacity = 1, .wait = mode});
                 auto rx = receiver(home, "", {.wait = mode});
                 Taken t;
                 const uint64_t start = sys::now_ns();
                 CHECK_EQ(rx->receive(1, t, start + 3'000'000, keep_going), Wait::timeout);
                 CHECK(sys::now_ns() - start >= 3'000'000);
                 CHECK_EQ(rx->receive(1, t, 0, keep_going), Wait::timeout);  // does not wait at all
                 put(*tx, 1);
                 Loan loan;
                 CHECK_EQ(tx->loan(1, loan, sys::now_ns() + 1'000'000, keep_going), Wait::timeout);
                 CHECK_EQ(tx->drain(sys::now_ns(), keep_going), Wait::timeout);
                 CHECK_EQ(rx->receive(1, t, 0, keep_going), Wait::ready);
                 CHECK_EQ(senders_idle(tx->registry).load(seq_cst), 0u);
             }
         }},
        {"close from another thread ends every wait",
         [] {
             for (const Mode mode : {Mode::block, Mode::spin}) {
                 Home home;
                 auto tx = sender(home, spec(), {.capacity = 1, .wait = mode});
                 auto rx = receiver(home, "", {.wait = mode});
                 std::thread reader = in_thread([&] {
                     Taken t;
                     CHECK_EQ(rx->receive(1, t, kForever, keep_going), Wait::stopped);
                 });
                 if (mode == Mode::block) until_asleep(idle(rx->registry), 1);
                 rx->stopping.store(true);
                 wake(rx->registry.me());
                 reader.join();
                 put(*tx, 1);
                 std::thread writer = in_thread([&] {
                     Loan loan;
                     CHECK_EQ(tx->loan(1, loan, kForever, keep_going), Wait::stopped);
                 });
                 if (mode == Mode::block) until_asleep(senders_idle(tx->registry), 1);
                 tx->stopping.store(true);
                 wake(tx->registry.me());
                 writer.join();
             }
         }},
        {"a tick that says no interrupts the wait",
         [] {
             for (const Mode mode : {Mode::block, Mode::spin}) {
                 Home home;
                 auto tx = sender(home);
                 auto rx = receiver(home, "", {.wait = mode});
                 Taken t;
                 CHECK_EQ(rx->receive(1, t, kForever, [] { return false; }), Wait::interrupted);
                 CHECK_EQ(idle(rx->registry).load(seq_cst), 0u);
             }
         }},
        {"a signal is looked at before the slice ends",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             static std::atomic<int> signals{0};
             struct sigaction act {};
             act.sa_handler = [](int) { signals.fetch_add(1); };
             ::sigaction(SIGUSR1, &act, nullptr);
             signals.store(0);
             const pthread_t self = ::pthread_self();
             std::atomic<bool> done{false};
             std::thread other = in_thread([&] {
                 while (!done.load()) {  // until one has met it asleep
                     until_asleep(idle(rx->registry), done.load() ? 0 : 1);
                     ::pthread_kill(self, SIGUSR1);
                     ::sched_yield();
                 }
             });
             Taken t;
             CHECK_EQ(rx->receive(1, t, kForever, [] { return signals.load() == 0; }), Wait::interrupted);
             done.store(true);
             idle(rx->registry).fetch_or(1);
             other.join();
             idle(rx->registry).fetch_and(~1ull);
         }},
        {"the last sender's close wakes receivers that wait",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home);
             std::vector<std::thread> threads;
             for (Receiver* r : {a.get(), b.get()})
                 threads.push_back(in_thread([r] {
                     Taken t;
                     CHECK_EQ(r->receive(1, t, kForever, keep_going), Wait::stopped);
                     CHECK(r->ended());
                 }));
             until_asleep(idle(tx->registry), 3);
             tx->close(false);
             for (auto& t : threads) t.join();
         }},
        {"the member that ends the last message lets the others see the end",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 1);
             const Taken t = take(*a);
             tx->close(false);
             std::thread other = in_thread([&] {
                 Taken none;
                 CHECK_EQ(b->receive(1, none, kForever, keep_going), Wait::stopped);
             });
             until_asleep(idle(tx->registry), 2);
             a->end(t, false);
             other.join();
         }},
        {"who waits for the next sender is woken when it joins",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             rx->follow = true;
             tx->close(false);
             leave(tx->registry);
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*rx), 8u); });
             until_asleep(idle(rx->registry), 1);
             auto next = sender(home);
             put(*next, 8);
             reader.join();
         }},
        {"a killed member is buried by those that wait, and they get its message",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spmc));
             put(*tx, 6);
             Child gone([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(home);
                 take(*rx);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             const Taken t = receive(*rx);
             CHECK_EQ(value_of(t), 6u);
             CHECK_EQ(t.deaths, 1u);
         }},
        {"a killed sender is buried by those that wait for it",
         [] {
             Home home;
             Child gone([&](Child&) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(home);
                 put(*tx, 6);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             CHECK_EQ(receive_value(*rx), 6u);
             Taken t;
             CHECK_EQ(rx->receive(1, t, kForever, keep_going), Wait::stopped);
             CHECK(rx->sender_lost());
         }},
        {"an end that only polls buries the dead too",
         [] {
             Home home;
             Child gone([&](Child&) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(home);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             while (!rx->ended_now()) CHECK(nothing(*rx));
             CHECK(rx->sender_lost());
         }},
        {"a member that lingers swallows no wake of its stage",
         [] {
             Home home;
             auto a = sender(home, spec(Pattern::mpmc)), b = sender(home, spec(Pattern::mpmc));
             auto lingers = receiver(home), waits = receiver(home);
             put(*a, 1);
             Taken t = take(*lingers, 8);
             std::thread lingering = in_thread([&] { CHECK(lingers->linger(t, 8, kForever, keep_going)); });
             std::thread waiting = in_thread([&] { CHECK_EQ(receive_value(*waits), 2u); });
             until_asleep(idle(a->registry), 2);
             put(*b, 2);
             waiting.join();
             lingers->stopping.store(true);
             lingering.join();
             CHECK_EQ(late_wakes(a->registry), 0u);
         }},
        {"a batch that waits for more slots than are free is no late wake",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 4});
             auto rx = receiver(home);
             for (int i = 0; i < 4; ++i) put(*tx, 0);
             take_value(*rx);
             Loan loan;
             CHECK_EQ(tx->loan(3, loan, sys::now_ns() + 250'000'000u, keep_going), Wait::timeout);
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"spinning learns from its hits; block never spins",
         [] {
             Spinner block(Mode::block), spin(Mode::spin), adaptive;
             CHECK_EQ(block.budget(), 0u);
             CHECK_EQ(spin.budget(), kForever);
             if (sys::usable_cpus() < 2) return;
             const uint64_t at_first = adaptive.budget();
             for (int i = 0; i < 20; ++i) adaptive.missed();
             CHECK(adaptive.budget() < at_first);
             for (int i = 0; i < 20; ++i) adaptive.hit();
             CHECK(adaptive.budget() > at_first);
         }},
    });
}
