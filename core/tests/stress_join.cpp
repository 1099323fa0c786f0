// Stages that come and go under senders at full speed: each member sees an unbroken row from its stage's first message
// on, a message that two members of one stage could see is seen once, and what a member keeps when it leaves stays.
#include "payload.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

struct JoinStorm {
    static constexpr uint64_t kSenders = 2, kWords = 8;
    Home home;
    uint64_t each;  // messages of a sender
    bool declared;  // there is a stage that holds the senders back from the start
    std::atomic<uint64_t> sending{kSenders}, joined{0};
    std::vector<std::atomic<uint8_t>> shared_saw;
    std::vector<std::unique_ptr<Sender>> senders;

    JoinStorm(uint64_t messages, bool with_main) : each(messages), declared(with_main), shared_saw(kSenders * messages) {
        for (uint64_t i = 0; i < kSenders; ++i)
            senders.push_back(sender(home, spec(Pattern::mpmc, with_main ? std::vector<StageSpec>{{"main"}} : std::vector<StageSpec>{}),
                                     {.capacity = 16, .wait = Spinner::Mode::adaptive}));
    }

    void send(uint64_t me, Random& random) {
        Sender& tx = *senders[me];
        for (uint64_t i = 0; i < each;) {
            while (i > each / 2 && joined <= 3) std::this_thread::yield();  // all four have come, however slow they are
            const uint64_t n = std::min(1 + pick(random, 4), each - i);
            Loan loan, other;
            CHECK(tx.loan(n, loan, kForever, keep_going) == Wait::ready);
            const bool second = pick(random, 3) == 0 && tx.try_loan(1, other);
            for (uint64_t k = 0; k < n; ++k) fill(loan.data + k * tx.stride(), kWords, me, i + k);
            if (second) tx.discard(other);  // rewinds, or leaves a SKIP
            const uint64_t sent = pick(random, 4) == 0 ? n - 1 : n;
            tx.commit(loan, sent);
            i += sent;
        }
        goodbye(senders[me]);
        --sending;
    }

    /// Takes until `most` messages, or the end. `next`: what must come of each sender; ~0: anything first.
    void read(Receiver& rx, uint64_t most, Random& random, std::vector<uint64_t>& next, bool alone, std::vector<Taken>& kept) {
        for (uint64_t n = 0; n < most;) {
            Taken t;
            const Wait w = rx.receive(1 + pick(random, 5), t, sys::now_ns() + 50'000'000, keep_going);
            if (w == Wait::timeout && (sending != 0 || rx.lanes().any)) continue;
            if (w != Wait::ready) return;  // the end, or it came after the last sender had gone
            for (uint64_t k = 0; k < t.count; ++k, ++n) {
                const std::byte* slot = t.data + k * t.lane->slab.stride;
                verify(slot, kWords, 0);
                const auto* word = reinterpret_cast<const uint64_t*>(slot);
                uint64_t& expected = next[word[0]];
                if (alone ? expected != ~0ull && word[1] != expected : expected != ~0ull && word[1] < expected)
                    check::fail("sender " + std::to_string(word[0]) + ": " + std::to_string(word[1]) + " came in place of " +
                                std::to_string(expected));
                expected = word[1] + 1;
                if (!alone && shared_saw[word[0] * each + word[1]].fetch_add(1) != 0)
                    check::fail("message " + std::to_string(word[1]) + " was seen twice");
            }
            if (n >= most && pick(random, 2)) kept.push_back(t);  // leaves with it
            else rx.end(t, false);
        }
    }

    void come_and_go(const std::string& name, bool alone, Random& random) {
        const Graph::Wanted wanted{name, {}, pick(random, 2) == 0};
        while (sending != 0) {
            std::unique_ptr<Receiver> rx;
            try {
                Graph::Wanted place = wanted;
                if (!alone) place.at_the_end = false;
                rx = open_receiver(home.directory, "test", {name, &place}, Spinner::Mode::adaptive, "test");
            } catch (const Error& e) {
                if (e.code != Errc::mismatch) throw;  // was left with another place
                continue;
            }
            if (!rx) return;  // all senders have gone
            ++joined;
            std::vector<uint64_t> next(kSenders, ~0ull);
            std::vector<Taken> kept;
            read(*rx, 1 + pick(random, 40), random, next, alone, kept);
            rx->close();
            for (uint64_t spins = pick(random, 50); spins > 0; --spins) std::this_thread::yield();
            for (const Taken& t : kept) {
                for (uint64_t k = 0; k < t.count; ++k) verify(t.data + k * t.lane->slab.stride, kWords, 0);
                rx->end(t, false);
            }
            leave(rx->registry);
        }
    }

    void run() {
        std::vector<std::thread> all;
        const auto start = [&](auto&& body) {
            all.emplace_back([&, seed = all.size() + 1, body] {
                check::guarded([&] {
                    Random random(static_cast<unsigned>(seed));
                    body(random);
                });
            });
        };
        std::unique_ptr<Receiver> main_reader = declared ? receiver(home, "main", {.wait = Spinner::Mode::adaptive}) : nullptr;
        if (declared)
            start([&](Random& random) {
                std::vector<uint64_t> next(kSenders, 0);
                std::vector<Taken> kept;
                read(*main_reader, kForever, random, next, true, kept);
                for (uint64_t n : next) CHECK_EQ(n, each);
            });
        for (uint64_t i = 0; i < kSenders; ++i) start([&, i](Random& random) { send(i, random); });
        for (const char* name : {"one", "two"}) start([&, name](Random& random) { come_and_go(name, true, random); });
        for (int i = 0; i < 2; ++i) start([&](Random& random) { come_and_go("shared", false, random); });
        for (auto& t : all) t.join();
        if (main_reader) goodbye(main_reader);
        CHECK(joined > 3);
        CHECK(home.files().empty());
    }
};

}  // namespace

TESTS(stress_join) {
    static const uint64_t each = long_run() ? 20'000'000 : kSanitized ? 20'000 : 400'000;
    return check::run({
        {"stages come and go beside a declared one, and nobody misses or doubles a message", [] { JoinStorm(each, true).run(); }},
        {"stages come and go where nobody else holds the senders back", [] { JoinStorm(each, false).run(); }},
    });
}
