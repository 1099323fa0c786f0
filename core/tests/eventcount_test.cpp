#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr uint64_t kRounds = kSanitized ? 5000 : 20000;

constexpr uint64_t kLongest = 5'000'000'000;  // ns: where others need the processors each round may cost a time slice

void pause_or_yield(uint64_t spins) {
    if (spins % 4096 == 0) ::sched_yield();
    else cpu_pause();
}

/// A message forth and an answer back: each one finds the other asleep. Up to `n` times.
void ping_pong(uint64_t n) {
    Home home;
    auto out = sender(home, spec(Pattern::spsc), {.name = "forth"});
    auto back = sender(home, spec(Pattern::spsc), {.name = "back"});
    auto in = receiver(home, "", {.name = "forth"});
    auto answers = receiver(home, "", {.name = "back"});
    std::thread other = in_thread([&] {
        for (uint64_t v = 0; v != kForever;) send_value(*back, v = receive_value(*in));
    });
    const uint64_t start = sys::now_ns();
    for (uint64_t i = 0; i < n && sys::now_ns() - start < kLongest; ++i) {
        send_value(*out, i);
        CHECK_EQ(receive_value(*answers), i);
    }
    send_value(*out, kForever);
    other.join();
    CHECK_EQ(late_wakes(out->registry) + late_wakes(back->registry), 0u);
}

/// Both halves of the wake pair at the same moment, again and again: one of them must see the other. Up to `n` times.
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
            for (uint64_t k = 1; round.load(acquire) < i; ++k) pause_or_yield(k);
            if (round.load(acquire) != i) return;  // no time left
            dawdle(random);
            published.store(i, release);
            fence();
            seen_by_waker.store(i << 1 | (mask.load(relaxed) != 0), release);
        }
    });
    std::minstd_rand random(2);
    Bed bed(rx->registry, mask, 0);
    const uint64_t start = sys::now_ns();
    for (uint64_t i = 1; i <= n && sys::now_ns() - start < kLongest; ++i) {
        round.store(i, release);
        dawdle(random);
        bed.lie_down();
        const bool seen = published.load(acquire) == i;
        for (uint64_t k = 1; seen_by_waker.load(acquire) >> 1 != i; ++k) pause_or_yield(k);
        if (!seen && !(seen_by_waker.load(acquire) & 1)) check::fail("a lost wake in round " + std::to_string(i));
        bed.rise(true);
    }
    round.store(n + 1, release);
    waker.join();
}

}  // namespace

TESTS(eventcount_test) {
    return check::run({
        {"no wake is lost over many sleeps", [] { ping_pong(kRounds); }},
        {"who publishes sees who lies down, or is seen", [] { wake_pair(2 * kRounds, false); }},
        {"also where wakers need fences of their own", [] { wake_pair(25 * kRounds, true); }},
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
                 tx->registry.wake_one(mask, 0);
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
        {"who was preempted while it span does not spin for a while, each time for longer, until a spin hits again",
         [] {
             if (sys::usable_cpus() < 2) return;
             constexpr uint64_t ms = 1'000'000;
             Spinner spinner;
             const auto preempted = [&](uint64_t now) {  // two threads on one processor: the kernel takes it from each
                 std::atomic<bool> done{false};
                 std::thread both = in_thread([&] {
                     cpu_set_t one;
                     CPU_ZERO(&one);
                     CPU_SET(static_cast<size_t>(::sched_getcpu()), &one);
                     CHECK_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
                     std::thread other = in_thread([&] {
                         while (!done.load()) cpu_pause();
                     });
                     spinner.goes_on();
                     for (const uint64_t before = sys::preemptions(); sys::preemptions() == before;) cpu_pause();
                     spinner.missed(now);
                     done.store(true);
                     other.join();
                 });
                 both.join();
             };
             uint64_t now = ms;
             for (const uint64_t rest : {ms, 2 * ms, 4 * ms}) {
                 CHECK(spinner.budget(now) != 0);
                 preempted(now);
                 CHECK_EQ(spinner.budget(now + rest - 1), 0u);
                 now += rest;
             }
             CHECK(spinner.budget(now) != 0);
             uint64_t undisturbed = 0;
             while (undisturbed < 2) {  // a spin that hits; this thread may be preempted in it as well
                 spinner.goes_on();
                 const uint64_t before = sys::preemptions();
                 spinner.hit(now);
                 undisturbed = before == sys::preemptions() ? undisturbed + 1 : 0;
                 now += 2000 * ms;
             }
             preempted(now);
             CHECK_EQ(spinner.budget(now + ms - 1), 0u);
             CHECK(spinner.budget(now + ms) != 0);
         }},
        {"spinning learns from its hits; block never spins",
         [] {
             Spinner block(Mode::block), spin(Mode::spin), adaptive;
             CHECK_EQ(block.budget(0), 0u);
             CHECK_EQ(spin.budget(0), kForever);
             if (sys::usable_cpus() < 2) return;
             const uint64_t at_first = adaptive.budget(0);
             for (int i = 0; i < 20; ++i) adaptive.missed(0);
             CHECK(adaptive.budget(0) < at_first);
             for (int i = 0; i < 20; ++i) adaptive.hit(0);
             CHECK(adaptive.budget(0) > at_first);
         }},
    });
}
