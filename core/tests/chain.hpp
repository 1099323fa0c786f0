// A lane whose slabs are linked and whose words are written by hand, so that a test can stop at any step of it.
#pragma once

#include "support.hpp"

#include <deque>

namespace psyne::test {

class Chain {
public:
    Home home;
    std::unique_ptr<Sender> tx;  // has the lane, sends nothing
    ChannelFile file;
    std::deque<Slab> slabs;  // by number; empty once it is retired
    uint64_t next = 0;       // position

    explicit Chain(const ChannelSpec& kind = spec(Pattern::mpmc), const Options& o = {})
        : tx(sender(home, kind, o)), file(*find_channel(home.directory, "test")), columns_{false, o.variants, o.stamps} {
        index_ = tx->registry.id - kMaxReceivers;
        join_ = tx->registry.join();
        lane().grows.store(1, seq_cst);
        slabs.push_back(Slab::attach(file.storage(), {index_, join_, 0, 0}, file.shape.payload_bytes, true, sys::Populate::yes));
    }

    LaneRecord& lane() const { return file.lane(index_); }
    uint64_t join() const { return join_; }
    /// kMaxSlabs: there is none.
    uint64_t free_cell() const {
        uint64_t cell = 0;
        while (cell < kMaxSlabs && lane().slabs[cell].slab.load(seq_cst) != 0) ++cell;
        return cell;
    }

    /// Makes a slab that begins here and stands in its cell. Nobody is led to it yet.
    Slab& make(uint64_t capacity = 8, uint64_t most = 0) {
        const uint64_t bytes = file.shape.payload_bytes, cell = free_cell();
        CHECK(cell < kMaxSlabs);
        SideColumns columns = columns_;
        columns.extents = most != 0;
        slabs.push_back(Slab::create(file.storage(), {index_, join_, cell, slabs.size()},
                                     {bytes, bytes, capacity, file.shape.stage_count, columns, most}));
        slabs.back().begin_at(next);
        for (uint32_t s = 0; s < kMaxStages; ++s)
            if (lane().admitted[s].load(seq_cst) != 0) slabs.back().back_row(file.storage(), s);
        lane().slabs[cell].bytes.store(slabs.back().reserved(), seq_cst);
        lane().slabs[cell].slab.store(cell_word(join_, slabs.size() - 1), seq_cst);
        return slabs.back();
    }
    /// Closes the last slab but one.
    void close() { slabs[slabs.size() - 2].header->close.store(next + 1, seq_cst); }
    Slab& link(uint64_t capacity = 8, uint64_t most = 0) {
        make(capacity, most);
        close();
        return slabs.back();
    }

    Slab& last() { return slabs.back(); }
    Cursor at(const Slab& slab, uint64_t position) const { return Cursor::at(position, slab.first, slab.capacity); }

    /// Publishes messages whose values are their positions.
    void put(uint64_t n = 1) {
        for (; n != 0; --n) {
            const Cursor c = at(last(), next);
            std::memcpy(last().data(c.slot), &next, 8);
            if (last().stamps) last().stamps[c.slot].store(1 + next, relaxed);
            publish(Ready::ready);
        }
    }
    void skip() { publish(Ready::skip); }
    /// Positions that their sender has not published (yet).
    void leave_open(uint64_t n = 1) { next += n; }
    void publish(Ready what) {
        const Cursor c = at(last(), next++);
        last().ready[c.slot].store(word(c.lap, what), release);
    }
    /// Is the slot of the next message let go by the declared stages?
    bool room() {
        const Cursor c = at(last(), next);
        for (uint32_t s = 0; s < file.shape.stage_count; ++s)
            if (!let_go(last().row(s)[c.slot].load(acquire), c.lap - 1, Next::writes)) return false;
        return true;
    }

    bool drained(const Slab& slab) const { return tx->registry.drained(lane(), slab); }
    /// As a sender does with a slab that was let go by all.
    void retire(Slab& slab) {
        slab.header->claim.store(~0ull, seq_cst);
        full_fence();
        slab.give_back_payload();
        file.storage().remove(slab.place);
        lane().slabs[slab.place.cell].slab.store(0, seq_cst);
        slab = Slab{};
    }
    /// All closed slabs that may be; how many.
    uint64_t retire_drained() {
        uint64_t n = 0;
        for (Slab& slab : slabs)
            if (slab && slab.end() != ~0ull && drained(slab)) retire(slab), ++n;
        return n;
    }

    void end() {
        lane().end.store(next + 1, seq_cst);
        lane().state.store(stated(join_, LaneState::ended), seq_cst);
        tx->registry.wake_everybody();
    }
    /// As if its process was killed.
    void lose(Registry& undertaker) {
        if (kThreadSanitizer) {  // its mapping of the channel is everybody's, and keeps its life lock: see one_mapping.hpp
            undertaker.count_lost();
            lane().state.store(stated(join_, LaneState::lost), seq_cst);
            return;
        }
        tx.reset();
        CHECK(undertaker.bury_dead());
    }

private:
    uint64_t index_ = 0, join_ = 0;
    SideColumns columns_;
};

/// Takes one by one what must be there: positions from `first` to `last`.
inline void expect(Receiver& r, uint64_t first, uint64_t last) {
    for (uint64_t p = first; p <= last; ++p) CHECK_EQ(take_value(r), p);
}

}  // namespace psyne::test
