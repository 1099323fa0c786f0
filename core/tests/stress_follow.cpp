// Members follow a lane that changes its slab every few messages: they hold messages in slabs that they have left, give
// some back, come, leave and are killed. Each message is seen once in the first stage, and in order in the second.
#include "chain.hpp"
#include "payload.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::stress_follow {
namespace {

/// A lane that changes its slab every few messages, under members of two stages, the first of which is shared.
struct Storm {
    const uint64_t each = long_run() ? 2'000'000 : kSanitized ? 3'000 : 20'000;  // messages
    Chain chain{spec(Pattern::mpmc, {{"a"}, {"b", 1}})};
    std::vector<std::atomic<uint8_t>> seen = std::vector<std::atomic<uint8_t>>(each);  // by members of the first stage
    std::vector<std::unique_ptr<Receiver>> members;
    std::atomic<int> receiving{0};

    void change(Random& random) {
        chain.retire_drained();
        if (chain.free_cell() < kMaxSlabs) chain.link(1 + pick(random, 12));
    }
    void send(Random& random) {
        while (chain.next < each) {
            if (const bool room = chain.room(); !room || pick(random, 8) == 0) {
                change(random);
                if (!room) ::sched_yield();
                continue;
            }
            chain.put();
            full_fence();
            chain.tx->registry.wake_one(idle(chain.tx->registry), 0);
        }
        chain.end();
    }

    void let_go(Receiver& rx, std::vector<Taken>& held, size_t i, bool see) {
        const Taken t = held[i];
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
        for (uint64_t k = 0; k < t.count; ++k) {
            CHECK_EQ(value_of(t, k), t.position() + k);
            if (see && seen[t.position() + k].fetch_add(1) != 0) check::fail(std::to_string(t.position() + k) + " came twice");
        }
        rx.end(t, false);
    }
    /// Up to `most` messages; a few are held, some given back.
    void work(Receiver& rx, uint64_t most, Random& random, std::vector<Taken>& held) {
        for (Taken t; most != 0; --most) {
            if (const uint64_t limit = 1 + pick(random, 4); !rx.try_take(limit, t)) {
                while (!held.empty()) let_go(rx, held, 0, true);  // else all might wait for each other
                Wait w = Wait::timeout;  // who comes after the lane was removed never sees an end
                while (w == Wait::timeout && receiving != 0) w = rx.receive(limit, t, sys::now_ns() + 50'000'000, keep_going);
                if (w != Wait::ready) return;
            }
            if (pick(random, 16) == 0) {
                rx.give_back(t);
                continue;
            }
            held.push_back(t);
            while (held.size() > pick(random, 4)) let_go(rx, held, pick(random, held.size()), true);
            if (pick(random, 64) == 0) rx.look_after_others();
        }
    }
    void stay(Receiver& rx, Random& random) {
        std::vector<Taken> held;
        for (;;) {
            work(rx, 100, random, held);
            while (!held.empty()) let_go(rx, held, 0, true);
            Taken t;
            if (rx.receive(1, t, kForever, keep_going) != Wait::ready) return;
            rx.give_back(t);
        }
    }
    /// Leaves with messages in its hands, or is killed.
    void come_and_go(Random& random) {
        while (receiving != 0) {
            auto rx = receiver(chain.home, "a");
            if (!rx) return;
            std::vector<Taken> held;
            work(*rx, 1 + pick(random, 20), random, held);
            const bool once = std::all_of(held.begin(), held.end(), [](const Taken& t) { return t.deaths == 0; });
            if (once && pick(random, 16) == 0) continue;  // killed
            rx->close();
            while (!held.empty()) let_go(*rx, held, 0, true);
            leave(rx->registry);
        }
    }
    void in_order(Receiver& rx) {
        std::vector<Taken> held;
        uint64_t next = 0;
        for (Taken t; rx.receive(5, t, kForever, keep_going) == Wait::ready; let_go(rx, held, 0, false)) {
            CHECK_EQ(t.position(), next);
            next += t.count;
            held.push_back(t);
        }
        CHECK_EQ(next, each);
    }

    void run() {
        for (const char* stage : {"a", "a", "b"}) members.push_back(receiver(chain.home, stage));
        receiving = 3;
        std::vector<std::thread> all;
        const auto start = [&](auto body) {
            all.push_back(in_thread([body, seed = all.size() + 1] {
                Random random(static_cast<unsigned>(seed));
                body(random);
            }));
        };
        start([&](Random& random) { send(random); });
        for (int i = 0; i < 2; ++i) start([&, i](Random& random) { stay(*members[static_cast<size_t>(i)], random), --receiving; });
        start([&](Random&) { in_order(*members[2]), --receiving; });
        start([&](Random& random) { come_and_go(random); });
        start([&](Random&) {
            while (receiving != 0)
                for (const auto& rx : members) {
                    CHECK(rx->seen().waiting <= each);
                    ::sched_yield();
                }
        });
        for (auto& t : all) t.join();
        for (const auto& times : seen) CHECK_EQ(static_cast<int>(times.load()), 1);
        CHECK(chain.slabs.size() > each / 50);
    }
};

}  // namespace

TESTS(stress_follow) {
    return check::run({{"members take, keep and leave at full speed while slabs come and go, and statistics are read", [] { Storm().run(); }}},
                      long_run() ? 3000 : 200);
}

}  // namespace psyne::test::stress_follow
