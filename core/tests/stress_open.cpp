// Ends that come and go on one name, from threads and from processes that are killed in the middle of it: opening,
// joining, replacing and closing must neither fail, nor hang, nor mix two channels up, nor leave files.
#include "payload.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

const ChannelSpec kKinds[] = {{"small", 64, Pattern::mpmc, {{"main"}}}, {"large", 128, Pattern::spsc, {{"main"}}}};

/// As long as an end is open its record is its own, and a sender's channel is not closed.
void still_there(const Registry& r) { CHECK_EQ(r.me().state.load(), r.word); }
void still_open(const Registry& r) {
    still_there(r);
    CHECK_EQ(state_in<ChannelState>(r.file.header().state.load()), ChannelState::open);
}

void send_a_few(const Home& home, uint64_t kind, Random& random) {
    std::unique_ptr<Sender> tx;
    try {
        tx = sender(home, kKinds[kind], {.capacity = 4});
    } catch (const Error& e) {
        if (e.code != Errc::mismatch && e.code != Errc::busy) throw;  // there is a living sender
        return;
    }
    CHECK_EQ(tx->registry.file.shape.payload_bytes, kKinds[kind].payload_bytes);
    for (uint64_t i = pick(random, 8); i > 0; --i) {
        Loan loan;
        if (!tx->try_loan(1, loan)) break;
        fill(loan.data, kKinds[kind].payload_bytes / 8, kind, i);
        tx->commit(loan, 1);
    }
    still_open(tx->registry);
    goodbye(tx, pick(random, 4) == 0);
}

void receive_a_few(const Home& home, Random& random) {
    std::unique_ptr<Receiver> rx;
    try {
        rx = receiver(home);
    } catch (const Error& e) {
        if (e.code != Errc::busy) throw;  // there is a living member
    }
    if (!rx) return;
    const uint64_t words = rx->registry.file.shape.payload_bytes / 8;
    for (uint64_t i = pick(random, 8); i > 0; --i) {
        Taken t;
        if (rx->receive(4, t, sys::now_ns() + pick(random, 200'000), keep_going) != Wait::ready) break;
        for (uint64_t k = 0; k < t.count; ++k) {
            const std::byte* slot = t.data + k * t.lane->slab.stride;
            verify(slot, words, 0);
            CHECK_EQ(*reinterpret_cast<const uint64_t*>(slot), words == 8 ? 0u : 1u);
        }
        rx->end(t, false);
    }
    still_there(rx->registry);
    goodbye(rx);
}

void come_and_go(const Home& home, uint64_t times, Random& random) {
    for (; times > 0; --times) {
        if (pick(random, 2)) send_a_few(home, pick(random, 2), random);
        else receive_a_few(home, random);
    }
}

void threads(uint64_t n, uint64_t times) {
    const Home home;
    std::vector<std::thread> all;
    for (uint64_t i = 0; i < n; ++i)
        all.emplace_back([&, i] {
            check::guarded([&] {
                Random random(static_cast<unsigned>(i + 1));
                come_and_go(home, times, random);
            });
        });
    for (auto& t : all) t.join();
    CHECK(home.files().empty());
}

void processes(uint64_t n, uint64_t kills) {
    const Home home;
    Random random(7);
    std::vector<Child> all;
    const auto born = [&] {
        const auto seed = static_cast<unsigned>(random());
        return Child([&home, seed](Child&) {
            Random mine(seed);
            come_and_go(home, ~0ull, mine);
        });
    };
    for (uint64_t i = 0; i < n; ++i) all.push_back(born());
    for (uint64_t k = 0; k < kills; ++k) {
        const timespec pause{0, static_cast<long>(pick(random, 4'000'000))};
        ::nanosleep(&pause, nullptr);
        Child& victim = all[pick(random, n)];
        if (const auto status = victim.ended()) check::fail("a process ended with status " + std::to_string(*status));
        victim.kill();
        victim = born();
    }
    all.clear();
    CHECK(!find_channel(home.directory, "test"));
    CHECK(home.files().empty());  // whoever looks removes what the dead left
}

/// Threads with a look at one channel file each, that do something at the same moment, again and again.
template <class Round>
void at_once(uint64_t rounds, Round&& round) {
    const Home home;
    auto tx = sender(home, kKinds[0]);
    std::unique_ptr<Registry> looks[2];
    for (auto& r : looks)
        r = std::make_unique<Registry>(std::move(*find_channel(home.directory, "test")), "racer");
    goodbye(tx);  // from now on nobody is in
    std::atomic<uint64_t> arrived{0};
    const auto meet = [&](uint64_t n) {
        arrived += 1;
        for (uint64_t spins = 1; arrived.load() < 2 * n; ++spins)
            if (spins % 1000 == 0) ::sched_yield();
    };
    const auto race = [&](int who) {
        Random random(static_cast<unsigned>(who + 1));
        uint64_t meetings = 0;
        for (uint64_t i = 0; i < rounds; ++i) {
            meet(++meetings);
            for (uint64_t k = pick(random, 64); k > 0; --k) std::atomic_signal_fence(seq_cst);
            round(*looks[who], who, [&] { meet(++meetings); });
        }
    };
    std::thread other([&] { check::guarded([&] { race(1); }); });
    check::guarded([&] { race(0); });
    other.join();
}

void enlist_at_once(uint64_t rounds) {
    static std::atomic<int> users[2];
    at_once(rounds, [](Registry& r, int, auto&& meet) {
        CHECK(r.enlist(0, kMaxReceivers, 0));
        CHECK(r.id < 2);
        CHECK_EQ(users[r.id].fetch_add(1), 0);
        CHECK_EQ(r.me().state.load(), r.word);
        meet();
        users[r.id].fetch_sub(1);
        r.gone();
        meet();
    });
}

void join_while_the_last_leaves(uint64_t rounds) {
    static std::atomic<bool> in, closed;
    at_once(rounds, [](Registry& r, int who, auto&& meet) {
        if (who == 0) {  // the last one is in, the channel is open
            r.file.header().state.store(stated(1, ChannelState::open));
            CHECK(r.enlist(0, 1, 0));
        }
        meet();
        if (who == 0) {
            r.gone();
            closed = r.close_if_empty();
        } else {
            CHECK(r.enlist(1, 2, 0));
            in = r.count_in_channel();
        }
        meet();
        if (in && closed) check::fail("the channel was closed on one who had counted itself in");
        if (who == 1 && !in) CHECK_EQ(state_in<ChannelState>(r.file.header().state.load()), ChannelState::closed);
        meet();
        if (who == 1) r.gone();
    });
}

}  // namespace

TESTS(stress_open) {
    static const uint64_t more = long_run() ? 50 : 1;
    return check::run(
        {{"ends that enlist at the same moment never get the same id", [] { enlist_at_once(40000 * more); }},
         {"a channel is never closed on one who has counted itself in", [] { join_while_the_last_leaves(40000 * more); }},
         {"ends of threads come and go", [] { threads(4, 300 * more); }},
         {"ends of processes come and go and are killed in the middle of it", [] { processes(4, 150 * more); }}},
        long_run() ? 3000 : 200);
}
