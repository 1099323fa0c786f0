// Storms of messages between threads, each with ends of its own: every message is checked in every stage for
// content, order per sender, loss and doubling. PSYNE_STRESS=long runs ten million messages per pattern.
#pragma once

#include "payload.hpp"

namespace psyne::test {

using Mode = Spinner::Mode;

struct Storm {
    const char* what;
    Pattern pattern;
    uint64_t senders, members;  // members of each stage
    std::vector<StageSpec> stages;
    uint64_t capacity;
    Mode wait;
    uint64_t payload_words = 8;
    uint64_t share = 100;  // percent of the usual number of messages
};

class StormRun {
public:
    explicit StormRun(const Storm& s) : storm_(s), spec_(spec(s.pattern, s.stages, s.payload_words * 8)) {
        const uint64_t total = long_run() ? 10'000'000 : 120'000 / (kSanitized ? 2 : 1);
        each_ = std::max<uint64_t>(total * s.share / 100 / s.senders, 50);
        seen_ = std::vector<std::atomic<uint8_t>>(s.stages.size() * s.senders * each_);
    }

    void run() {
        const uint64_t start = sys::now_ns();
        std::vector<std::thread> threads;
        for (uint64_t i = 0; i < storm_.senders; ++i) threads.emplace_back([this, i] { check::guarded([&] { send_all(i); }); });
        for (uint32_t s = 0; s < storm_.stages.size(); ++s)
            for (uint64_t m = 0; m < storm_.members; ++m)
                threads.emplace_back([this, s, m] { check::guarded([&] { receive_all(s, m); }); });
        for (auto& t : threads) t.join();
        for (size_t i = 0; i < seen_.size(); ++i)
            if (seen_[i].load() != 1)
                check::fail("stage " + std::to_string(i / (storm_.senders * each_)) + " saw message " + std::to_string(i % each_) +
                            " of sender " + std::to_string(i / each_ % storm_.senders) + " " +
                            std::to_string(seen_[i].load()) + " times");
        CHECK(home_.files().empty());
        CHECK_EQ(redelivered_.load(), 0u);
        std::printf("     %-52s %8llu messages, %5llu ms, %llu late wakes\n", storm_.what,
                    static_cast<unsigned long long>(each_ * storm_.senders),
                    static_cast<unsigned long long>((sys::now_ns() - start) / 1'000'000),
                    static_cast<unsigned long long>(late_wakes_.load()));
        if (!kSanitized) CHECK_EQ(late_wakes_.load(), 0u);
    }

private:
    const Storm& storm_;
    Home home_;
    ChannelSpec spec_;
    uint64_t each_;  // messages of each sender
    std::vector<std::atomic<uint8_t>> seen_;
    std::atomic<uint64_t> joined_{0}, redelivered_{0}, late_wakes_{0};

    /// Relaxed: that a stage has seen a message is told by the words alone.
    std::atomic<uint8_t>& seen(uint32_t stage, uint64_t id, uint64_t number) {
        return seen_[(stage * storm_.senders + id) * each_ + number];
    }
    /// A bit per stage before, directly or not; worked out here, not asked of the channel.
    uint32_t ancestors(uint32_t stage) const {
        uint32_t all = storm_.stages[stage].after;
        for (uint32_t s = stage; s-- > 0;)
            if (all >> s & 1) all |= storm_.stages[s].after;
        return all;
    }
    uint64_t ends() const { return storm_.senders + storm_.stages.size() * storm_.members; }
    void await_all() const {
        while (joined_.load() < ends()) std::this_thread::yield();
    }
    void note(const Registry& r) {
        const ChannelHeader& h = r.file.header();
        redelivered_ += h.redelivered.load(relaxed) + h.dropped.load(relaxed) + h.poisoned.load(relaxed);
        if (late_wakes_.load() < h.late_wakes.load(relaxed)) late_wakes_.store(h.late_wakes.load(relaxed));
    }

    // ---- senders -----------------------------------------------------------------------------------------------

    void send_all(uint64_t id) {
        auto tx = sender(home_, spec_, {.capacity = storm_.capacity, .wait = storm_.wait});
        joined_ += 1;
        Random random(static_cast<unsigned>(id + 1));
        for (uint64_t n = 0; n < each_;) n += send_some(*tx, id, n, random);
        await_all();  // with no member at all the messages would go with the channel
        note(tx->registry);
        if (pick(random, 2)) CHECK_EQ(tx->drain(kForever, keep_going), Wait::ready);
        goodbye(tx);
    }

    Loan lend_some(Sender& tx, uint64_t n) {
        Loan loan;
        CHECK_EQ(tx.loan(n, loan, kForever, keep_going), Wait::ready);
        CHECK_EQ(loan.count, n);
        return loan;
    }
    void fill_all(const Loan& loan, const Sender& tx, uint64_t id, uint64_t number, uint64_t n) {
        for (uint64_t i = 0; i < n; ++i) fill(loan.data + i * tx.stride(), storm_.payload_words, id, number + i);
    }

    /// Sends some messages from number `n` on in one of the ways there are; how many.
    uint64_t send_some(Sender& tx, uint64_t id, uint64_t n, Random& random) {
        const uint64_t left = each_ - n;
        const uint64_t most = std::min<uint64_t>({left, storm_.capacity, 20});
        switch (pick(random, 8)) {
            case 0: case 1: {  // a batch
                const uint64_t k = 1 + pick(random, most);
                const Loan loan = lend_some(tx, k);
                fill_all(loan, tx, id, n, k);
                tx.commit(loan, k);
                return k;
            }
            case 2: {  // a batch that is truncated, perhaps to nothing
                const uint64_t k = 1 + pick(random, most), j = pick(random, k + 1);
                const Loan loan = lend_some(tx, k);
                fill_all(loan, tx, id, n, k);
                tx.commit(loan, j, pick(random, 4) == 0);
                return j;
            }
            case 3: {  // two loans, the second one first
                if (left < 2) break;
                const Loan a = lend_some(tx, 1);
                Loan b;
                fill_all(a, tx, id, n, 1);
                if (!tx.try_loan(1, b)) return tx.commit(a, 1), 1;
                fill_all(b, tx, id, n + 1, 1);
                tx.commit(b, 1);
                tx.commit(a, 1);
                return 2;
            }
            case 4: {  // two loans, the first one is taken back
                const Loan a = lend_some(tx, 1);
                fill_all(a, tx, 99, 99, 1);
                Loan b;
                if (!tx.try_loan(1, b)) return tx.discard(a), 0;
                fill_all(b, tx, id, n, 1);
                tx.commit(b, 1);
                tx.discard(a);
                return 1;
            }
            case 5: {  // taken back
                const Loan a = lend_some(tx, 1);
                fill_all(a, tx, 99, 99, 1);
                tx.discard(a, pick(random, 2) == 0);
                return 0;
            }
            default: break;
        }
        const Loan loan = lend_some(tx, 1);
        fill_all(loan, tx, id, n, 1);
        tx.commit(loan, 1);
        return 1;
    }

    // ---- receivers ---------------------------------------------------------------------------------------------

    struct Reader {
        Receiver& rx;
        uint32_t stage;
        uint64_t changes;            // that stages before have made
        std::vector<uint32_t> before, behind;  // stages that must have seen a message already, and that must not yet
        std::vector<uint64_t> next;            // per sender: the lowest number that may come
        std::vector<Taken> held, viewed;
    };

    void receive_all(uint32_t stage, uint64_t member) {
        std::unique_ptr<Receiver> rx;
        while (!(rx = receiver(home_, storm_.stages[stage].name, {.wait = storm_.wait}))) std::this_thread::yield();
        joined_ += 1;
        Reader r{*rx, stage, 0, {}, {}, std::vector<uint64_t>(storm_.senders), {}, {}};
        for (uint32_t s = 0; s < storm_.stages.size(); ++s) {
            if (ancestors(stage) >> s & 1) r.before.push_back(s), r.changes += storm_.stages[s].mutates;
            if (ancestors(s) >> stage & 1) r.behind.push_back(s);
        }
        Random random(static_cast<unsigned>(100 + 10 * stage + member));
        await_all();
        for (;;) {
            Taken t;
            const uint64_t limit = pick(random, 3) == 0 ? 1 : 1 + pick(random, 16);
            if (!rx->try_take(limit, t)) {
                let_go_all(r);
                if (rx->receive(limit, t, kForever, keep_going) != Wait::ready) break;
                if (pick(random, 16) == 0) CHECK(rx->linger(t, 16, sys::now_ns() + 50'000, keep_going));
            }
            look_at(r, t);
            r.held.push_back(t);
            while (r.held.size() + r.viewed.size() > pick(random, 4)) let_go_one(r, random);
        }
        CHECK(rx->ended());
        CHECK(!rx->sender_lost());
        CHECK_EQ(rx->outstanding(), 0u);
        note(rx->registry);
        goodbye(rx);
    }

    void look_at(Reader& r, const Taken& t) {
        CHECK(t.count >= 1);
        CHECK_EQ(t.deaths, 0u);
        const uint64_t words = storm_.payload_words, stride = t.lane->slab.stride;
        if (r.rx.writes()) r.rx.dirty(t);
        for (uint64_t i = 0; i < t.count; ++i) {
            std::byte* slot = t.data + i * stride;
            verify(slot, words, r.changes);
            const auto* w = reinterpret_cast<const uint64_t*>(slot);
            const uint64_t id = w[0], number = w[1];
            CHECK(id < storm_.senders);
            if (number < r.next[id])
                check::fail("order: " + std::to_string(number) + " came after " + std::to_string(r.next[id] - 1));
            r.next[id] = number + 1;
            for (const uint32_t s : r.before)
                if (seen(s, id, number).load(relaxed) != 1) check::fail("before stage " + std::to_string(s));
            for (const uint32_t s : r.behind)
                if (seen(s, id, number).load(relaxed) != 0) check::fail("after stage " + std::to_string(s));
            if (seen(r.stage, id, number).fetch_add(1, relaxed) != 0)
                check::fail("twice: " + std::to_string(number) + " of sender " + std::to_string(id));
            if (r.rx.writes()) mutate(slot, words);
        }
    }

    /// Messages end in any order; of some a view lives on, and is unchanged when it goes.
    void let_go_one(Reader& r, Random& random) {
        if (!r.viewed.empty() && (r.held.empty() || pick(random, 2))) {
            const Taken t = r.viewed.back();
            r.viewed.pop_back();
            for (uint64_t i = 0; i < t.count; ++i)
                verify(t.data + i * t.lane->slab.stride, storm_.payload_words, r.changes + r.rx.writes());
            r.rx.end(t, false);
            return;
        }
        const size_t i = pick(random, r.held.size());
        const Taken t = r.held[i];
        r.held.erase(r.held.begin() + static_cast<std::ptrdiff_t>(i));
        const bool viewed = pick(random, 4) == 0;
        r.rx.end(t, viewed);
        if (viewed) r.viewed.push_back(t);
    }
    void let_go_all(Reader& r) {
        for (const Taken& t : r.held) r.rx.end(t, false);
        for (const Taken& t : r.viewed) r.rx.end(t, false);
        r.held.clear(), r.viewed.clear();
    }
};

inline int storms(std::initializer_list<Storm> all) {
    check::running = "the storm";
    for (const Storm& s : all) {
        check::running = s.what;
        check::watchdog(long_run() ? 3000 : 200);
        try {
            StormRun(s).run();
        } catch (const check::Failure&) {
            std::printf("FAIL %s\n", s.what);
            return 1;
        }
    }
    return 0;
}

}  // namespace psyne::test
