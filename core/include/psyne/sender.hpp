// The sending end and its lane: loan, commit, discard; look-ahead; close.
#pragma once

#include <memory>

#include <psyne/waiting.hpp>

namespace psyne {

/// `count` consecutive slots being written.
struct Loan {
    uint64_t position = 0, slot = 0, lap = 0, count = 0;
    std::byte* data = nullptr;
    uint64_t variant = 0;  // what is written there, in channels of several types
};

struct SenderOptions {
    uint64_t stride = 0;
    uint64_t capacity = 0;
    SideColumns columns = {};
    Spinner::Mode wait = Spinner::Mode::adaptive;
};

class Sender {
public:
    Registry registry;
    std::atomic<bool> stopping{false};  // set by close() of any thread: waits end

    /// `r` is enlisted and counted in, `slab` is its first; this opens the lane.
    Sender(Registry r, Slab slab, Spinner::Mode wait)
        : registry(std::move(r)), slab_(std::move(slab)), fence_(registry.file.header()), spinner_(wait),
          standby_(registry, registry.file.header().senders_idle, kMaxReceivers, true) {
        ChannelFile& c = registry.file;
        const uint64_t join = registry.join();
        side_columns_ = slab_.dropped || slab_.variants || slab_.stamps;
        held_ = std::make_unique<std::atomic<uint8_t>[]>(slab_.capacity);
        window_ = std::clamp<uint64_t>(slab_.capacity / 8, 1, 64);
        for (uint32_t s = 0; s < c.shape.stage_count; ++s) declared_.push_back(slab_.row(s));
        wakes_taps_ = (registry.graph().mutating() & registry.graph().declared()) == 0;
        LaneRecord& lane = c.lane(lane_index());
        lane.end.store(0, seq_cst);
        lane.grows.store(0, seq_cst);
        for (SlabCell& cell : lane.slabs) cell.number.store(0, seq_cst);
        lane.slabs[slab_.place.cell].bytes.store(slab_.reserved(), seq_cst);
        lane.slabs[slab_.place.cell].number.store(1, seq_cst);
        slab_.header->skips_before.store(1, seq_cst);
        for (Atomic64& admitted : lane.admitted) admitted.store(0, seq_cst);
        look_at_graph();
        lane.state.store(stated(join, LaneState::open), seq_cst);  // LANE OPEN
        c.header().lanes_epoch.fetch_add(1, seq_cst);
        registry.wake_everybody();
    }

    uint64_t capacity() const noexcept { return slab_.capacity; }
    uint64_t stride() const noexcept { return slab_.stride; }
    const Slab& slab() const noexcept { return slab_; }
    uint64_t position() const noexcept { return next_.position; }

    /// Takes `n` consecutive slots to write; false while they are not let go by all stages.
    bool try_loan(uint64_t n, Loan& loan) {
        if (registry.file.header().graph.load(relaxed) != graph_) [[unlikely]]
            look_at_graph();
        if (next_.slot + n > slab_.capacity) {  // consecutive slots: skip to the next lap
            const uint64_t rest = slab_.capacity - next_.slot;
            if (!look_ahead(rest)) return false;
            skipped_.store(true, relaxed);
            for (uint64_t i = 0; i < rest; ++i)
                slab_.ready[next_.slot + i].store(word(next_.lap, Ready::skip), release);  // PUBLISH
            next_.advance(slab_.capacity, rest);
            wake_receivers();
        }
        if (next_.position + n > free_until_ && !look_ahead(n)) return false;
        loan = {next_.position, next_.slot, next_.lap, n, slab_.at(next_.slot), 0};
        next_.advance(slab_.capacity, n);
        return true;
    }

    /// Publishes the first `n` slots of a loan, in order; the rest was never there.
    /// `pinned`: slots that are given back must not be lent again at once, because own arrays still use them or
    /// another thread is in loan().
    void commit(const Loan& loan, uint64_t n, bool pinned = false) noexcept {
        const uint64_t published = word(loan.lap, Ready::ready);
        if (side_columns_ && n != 0) [[unlikely]]
            write_side_columns(loan, n);
        for (uint64_t i = 0; i < n; ++i) slab_.ready[loan.slot + i].store(published, release);  // PUBLISH
        if (n < loan.count) give_back(loan, n, pinned);
        wake_receivers();
    }

    /// Takes a loan back: nothing was sent.
    void discard(const Loan& loan, bool pinned = false) noexcept {
        if (give_back(loan, 0, pinned)) wake_receivers();
    }

    /// Counts messages that full="drop" did not send.
    void drop(uint64_t n) noexcept { dropped_ += n; }

    /// Own views on a committed slot: it is not lent again while they live.
    void hold(uint64_t slot) noexcept {
        held_[slot].fetch_add(1, relaxed);
        holds_.fetch_add(1, relaxed);
    }
    void unhold(uint64_t slot) noexcept {
        held_[slot].fetch_sub(1, release);  // OWN VIEW
        holds_.fetch_sub(1, release);
    }

    /// For who does not wait: looks after the others when it is time.
    void look_after_others() {
        if (registry.due()) registry.bury_dead();
    }

    /// Waits for `n` slots to loan.
    template <class Tick>
    Wait loan(uint64_t n, Loan& loan, uint64_t deadline, Tick&& tick) {
        return wait(
            deadline, [&] { return try_loan(n, loan); }, [&] { return stopping.load(relaxed) || blocked_by_own_view(n); },
            [&] {
                const uint64_t k = std::min(n, rest_of_lap());
                return free_run(next_, k) == k ? next_.position + 1 : 0;
            },
            tick);
    }

    /// Would loan() return at once? Lends nothing.
    bool ready() const noexcept {
        return stopping.load(relaxed) || free_run(next_, 1) == 1 || blocked_by_own_view(1);
    }
    /// The same for `n` consecutive slots, which perhaps skips the rest of a lap.
    bool room(uint64_t n) {
        Loan loan;
        const bool yes = try_loan(n, loan);
        if (yes) discard(loan);
        return yes;
    }
    /// For event loops: from here on whoever makes room rings `bell`. Look again afterwards.
    void arm(Bell& bell, bool) {
        bell.hush();
        bell.listen();
        standby_.lie_down();
    }
    void disarm(bool took) noexcept {
        if (standby_.in()) standby_.rise(took);
    }
    void pass_on() noexcept {}
    const Bed& standby() const noexcept { return standby_; }
    /// While armed, once a slice. Nanoseconds until the next time; 0: look now.
    uint64_t slice() {
        look_after_others();
        return standby_.look([&] { return free_run(next_, 1) == 1 ? next_.position + 1 : 0; });
    }

    /// Waits until every stage has passed all that was sent.
    template <class Tick>
    Wait drain(uint64_t deadline, Tick&& tick) {
        return wait(
            deadline, [&] { return passed(); }, [&] { return stopping.load(relaxed); },
            [&] { return uint64_t{passed()}; }, tick);
    }

    /// Every stage has passed all that was sent.
    bool passed() const noexcept {
        const uint64_t n = std::min(next_.position - slab_.first, slab_.capacity);
        Cursor c = Cursor::at(next_.position - n, slab_.first, slab_.capacity);
        for (; c.position < next_.position; c.advance(slab_.capacity))
            if (lap_of(slab_.ready[c.slot].load(relaxed)) >= c.lap && !let_go_by_all(c.slot, c.lap, Next::reads)) return false;
        return true;
    }

    /// Slots that somebody still has to read, or holds; own views count.
    uint64_t occupied() const noexcept {
        const uint64_t n = std::min(next_.position - slab_.first, slab_.capacity);
        uint64_t left = 0;
        for (Cursor c = Cursor::at(next_.position - n, slab_.first, slab_.capacity); c.position < next_.position;
             c.advance(slab_.capacity)) {
            left += held_[c.slot].load(relaxed) != 0 || !let_go_by_all(c.slot, c.lap, Next::writes);
        }
        return left;
    }
    /// Sent slots that own views still use.
    uint64_t held() const noexcept { return holds_.load(relaxed); }

    /// Of the next `n` slots the first that is not free was let go by all stages: only own arrays still use it.
    bool blocked_by_own_view(uint64_t n) const noexcept {
        if (holds_.load(acquire) == 0) return false;
        Cursor c = next_;
        c.advance(slab_.capacity, free_run(c, std::min(n, rest_of_lap())));
        return c.position < next_.position + n && held_[c.slot].load(acquire) != 0 &&
               let_go_by_all(c.slot, c.lap - 1, Next::writes);
    }

    /// Consecutive slots that are left in this lap.
    uint64_t rest_of_lap() const noexcept { return slab_.capacity - next_.slot; }

    /// Why the ring is full, for people.
    std::string why_full() const {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gate_of(s);
            if (!gate.row) continue;
            if (lap_of(slab_.ready[next_.slot].load(relaxed)) + 1 < next_.lap) break;  // not even sent
            if (next_.lap == 1 || gate.let_go(slab_, next_.slot, next_.lap - 1, Next::writes)) continue;
            return who_holds(s, gate.word(next_.slot), next_.lap - 1, "the oldest message");
        }
        return blocked_by_own_view(1) ? "your own arrays still use the oldest slot" : "the slots are your own open loans";
    }

    /// Why drain() still waits, for people.
    std::string why_not_passed() const {
        const ChannelFile& c = registry.file;
        const uint64_t n = std::min(next_.position - slab_.first, slab_.capacity);
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gate_of(s);
            Cursor k = Cursor::at(next_.position - n, slab_.first, slab_.capacity);
            uint64_t left = 0;
            for (; gate.row && k.position < next_.position; k.advance(slab_.capacity))
                left += !gate.let_go(slab_, k.slot, k.lap, Next::reads);
            if (left != 0) return "stage '" + load_name(c.stage(s).name) + "' has " + std::to_string(left) + " messages to pass";
        }
        return "all was passed just now";
    }

    // ---- call(): one's own message, whose slots are held, is waited for -----------------------------------------

    /// Every stage has passed the messages of this loan.
    bool passed(const Loan& loan) const noexcept {
        for (uint64_t i = 0; i < loan.count; ++i)
            if (!let_go_by_all(loan.slot + i, loan.lap, Next::reads)) return false;
        return true;
    }

    /// The first stage that took one of them out of the pipeline; kMaxStages: none.
    uint32_t taken_out_by(const Loan& loan) const noexcept {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gate_of(s);
            for (uint64_t i = 0; gate.row && i < loan.count; ++i)
                if (gate.dropped(loan.slot + i, loan.lap)) return s;
        }
        return kMaxStages;
    }

    /// Waits until every stage has passed them.
    template <class Tick>
    Wait await_passed(const Loan& loan, uint64_t deadline, Tick&& tick) {
        return wait(
            deadline, [&] { return passed(loan); }, [&] { return stopping.load(relaxed); },
            [&] { return uint64_t{passed(loan)}; }, tick);
    }

    /// Why await_passed() still waits, for people.
    std::string why_not_passed(const Loan& loan) const {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gate_of(s);
            for (uint64_t i = 0; gate.row && i < loan.count; ++i)
                if (!gate.let_go(slab_, loan.slot + i, loan.lap, Next::reads))
                    return who_holds(s, gate.word(loan.slot + i), loan.lap, "it");
        }
        return "all stages passed it just now";
    }

    /// Ends the lane. `failed`: receivers get SenderLost instead of the end.
    void close(bool failed) noexcept {
        disarm(true);
        ChannelFile& c = registry.file;
        Cursor oldest = Cursor::at(next_.position - std::min(next_.position - slab_.first, slab_.capacity), slab_.first,
                                   slab_.capacity);
        for (; oldest.position < next_.position; oldest.advance(slab_.capacity))  // open loans become SKIP
            if (lap_of(slab_.ready[oldest.slot].load(relaxed)) < oldest.lap)
                slab_.ready[oldest.slot].store(word(oldest.lap, Ready::skip), release);
        LaneRecord& lane = c.lane(lane_index());
        lane.end.store(next_.position + 1, seq_cst);
        if (failed) registry.count_lost();
        lane.state.store(stated(registry.join(), LaneState::ended), seq_cst);
        registry.let_go_of(c.header().sender_holder);
        registry.wake_everybody();
    }

private:
    Slab slab_;
    Cursor next_;              // the next slot to lend
    uint64_t free_until_ = 0;  // positions below are let go by all, and claimed
    uint64_t window_ = 1;      // how far to claim ahead
    uint64_t dropped_ = 0;     // since the last message that was sent
    bool side_columns_ = false;  // there is one
    bool wakes_taps_ = true;     // no declared stage writes: then its members do
    std::atomic<bool> skipped_{false};     // there was a SKIP
    uint64_t skips_ = 0;                   // positions that claims left behind without a message
    std::vector<Atomic64*> declared_;  // rows of the declared stages
    uint64_t graph_ = 0;               // the channel's when last looked at
    std::atomic<uint32_t> added_{0};   // stages that were added later and hold us back
    std::atomic<uint32_t> first_{0};   // stages right behind the sender
    std::unique_ptr<std::atomic<uint8_t>[]> held_;
    std::atomic<uint64_t> holds_{0};
    WakerFence fence_;
    Spinner spinner_;
    Bed standby_;

    uint64_t lane_index() const noexcept { return registry.id - kMaxReceivers; }

    /// Stages were added, or have gone. The former are admitted from the next loan on, each after those it waits for.
    void look_at_graph() {
        const Graph graph(registry.file);
        uint64_t now = registry.file.header().graph.load(seq_cst);
        uint32_t gates = 0;
        for (uint32_t left = added_in(now) & ~graph.declared(); left != 0;)
            each_bit(left, [&](uint32_t s) {
                if (!(left >> s & 1)) return;
                const uint64_t stage = graph.opened(s);
                if (registry.file.stage(s).ancestors.load(relaxed) & left) return;
                if (const uint64_t g = registry.file.header().graph.load(seq_cst); g != now) {  // its record may be another's
                    now = g;
                    left = added_in(now) & ~graph.declared();
                    gates = 0;
                    return;
                }
                left &= ~(1u << s);
                if (admit(s, stage)) gates |= 1u << s;
            });
        added_.store(gates, release);
        first_.store(graph.first(), relaxed);
        graph_ = now;
    }

    /// True: the stage has a say here.
    bool admit(uint32_t s, uint64_t stage) {
        LaneRecord& lane = registry.file.lane(lane_index());
        uint64_t as = lane.admitted[s].load(relaxed);
        if ((as & ~kRefused) != generation_in(stage)) {
            if (state_in<StageState>(stage) != StageState::open) return false;
            as = generation_in(stage);
            try {
                slab_.back_row(registry.file.storage(), s);
            } catch (const Error&) {  // its members are told
                as |= kRefused;
            }
            lane.from[s].store(next_.position, release);
            lane.admitted[s].store(as, seq_cst);  // ADMIT
            registry.wake_stage(s);
        }
        return (as & kRefused) == 0;
    }

    /// Without a row: it has no say.
    Gate gate_of(uint32_t s) const noexcept {
        if (s < declared_.size()) return {declared_[s]};
        if (!(added_.load(acquire) >> s & 1)) return {};
        return registry.graph().gate(s, registry.file.lane(lane_index()), slab_);
    }

    /// Of the first `n` slots of a loan, n > 0; READY publishes them too.
    void write_side_columns(const Loan& loan, uint64_t n) noexcept {
        if (slab_.dropped != nullptr) {
            for (uint64_t i = 0; i < n; ++i) slab_.dropped[loan.slot + i].store(i == 0 ? dropped_ : 0, relaxed);
            dropped_ = 0;
        }
        if (slab_.variants != nullptr)
            for (uint64_t i = 0; i < n; ++i) slab_.variants[loan.slot + i].store(loan.variant, relaxed);
        if (slab_.stamps != nullptr) {
            const uint64_t now = sys::now_ns();
            for (uint64_t i = 0; i < n; ++i) slab_.stamps[loan.slot + i].store(now, relaxed);
        }
    }

    /// Makes sure that `n` slots from next_ on may be written, and claims them.
    bool look_ahead(uint64_t n) {
        if (next_.lap >= kMaxLap)
            fail(Errc::invalid, "this sender has used up its 2^40 laps of " + std::to_string(slab_.capacity) +
                                    " slots; close it and open it again");
        const uint64_t need = next_.position + n;
        if (need <= free_until_) return true;
        Cursor c = Cursor::at(std::max(free_until_, next_.position), slab_.first, slab_.capacity);
        const uint64_t most = std::max(need, std::min(c.position + window_, next_.position + slab_.capacity));
        while (c.position < most) {
            const uint64_t run = free_run(c, std::min(most - c.position, slab_.capacity - c.slot));
            if (run == 0) break;
            c.advance(slab_.capacity, run);
        }
        if (c.position > free_until_) {
            if (skipped_.load(relaxed)) [[unlikely]]
                count_skips(c.position);
            free_until_ = c.position;
            slab_.header->claim.store(free_until_, release);  // CLAIM: before the first byte, for those who look on
            full_fence();
        }
        return need <= free_until_;
    }

    /// Tells taps how many of the positions that a claim up to `until` leaves behind have no message. They are settled.
    [[gnu::noinline, gnu::cold]] void count_skips(uint64_t until) noexcept {
        Cursor c = Cursor::at(free_until_, slab_.first, slab_.capacity);
        for (; c.position < until; c.advance(slab_.capacity))
            skips_ += slab_.ready[c.slot].load(relaxed) == word(c.lap - 1, Ready::skip);
        slab_.header->skips.store(skips_word(until, skips_), release);  // CLAIM
    }

    /// How many slots from `c` on, `most` at most and within the lap, may be written.
    uint64_t free_run(const Cursor& c, uint64_t most) const noexcept {
        uint64_t n = most;
        for (const Atomic64* row : declared_) {
            uint64_t i = 0;
            while (i < n && let_go(row[c.slot + i].load(acquire), c.lap - 1, Next::writes)) ++i;  // END
            n = i;
        }
        each_bit(added_.load(relaxed), [&](uint32_t s) {
            const Gate gate = gate_of(s);
            uint64_t i = 0;
            while (gate.row && i < n && gate.let_go(slab_, c.slot + i, c.lap - 1, Next::writes)) ++i;
            if (gate.row) n = i;
        });
        if (declared_.empty()) {  // nobody looks whether it was sent at all: own open loans
            uint64_t i = 0;
            while (i < n && lap_of(slab_.ready[c.slot + i].load(acquire)) + 1 >= c.lap) ++i;  // PUBLISH: see count_skips
            n = i;
        }
        if (holds_.load(acquire) != 0)  // after the words: a view of the sent message came before its READY
            for (uint64_t i = 0; i < n; ++i)
                if (held_[c.slot + i].load(acquire) != 0) n = i;  // OWN VIEW
        return n;
    }

    /// Stage `s`, whose ack word is `w`, has not let go message `what` of `lap`: "stage 'infer' holds it (pid 812, infer.py)"
    std::string who_holds(uint32_t s, uint64_t w, uint64_t lap, const char* what) const {
        const ChannelFile& c = registry.file;
        const std::string stage = "stage '" + load_name(c.stage(s).name) + "' ";
        if (lap_of(w) == lap && (ack_of(w) == Ack::taken || ack_of(w) == Ack::passed))
            return stage + "holds " + what + " (" + registry.describe(owner_of(w)) + ")";
        uint64_t members = 0;
        for (uint64_t i = 0; i < kMaxReceivers; ++i)
            members += registry.present(i) && c.member(i).stage.load(relaxed) == s;
        if (members == 0) return stage + "has no member";
        return stage + "has not taken " + what + " (" + std::to_string(members) + (members > 1 ? " members)" : " member)");
    }

    bool let_go_by_all(uint64_t slot, uint64_t lap, Next next) const noexcept {
        for (const Atomic64* row : declared_)
            if (!let_go(row[slot].load(acquire), lap, next)) return false;  // END
        bool all = true;
        each_bit(added_.load(relaxed), [&](uint32_t s) {
            const Gate gate = gate_of(s);
            all = all && (!gate.row || gate.let_go(slab_, slot, lap, next));
        });
        return all;
    }

    /// The slots of a loan from `n` on: rewound if they are the last, else SKIP. True when something was published.
    bool give_back(const Loan& loan, uint64_t n, bool pinned) noexcept {
        if (!pinned && loan.position + loan.count == next_.position) {
            next_ = {loan.position, loan.slot, loan.lap};
            next_.advance(slab_.capacity, n);
            return false;
        }
        skipped_.store(true, relaxed);
        for (uint64_t i = n; i < loan.count; ++i)
            slab_.ready[loan.slot + i].store(word(loan.lap, Ready::skip), release);  // PUBLISH
        return true;
    }

    void wake_receivers() noexcept {
        fence_();
        each_bit(first_.load(relaxed), [&](uint32_t s) {
            if (Atomic64& idle = registry.file.stage(s).idle; idle.load(relaxed) != 0) registry.wake_one(idle, 0);
        });
        if (wakes_taps_) registry.wake_taps();
    }

    template <class Ready, class Stop, class Peek, class Tick>
    Wait wait(uint64_t deadline, Ready&& ready, Stop&& stop, Peek&& peek, Tick&& tick) {
        return wait_for(registry, registry.file.header().senders_idle, kMaxReceivers, spinner_, deadline, ready, stop, peek,
                        [&] {
                            registry.bury_dead();
                            return tick();
                        });
    }
};

}  // namespace psyne
