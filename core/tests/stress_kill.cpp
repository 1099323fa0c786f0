// Processes that send and receive are killed and stopped at random moments and replaced. What they did is in a log that
// survives them: nothing committed may be lost, nothing torn, nothing come twice without being called redelivered.
#include "payload.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr uint64_t kWords = 16;
constexpr uint64_t kBlock = 1 << 13;  // messages of one life of a sender
constexpr uint64_t kMessages = kBlock << 11;
const std::vector<StageSpec> kStages = {{"change", 0, true}, {"read", 1}};

/// In memory that all processes share. Each cell has one writer, apart from `seen` cells of redelivered messages.
struct Log {
    std::atomic<uint64_t> lives, finish, changes;
    std::atomic<uint8_t> begun[kMessages], committed[kMessages];
    struct Stage {
        std::atomic<uint8_t> seen[kMessages], seen_again[kMessages];
    } stages[2];
};

class KillStorm {
public:
    struct Ends {
        const char* what;
        Pattern pattern;
        int senders, members;  // members of each stage
        bool grows = false;    // rings grow and shrink all the time
    };

    explicit KillStorm(const Ends& e) : ends_(e), spec_(spec(e.pattern, kStages, kWords * 8)), random_(e.senders * 10 + e.members) {
        void* p = ::mmap(nullptr, sizeof(Log), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) check::fail("no memory for the log");
        log_ = static_cast<Log*>(p);
    }
    ~KillStorm() { ::munmap(log_, sizeof(Log)); }

    void run(int kills) {
        auto first = sender(home_, spec_);  // makes the channel
        Registry keeper(std::move(*find_channel(home_.directory, "test")), "keeper");
        CHECK(keeper.enlist(0, kMaxReceivers, 0) && keeper.count_in_channel());
        goodbye(first);
        for (int i = 0; i < ends_.senders; ++i) start(0);
        for (uint32_t stage = 0; stage < kStages.size(); ++stage)
            for (int i = 0; i < ends_.members; ++i) start(1 + stage);
        for (int done = 0; done < kills;) done += strike();
        log_->finish.store(1);
        for (Life& l : lives_)
            if (l.role == 0) ended_well(l.child.join());
        log_->finish.store(2);
        for (Life& l : lives_)
            if (l.role != 0) ended_well(l.child.join());
        judge(keeper.file.header());
        CHECK_EQ(leave(keeper), 0u);  // nothing unread
        CHECK(home_.files().empty());
    }

private:
    struct Life {
        int role;  // 0: sender, else 1 + stage
        Child child;
    };
    const Ends& ends_;
    Home home_;
    ChannelSpec spec_;
    Log* log_;
    Random random_;
    std::vector<Life> lives_;
    int kills_ = 0, stops_ = 0;

    void start(int role) { lives_.push_back(born(role)); }
    Life born(int role) {
        const auto seed = static_cast<unsigned>(random_());
        return {role, Child([this, role, seed](Child&) {
                    Random random(seed);
                    role == 0 ? send_all(random) : receive_all(static_cast<uint32_t>(role - 1), random);
                    ::_exit(0);
                })};
    }
    static void ended_well(int status) {
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            check::fail("a process ended with status " + std::to_string(status));
    }
    void pause_up_to(uint64_t us) {
        const timespec t{0, static_cast<long>(1000 * pick(random_, us))};
        ::nanosleep(&t, nullptr);
    }

    /// One kill (or stop) of somebody, and a new one in its place; 1 when it was a kill.
    int strike() {
        pause_up_to(pick(random_, 4) ? 8000 : 500);  // some hardly get to open their end
        for (Life& l : lives_)
            if (const auto status = l.child.ended()) {  // a sender that has sent its block
                ended_well(*status);
                l = born(l.role);
            }
        Life& victim = lives_[pick(random_, lives_.size())];
        if (pick(random_, 8) == 0) {
            victim.child.signal(SIGSTOP);
            pause_up_to(20000);
            victim.child.signal(SIGCONT);
            ++stops_;
            return 0;
        }
        victim.child.kill();
        victim = born(victim.role);
        ++kills_;
        return 1;
    }

    // ---- in the children ---------------------------------------------------------------------------------------

    bool finish() const { return log_->finish.load() != 0; }

    void send_all(Random& random) {
        std::unique_ptr<Sender> tx;
        while (!tx && !finish()) try {
                tx = ends_.grows ? growing() : sender(home_, spec_, {.capacity = 32, .wait = Spinner::Mode::adaptive});
            } catch (const Error& e) {
                if (e.code != Errc::busy) throw;  // all lanes have something unread: receivers are at work
                std::this_thread::yield();
            }
        const uint64_t block = tx ? log_->lives.fetch_add(1) : ~0ull;
        if (block < kMessages / kBlock)
            for (uint64_t n = block * kBlock; n < (block + 1) * kBlock && !finish();) {
                n += send_some(*tx, block, n, (block + 1) * kBlock - n, random);
                if (ends_.grows && pick(random, 500) == 0) wait_for_low_load(*tx);
            }
        if (tx) goodbye(tx);
    }

    std::unique_ptr<Sender> growing() const {
        constexpr Growth kGrowth{1 << 20, 1'000'000};
        return open_sender(home_.directory, "test", spec_, {kWords * 8, 8, {}, Spinner::Mode::adaptive, kGrowth, 0, 8}, "test");
    }
    /// So that the ring becomes small again.
    void wait_for_low_load(Sender& tx) const {
        for (int i = 0; i < 20 && !finish() && tx.capacity() > 8; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const auto seen = tx.growth();
        log_->changes.fetch_add(seen.grown + seen.shrunk - std::exchange(counted_, seen.grown + seen.shrunk));
    }
    mutable uint64_t counted_ = 0;  // changes of this life

    bool lend_some(Sender& tx, uint64_t n, Loan& loan) const {
        return tx.loan(n, loan, kForever, [this] { return !finish(); }) == Wait::ready;
    }
    void write(const Sender& tx, const Loan& loan, uint64_t block, uint64_t number) const {
        for (uint64_t i = 0; i < loan.count; ++i) {
            fill(loan.data + i * tx.stride(), kWords, block, number + i);
            log_->begun[number + i].store(1);
        }
    }
    void commit(Sender& tx, const Loan& loan, uint64_t number, uint64_t n) const {
        tx.commit(loan, n);
        for (uint64_t i = 0; i < n; ++i) log_->committed[number + i].store(1);
    }

    uint64_t send_some(Sender& tx, uint64_t block, uint64_t number, uint64_t left, Random& random) const {
        Loan a, b;
        switch (pick(random, 4)) {
            case 0: {  // a batch
                const uint64_t k = 1 + pick(random, std::min<uint64_t>(left, 12));
                if (!lend_some(tx, k, a)) return 0;
                write(tx, a, block, number);
                commit(tx, a, number, k);
                return k;
            }
            case 1:  // two loans, the second one first: killed between them it leaves a hole
                if (left < 2 || !lend_some(tx, 1, a)) return 0;
                write(tx, a, block, number);
                if (!tx.try_loan(1, b)) {
                    commit(tx, a, number, 1);
                    return 1;
                }
                write(tx, b, block, number + 1);
                commit(tx, b, number + 1, 1);
                commit(tx, a, number, 1);
                return 2;
            case 2:  // taken back, with and without a later one
                if (!lend_some(tx, 1, a)) return 0;
                if (!tx.try_loan(1, b)) return tx.discard(a), 0;
                write(tx, b, block, number);
                tx.discard(a);
                commit(tx, b, number, 1);
                return 1;
            default:
                if (!lend_some(tx, 1, a)) return 0;
                write(tx, a, block, number);
                commit(tx, a, number, 1);
                return 1;
        }
    }

    void receive_all(uint32_t stage, Random& random) {
        auto rx = receiver(home_, kStages[stage].name, {.wait = Spinner::Mode::adaptive});
        CHECK(rx != nullptr);  // the keeper is there
        std::map<uint64_t, uint64_t> next;  // per sender's life
        std::vector<Taken> held;
        for (;;) {
            rx->follow = log_->finish.load() != 2;
            const uint64_t limit = 1 + pick(random, 8);
            Taken t;
            Wait w = Wait::ready;
            if (!rx->try_take(limit, t)) {
                let_go(*rx, held, 0);
                w = rx->receive(limit, t, sys::now_ns() + 20'000'000, keep_going);
            }
            if (w == Wait::ready) {
                work_a_while(random);
                look_at(*rx, stage, t, next);
                work_a_while(random);
                held.push_back(t);
                let_go(*rx, held, pick(random, 3));
            }
            if (w != Wait::ready && !rx->follow && (rx->ended() || no_lane_left(*rx))) break;
        }
        goodbye(rx);
    }

    /// Now and then a message is held long enough to be killed with it.
    static void work_a_while(Random& random) {
        const timespec t{0, static_cast<long>(pick(random, 2'000'000))};
        if (pick(random, 200) == 0) ::nanosleep(&t, nullptr);
    }

    static void let_go(Receiver& rx, std::vector<Taken>& held, size_t left) {
        while (held.size() > left) {
            const Taken t = held.front();
            held.erase(held.begin());
            rx.end(t, true);  // a view lives a little longer
            rx.end(t, false);
        }
    }

    /// Who joins after the end has seen no lane that could end.
    static bool no_lane_left(const Receiver& rx) {
        for (uint64_t i = 0; i < kMaxLanes; ++i)
            if (state_in<LaneState>(rx.registry.file.lane(i).state.load()) != LaneState::free) return false;
        return true;
    }

    void look_at(Receiver& rx, uint32_t stage, const Taken& t, std::map<uint64_t, uint64_t>& next) const {
        Log::Stage& log = log_->stages[stage];
        if (rx.writes()) rx.dirty(t);
        for (uint64_t i = 0; i < t.count; ++i) {
            std::byte* slot = t.data + i * t.lane->slab.stride;
            verify(slot, kWords, stage);
            const auto* w = reinterpret_cast<const uint64_t*>(slot);
            const uint64_t block = w[0], number = w[1];
            CHECK(number / kBlock == block && number < kMessages);
            CHECK_EQ(static_cast<int>(log_->begun[number].load()), 1);
            if (t.deaths == 0) {
                if (number < next[block]) check::fail("order: " + std::to_string(number) + " came after its successors");
                next[block] = number + 1;
                if (log.seen[number].fetch_add(1) != 0)
                    check::fail("twice, and not called redelivered: " + std::to_string(number));
            } else {
                log.seen_again[number].fetch_add(1);
            }
            if (rx.writes()) mutate(slot, kWords);
        }
    }

    // ---- at the end --------------------------------------------------------------------------------------------

    void judge(const ChannelHeader& h) {
        // Taken out on purpose: half changed when their owner died, or three owners died on them.
        const uint64_t taken_out = h.dropped.load() + h.poisoned.load();
        uint64_t committed = 0, again = 0;
        for (uint64_t n = 0; n < kMessages; ++n) committed += log_->committed[n].load();
        for (const Log::Stage& stage : log_->stages) {
            uint64_t missing = 0;
            for (uint64_t n = 0; n < kMessages; ++n) {
                const int times = stage.seen[n].load() + stage.seen_again[n].load();
                missing += log_->committed[n].load() && times == 0;
                again += stage.seen_again[n].load();
            }
            if (missing > taken_out)
                check::fail(std::to_string(missing) + " committed messages are lost, " + std::to_string(taken_out) +
                            " were taken out");
        }
        CHECK(committed != 0);
        CHECK(!ends_.grows || log_->changes.load() != 0);
        std::printf("     %-28s %4d kills, %3d stops, %8llu committed, %5llu redelivered, %4llu taken out, %5llu changes\n", ends_.what,
                    kills_, stops_, static_cast<unsigned long long>(committed), static_cast<unsigned long long>(again),
                    static_cast<unsigned long long>(taken_out), static_cast<unsigned long long>(log_->changes.load()));
    }
};

}  // namespace

TESTS(stress_kill) {
    for (const KillStorm::Ends& e : std::initializer_list<KillStorm::Ends>{{"spsc", Pattern::spsc, 1, 1},
                                                                           {"spmc, two members a stage", Pattern::spmc, 1, 2},
                                                                           {"mpsc, two senders", Pattern::mpsc, 2, 1},
                                                                           {"mpmc, two by two", Pattern::mpmc, 2, 2},
                                                                           {"growing spsc", Pattern::spsc, 1, 1, true},
                                                                           {"growing mpmc, two by two", Pattern::mpmc, 2, 2, true}}) {
        check::running = e.what;
        check::watchdog(long_run() ? 1200 : 100);
        try {
            KillStorm(e).run(long_run() ? 2500 : 50);
        } catch (const check::Failure&) {
            std::printf("FAIL %s\n", e.what);
            return 1;
        }
    }
    return 0;
}
