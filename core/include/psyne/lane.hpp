// A lane as one receiver sees it in one slab: where it stands, and what it may take next.
#pragma once

#include <algorithm>
#include <vector>

#include <psyne/graph.hpp>

namespace psyne {

struct LaneReader {
    uint64_t index = 0, join = 0;
    const LaneRecord* record = nullptr;
    Slab slab;
    Cursor next;                    // the first position not seen taken
    uint64_t from = 0;              // the first position that is for this stage
    Atomic64* own = nullptr;        // this stage's ack words
    std::vector<Gate> before;       // the stages to wait for
    Next waits_as = Next::reads;    // how this stage waits for them
    bool plain = false;             // no stage before, one type, no extents: what is published may be taken
    bool alone = false;             // no stage before, and nobody else takes
    bool over = false;              // nothing more can come
    // Messages taken (by the one who receives) and ended (by the one who releases).
    std::atomic<uint64_t> taken{0}, ended{0};

    uint64_t outstanding() const noexcept { return taken.load(relaxed) - ended.load(acquire); }  // SETTLE

    bool is(LaneState s) const noexcept { return record->state.load(seq_cst) == stated(join, s); }
    /// Its files are removed, or another sender's lane has its place.
    bool removed() const noexcept { return !is(LaneState::open) && !is(LaneState::ended) && !is(LaneState::lost); }
    /// The slab is read up to its close: what comes next lies in the next one.
    bool closed_here() const noexcept { return next.position >= slab.end(); }

    /// Nothing more comes behind the cursor.
    bool at_end() const noexcept {
        if (is(LaneState::open)) return false;
        if (is(LaneState::ended)) return next.position + 1 >= record->end.load(seq_cst);
        if (is(LaneState::lost))
            return slab.end() == ~0ull && lap_of(published()) < next.lap && published_behind().position == next.position;
        return true;  // removed: let go by all
    }

    uint64_t published() const noexcept { return slab.ready[next.slot].load(acquire); }  // PUBLISH

    /// Have all stages before let go this slot? `drop`: one of them took the message out.
    bool let_go_before(uint64_t slot, uint64_t lap, bool& drop) const noexcept {
        for (const Gate& gate : before) {
            if (!gate.let_go(slab, slot, lap, waits_as)) return false;
            drop = drop || gate.dropped(slot, lap);
        }
        return true;
    }

    /// Is a word of ours about a message that is for us? What a stage that had this row before left behind is not.
    bool ours(uint64_t slot, uint64_t w) const noexcept { return from == 0 || slab.position(slot, lap_of(w)) >= from; }

    /// In a shared stage: moves the cursor behind what other members took, perhaps laps ago.
    bool pass_taken() noexcept {
        const uint64_t w = own[next.slot].load(acquire);
        if (lap_of(w) < next.lap) return false;
        next = Cursor::at(slab.position(next.slot, lap_of(w)) + 1, slab.first, slab.capacity);
        return true;
    }

    /// Are two slots of one type? A run of messages is.
    bool alike(uint64_t a, uint64_t b) const noexcept {
        if (slab.extents != nullptr && a != b && (slab.extents[a].load(relaxed) != 0 || slab.extents[b].load(relaxed) != 0)) return false;
        return slab.variants == nullptr || slab.variants[a].load(relaxed) == slab.variants[b].load(relaxed);
    }

    /// Is there something at the cursor?
    bool more() const noexcept {
        bool drop = false;
        return lap_of(published()) == next.lap && let_go_before(next.slot, next.lap, drop);
    }

    /// Of a slab that was passed: nothing there can come back to this stage any more.
    bool settled() const noexcept {
        for (uint64_t s = 0; s < slab.capacity; ++s)
            if (const uint64_t w = own[s].load(acquire); (ack_of(w) == Ack::taken || ack_of(w) == Ack::orphan) && ours(s, w))
                return false;
        return true;
    }

    /// Messages that were sent and that this stage has not taken.
    uint64_t waiting() const noexcept {
        uint64_t n = 0;
        for (uint64_t s = 0; s < slab.capacity; ++s) {
            const uint64_t w = slab.ready[s].load(relaxed), lap = lap_of(w);
            n += w == word(lap, Ready::ready) && lap_of(own[s].load(relaxed)) < lap && ours(s, w);
        }
        return n;
    }

    /// What a stage has taken is a prefix of the lane: the next is behind the highest position that it took.
    Cursor behind_all_taken() const noexcept {
        uint64_t position = std::max(slab.first, from);
        for (uint64_t s = 0; s < slab.capacity; ++s)
            if (const uint64_t lap = lap_of(own[s].load(acquire)); lap != 0)
                position = std::max(position, slab.position(s, lap) + 1);
        return Cursor::at(position, slab.first, slab.capacity);
    }

    /// The first published position behind the cursor within one ring, or the cursor itself.
    Cursor published_behind() const noexcept {
        Cursor q = next;
        for (uint64_t i = 1; i < slab.capacity; ++i) {
            q.advance(slab.capacity);
            if (lap_of(slab.ready[q.slot].load(acquire)) == q.lap) return q;
        }
        return next;
    }
};

/// `count` consecutive messages of one lane, taken by a receiver.
struct Taken {
    LaneReader* lane = nullptr;
    uint64_t slot = 0, lap = 0, count = 0, deaths = 0;
    std::byte* data = nullptr;
    uint64_t variant() const noexcept { return lane->slab.variants ? lane->slab.variants[slot].load(relaxed) : 0; }
    uint64_t stamp() const noexcept { return lane->slab.stamps ? lane->slab.stamps[slot].load(relaxed) : 0; }
    uint64_t remote() const noexcept { return lane->slab.remote ? lane->slab.remote[slot].load(relaxed) : 0; }
    /// Bytes that each message may use where `data` is, whatever its word says by now.
    uint64_t room() const noexcept { return data == lane->slab.at(slot) ? lane->slab.room : lane->slab.room_beside(slot); }
    uint64_t position() const noexcept { return lane->slab.position(slot, lap); }
};

}  // namespace psyne
