// One ring: the slots of a slab, as the one sees them who writes there.
//
//          lent, published or not                 free: let go by all stages
//   ──┬──────────────────────────────┬──────────────────────┬──────────────────
//     next − capacity                next                   free_until = claim: looked at, and claimed
//
// A lane is one ring, or a chain of them (dynamic_ring_buffer.hpp).
#pragma once

#include <algorithm>
#include <memory>

#include <psyne/graph.hpp>
#include <psyne/slab.hpp>

namespace psyne {

class RingBuffer;

/// `count` consecutive slots being written.
struct Loan {
    uint64_t position = 0, slot = 0, lap = 0, count = 0;
    std::byte* data = nullptr;
    uint64_t variant = 0;        // what is written there, in channels of several types
    RingBuffer* ring = nullptr;  // that has them
    uint64_t room = 0;           // bytes that each message may use
};

/// The stages that hold the sender of a lane back: those declared with the channel, and of those added later the mask.
struct Gates {
    const ChannelFile* file = nullptr;
    uint64_t lane = 0;
    std::atomic<uint32_t> added{0};

    uint32_t declared() const noexcept { return file->shape.stage_count; }
    /// Without a row: it has no say.
    Gate gate(uint32_t s, const Slab& slab) const noexcept {
        if (s < declared()) return {slab.row(s)};
        if (!(added.load(acquire) >> s & 1)) return {};
        return Graph(*file).gate(s, file->lane(lane), slab);
    }
};

class RingBuffer {
public:
    Slab slab;
    Cursor next;  // the next slot to lend
    std::vector<uint64_t> extent_pages;  // bytes that have pages beside each slot
    bool sums_drops = false;             // each message says how many were dropped before it in all, for taps that miss some

    RingBuffer(Slab mapped, const Gates& gates) : slab(std::move(mapped)), gates_(gates) {
        held_ = std::make_unique<std::atomic<uint8_t>[]>(slab.capacity);
        window_ = std::clamp<uint64_t>(slab.capacity / 8, 1, 64);
        for (uint32_t s = 0; s < gates_.declared(); ++s) declared_.push_back(slab.row(s));
        side_columns_ = slab.dropped || slab.variants || slab.stamps;
        if (slab.extents) extent_pages.resize(slab.capacity);
        begin_at(slab.first);
    }

    /// Where it begins in its lane.
    void begin_at(uint64_t position) noexcept {
        slab.begin_at(position);
        next = {position, 0, 1};
        free_until_ = position;
    }

    /// May `n` consecutive slots from `next` on, within the lap, be written?
    bool claimed(uint64_t n) const noexcept { return next.position + n <= free_until_; }
    /// If they are not yet, claims them, and some more.
    bool claim(uint64_t n) { return claimed(n) || look_ahead(next.position + n); }
    /// They are lent.
    void lend(uint64_t n, Loan& loan) noexcept {
        loan = {next.position, next.slot, next.lap, n, slab.at(next.slot), 0, this, slab.room};
        next.advance(slab.capacity, n);
    }
    /// The slots that are left in this lap become SKIP.
    void skip_rest() noexcept {
        skipped_.store(true, relaxed);
        for (; next.slot != 0; next.advance(slab.capacity))
            slab.ready[next.slot].store(word(next.lap, Ready::skip), release);  // PUBLISH
    }
    /// Is the message half a ring ago let go, so that as much is free?
    bool let_go_half() const noexcept {
        const uint64_t half = slab.capacity / 2;
        if (next.position - slab.first < half) return true;
        const bool here = next.slot >= half;  // in this lap
        return let_go_by_all(here ? next.slot - half : next.slot + slab.capacity - half, here ? next.lap : next.lap - 1, Next::writes);
    }
    /// Consecutive slots that are left in this lap.
    uint64_t rest_of_lap() const noexcept { return slab.capacity - next.slot; }

    /// Publishes the first `n` slots of a loan, in order. `dropped`: messages that were not sent just before.
    void publish(const Loan& loan, uint64_t n, uint64_t& dropped) noexcept {
        prepare(loan, n, dropped);
        publish(loan, n);
    }
    /// All of that but the words.
    void prepare(const Loan& loan, uint64_t n, uint64_t& dropped) noexcept {
        if (side_columns_ && n != 0) [[unlikely]]
            write_side_columns(loan, n, dropped);
    }
    /// The words alone, from any thread. A closed ring may be gone after the last one.
    void publish(const Loan& loan, uint64_t n) const noexcept {
        const uint64_t published = word(loan.lap, Ready::ready);
        for (uint64_t i = 0; i < n; ++i) slab.ready[loan.slot + i].store(published, release);  // PUBLISH
    }
    /// The slots of a loan from `n` on: rewound if they are the last, else SKIP. True when something was published.
    bool give_back(const Loan& loan, uint64_t n, bool pinned) noexcept {
        if (!pinned && loan.position + loan.count == next.position && !closed()) {
            next = {loan.position, loan.slot, loan.lap};
            next.advance(slab.capacity, n);
            return false;
        }
        skipped_.store(true, relaxed);
        for (uint64_t i = n; i < loan.count; ++i)
            slab.ready[loan.slot + i].store(word(loan.lap, Ready::skip), release);  // PUBLISH
        return true;
    }
    /// Open loans become SKIP.
    void skip_open_loans() noexcept {
        for (Cursor c = oldest(); c.position < next.position; c.advance(slab.capacity))
            if (lap_of(slab.ready[c.slot].load(relaxed)) < c.lap)
                slab.ready[c.slot].store(word(c.lap, Ready::skip), release);
    }

    /// Nothing is lent here any more: the lane goes on in the next slab.
    bool closed() const noexcept { return slab.header->close.load(relaxed) != 0; }

    /// Own views on a committed slot: it is not lent again while they live.
    void hold(uint64_t slot) noexcept {
        held_[slot].fetch_add(1, relaxed);
        holds_.fetch_add(1, relaxed);
    }
    void unhold(uint64_t slot) noexcept {
        held_[slot].fetch_sub(1, release);  // OWN VIEW
        holds_.fetch_sub(1, release);       // last: a closed ring without holds may be gone
    }
    uint64_t held() const noexcept { return holds_.load(acquire); }
    bool held(uint64_t slot) const noexcept { return held_[slot].load(acquire) != 0; }

    /// How many slots from `c` on, `most` at most and within the lap, may be written.
    uint64_t free_run(const Cursor& c, uint64_t most) const noexcept {
        uint64_t n = most;
        for (const Atomic64* row : declared_) {
            uint64_t i = 0;
            while (i < n && let_go(row[c.slot + i].load(acquire), c.lap - 1, Next::writes)) ++i;  // END
            n = i;
        }
        each_bit(gates_.added.load(relaxed), [&](uint32_t s) {
            const Gate gate = gates_.gate(s, slab);
            uint64_t i = 0;
            while (gate.row && i < n && gate.let_go(slab, c.slot + i, c.lap - 1, Next::writes)) ++i;
            if (gate.row) n = i;
        });
        if (declared_.empty()) {  // nobody looks whether it was sent at all: own open loans
            uint64_t i = 0;
            while (i < n && lap_of(slab.ready[c.slot + i].load(acquire)) + 1 >= c.lap) ++i;  // PUBLISH: see count_skips
            n = i;
        }
        if (holds_.load(acquire) != 0)  // after the words: a view of the sent message came before its READY
            for (uint64_t i = 0; i < n; ++i)
                if (held_[c.slot + i].load(acquire) != 0) n = i;  // OWN VIEW
        return n;
    }
    /// Of the next `n` slots the first that is not free was let go by all stages: only own arrays still use it.
    bool blocked_by_own_view(uint64_t n) const noexcept {
        if (holds_.load(acquire) == 0) return false;
        Cursor c = next;
        c.advance(slab.capacity, free_run(c, std::min(n, rest_of_lap())));
        return c.position < next.position + n && held(c.slot) && let_go_by_all(c.slot, c.lap - 1, Next::writes);
    }
    bool let_go_by_all(uint64_t slot, uint64_t lap, Next as) const noexcept {
        for (const Atomic64* row : declared_)
            if (!let_go(row[slot].load(acquire), lap, as)) return false;  // END
        bool all = true;
        each_bit(gates_.added.load(relaxed), [&](uint32_t s) {
            const Gate gate = gates_.gate(s, slab);
            all = all && (!gate.row || gate.let_go(slab, slot, lap, as));
        });
        return all;
    }

    /// Calls `f(cursor)` for each position that was lent and whose slot was not lent again.
    template <class F>
    void each_lent(F&& f) const {
        for (Cursor c = oldest(); c.position < next.position; c.advance(slab.capacity)) f(c);
    }
    /// The lap in which a slot was lent last.
    uint64_t lap_lent(uint64_t slot) const noexcept { return slot < next.slot ? next.lap : next.lap - 1; }
    bool published(const Cursor& c) const noexcept { return lap_of(slab.ready[c.slot].load(acquire)) >= c.lap; }
    /// Every stage has passed all that was sent.
    bool passed() const noexcept {
        bool all = true;
        each_lent([&](const Cursor& c) { all = all && (!published(c) || let_go_by_all(c.slot, c.lap, Next::reads)); });
        return all;
    }
    /// Every stage has taken the message that was lent last, and so all before it. One was lent.
    bool last_taken_by_all() const noexcept {
        const Cursor c = Cursor::at(next.position - 1, slab.first, slab.capacity);
        for (const Atomic64* row : declared_)
            if (lap_of(row[c.slot].load(acquire)) < c.lap) return false;
        bool all = true;
        each_bit(gates_.added.load(relaxed), [&](uint32_t s) {
            const Gate gate = gates_.gate(s, slab);
            all = all && (!gate.row || lap_of(gate.word(c.slot)) >= c.lap || gate.let_go(slab, c.slot, c.lap, Next::reads));
        });
        return all;
    }
    /// Slots that somebody still has to read, or holds; own views count.
    uint64_t occupied() const noexcept {
        uint64_t left = 0;
        each_lent([&](const Cursor& c) { left += held(c.slot) || !let_go_by_all(c.slot, c.lap, Next::writes); });
        return left;
    }

private:
    const Gates& gates_;
    uint64_t free_until_ = 0;  // positions below are let go by all, and claimed
    uint64_t window_ = 1;      // how far to claim ahead
    bool side_columns_ = false;        // there is one
    std::atomic<bool> skipped_{false};  // there was a SKIP
    uint64_t skips_ = 0;                // positions that claims left behind without a message
    std::vector<Atomic64*> declared_;   // rows of the declared stages
    std::unique_ptr<std::atomic<uint8_t>[]> held_;
    std::atomic<uint64_t> holds_{0};

    Cursor oldest() const noexcept {
        return Cursor::at(next.position - std::min(next.position - slab.first, slab.capacity), slab.first, slab.capacity);
    }

    /// Makes sure that slots up to the position `need` may be written, and claims them.
    [[gnu::noinline]] bool look_ahead(uint64_t need) {
        if (next.lap >= kMaxLap)
            fail(Errc::invalid, "this sender has used up its 2^40 laps of " + std::to_string(slab.capacity) +
                                    " slots; close it and open it again");
        Cursor c = Cursor::at(std::max(free_until_, next.position), slab.first, slab.capacity);
        const uint64_t most = std::max(need, std::min(c.position + window_, next.position + slab.capacity));
        while (c.position < most) {
            const uint64_t run = free_run(c, std::min(most - c.position, slab.capacity - c.slot));
            if (run == 0) break;
            c.advance(slab.capacity, run);
        }
        if (c.position > free_until_) {
            if (skipped_.load(relaxed)) [[unlikely]]
                count_skips(c.position);
            free_until_ = c.position;
            slab.header->claim.store(free_until_, release);  // CLAIM: before the first byte, for those who look on
            full_fence();
        }
        return need <= free_until_;
    }

    /// Tells taps how many of the positions that a claim up to `until` leaves behind have no message. They are settled.
    [[gnu::noinline, gnu::cold]] void count_skips(uint64_t until) noexcept {
        Cursor c = Cursor::at(free_until_, slab.first, slab.capacity);
        for (; c.position < until; c.advance(slab.capacity))
            skips_ += slab.ready[c.slot].load(relaxed) == word(c.lap - 1, Ready::skip);
        slab.header->skips.store(skips_word(until, skips_), release);  // CLAIM
    }

    /// Of the first `n` slots of a loan, n > 0; READY publishes them too.
    void write_side_columns(const Loan& loan, uint64_t n, uint64_t& drops) noexcept {
        if (slab.dropped != nullptr) {
            for (uint64_t i = 0; i < n; ++i) slab.dropped[loan.slot + i].store(i == 0 || sums_drops ? drops : 0, relaxed);
            if (!sums_drops) drops = 0;
        }
        if (slab.variants != nullptr)
            for (uint64_t i = 0; i < n; ++i) slab.variants[loan.slot + i].store(loan.variant, relaxed);
        if (slab.stamps != nullptr) {
            const uint64_t now = sys::now_ns();
            for (uint64_t i = 0; i < n; ++i) slab.stamps[loan.slot + i].store(now, relaxed);
        }
    }
};

}  // namespace psyne
